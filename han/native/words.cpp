// The words of sentences and their ids: the expression in han/lexicon.py followed case by case
// over what is known of each character, and a hash table of the vocabulary.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "of several characters read at once, the first is taken to be in the lowest bits"
#endif

namespace {

// Which of the sets of characters in han/lexicon.py a character is in.
enum Kind : uint8_t {
  KNOWN = 1,
  SPACE = 2,
  FIRST = 4,
  INNER = 8,
  NUMBER = 16,
  MARK = 32,
  EMOJI = 64,
  MODIFIER = 128,
};

constexpr uint32_t ZERO_WIDTH_JOINER = 0x200D;
constexpr uint32_t FIRST_FLAG_LETTER = 0x1F1E6;

constexpr int AT_ONCE = 8;  // characters that are looked at together
constexpr uint64_t EACH = 0x0101010101010101;

static inline uint64_t load(const uint8_t *from) {
  uint64_t bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return bytes;
}

// The characters of a text. Up to `AT_ONCE` bytes after the last may be read, but are not used.
struct Characters {
  uint32_t *code;
  uint8_t *byte;  // the code, or 0x80 if that is no ASCII
  uint8_t *kind;

  void put(int64_t i, uint32_t code_of_i, uint8_t kind_of_i) const {
    code[i] = code_of_i;
    byte[i] = (uint8_t)std::min<uint32_t>(code_of_i, 0x80);
    kind[i] = kind_of_i;
  }

  bool is(int64_t i, char letter) const { return (code[i] | 0x20) == (uint32_t)letter; }
  bool is_flag_letter(int64_t i) const { return code[i] - FIRST_FLAG_LETTER < 26; }

  // The first place from `i` on that is not of the kind.
  int64_t skip(int64_t i, Kind wanted) const {
    for (;; i += AT_ONCE)
      if (const uint64_t others = ~load(kind + i) & EACH * wanted)
        return i + __builtin_ctzll(others) / 8;
  }
};

class Memory {
 public:
  explicit Memory(int64_t characters)
      : room_((size_t)characters + AT_ONCE), memory_(std::calloc(room_, sizeof(uint32_t) + 2)) {}
  ~Memory() { std::free(memory_); }
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  explicit operator bool() const { return memory_ != nullptr; }

  Characters characters() const {
    uint32_t *codes = (uint32_t *)memory_;
    uint8_t *bytes = (uint8_t *)(codes + room_);
    return {codes, bytes, bytes + room_};
  }

 private:
  size_t room_;
  void *memory_;
};

// Read UTF-8. Returns whether all characters are known.
bool read(const uint8_t *from, int64_t bytes, const uint8_t *kinds, const uint32_t *normalized,
          const Characters &to) {
  uint8_t common = KNOWN;
  const uint8_t *end = from + bytes;
  for (int64_t i = 0; from < end; i++) {
    uint32_t code = *from++;
    if (code >= 0x80) {
      const int more = code >= 0xF0 ? 3 : code >= 0xE0 ? 2 : 1;
      code &= 0x3F >> more;
      for (int k = 0; k < more; k++) code = code << 6 | (*from++ & 0x3F);
    }
    to.put(i, normalized[code], kinds[code]);
    common &= kinds[code];
  }
  return common;
}

// Where the word ends that starts at `i`; the cases come in the order of the expression. None looks
// beyond a character that it does not match: the space after a sentence ends them all.
int64_t end_of_word(const Characters &text, int64_t i) {
  const uint32_t *code = text.code;
  const uint8_t *kind = text.kind;
  int64_t end = i + 1;
  if (kind[i] & FIRST) {
    end = text.skip(end, INNER);
    if (code[end] == '\'' && text.is(end - 1, 'n') && text.is(end + 1, 't') &&
        !(kind[end + 2] & INNER))
      return end - 1 > i ? end - 1 : end + 2;  // do|n't, or n't itself
  }
  if (code[i] == '\'') {
    if ((text.is(i + 1, 's') || text.is(i + 1, 'm') || text.is(i + 1, 'd')) &&
        !(kind[i + 2] & INNER))
      return i + 2;
    if (((text.is(i + 1, 'r') && text.is(i + 2, 'e')) ||
         (text.is(i + 1, 'v') && text.is(i + 2, 'e')) ||
         (text.is(i + 1, 'l') && text.is(i + 2, 'l'))) &&
        !(kind[i + 3] & INNER))
      return i + 3;
  }
  if (kind[i] & NUMBER) {  // 3.5
    const int64_t whole = text.skip(i, NUMBER);
    int64_t number = whole;
    while ((code[number] == '.' || code[number] == ',' || code[number] == ':') &&
           kind[number + 1] & NUMBER)
      number = text.skip(number + 1, NUMBER);
    if (number > whole) return number;
  }
  if (kind[i] & FIRST) {
    int64_t initials = i;  // U.S.
    while (kind[initials] & FIRST && code[initials + 1] == '.') initials += 2;
    return initials > i + 2 ? initials : end;
  }
  if (text.is_flag_letter(i) && text.is_flag_letter(i + 1)) return i + 2;
  if (kind[i] & EMOJI) {
    end = text.skip(end, MODIFIER);
    while (code[end] == ZERO_WIDTH_JOINER && kind[end + 1] & EMOJI)
      end = text.skip(end + 2, MODIFIER);
    return end;
  }
  if (code[i] == '.' && code[i + 1] == '.' && code[i + 2] == '.') return i + 3;
  if (code[i] == '-' && code[i + 1] == '-') return i + 2;
  return text.skip(end, MARK);
}

// What a word is looked up by: its letters if they are few and ASCII, else a hash of them.
struct Key {
  uint64_t value;
  int32_t length;  // negative if the value is a hash

  Key(const Characters &text, int64_t start, int64_t end)
      : value(load(text.byte + start)), length((int32_t)(end - start)) {
    if (length < AT_ONCE) value &= ((uint64_t)1 << 8 * length) - 1;
    if (length <= AT_ONCE && !(value & 0x80 * EACH)) return;
    value = 0;
    for (int64_t i = start; i < end; i++) value = (value ^ text.code[i]) * 0x9E3779B97F4A7C15;
    length = -length;
  }

  bool says_all() const { return length >= 0; }
};

struct Slot {
  uint64_t value;
  int32_t length;
  int32_t id;  // 0 if the slot is free: the unknown word is not looked up
};

// Words and a hash table of their ids: a word lies in the slot that its key leads to or, where that
// is taken, in the first free one after it.
struct Lexicon {
  const uint32_t *codes;  // of all words but the unknown one, word after word
  const int64_t *ends;    // by id, where the word ends in `codes`
  Slot *slots;
  int64_t num_slots;  // a power of 2, more than words

  Slot &slot(const Key &key, uint64_t tries) const {
    const uint64_t mixed = (key.value ^ (uint64_t)key.length) * 0x9E3779B97F4A7C15;
    return slots[((mixed >> 32) + tries) & (uint64_t)(num_slots - 1)];
  }

  void add(const Key &key, int32_t id) {
    uint64_t tries = 0;
    while (slot(key, tries).id != 0) tries++;
    slot(key, tries) = {key.value, key.length, id};
  }

  int32_t find(const Characters &text, int64_t start, int64_t end) const {
    const Key key(text, start, end);
    for (uint64_t tries = 0;; tries++) {
      const Slot &found = slot(key, tries);
      if (found.id == 0) return 0;
      if (found.value != key.value || found.length != key.length) continue;
      if (key.says_all() || std::memcmp(codes + ends[found.id - 1], text.code + start,
                                        (size_t)(end - start) * sizeof *codes) == 0)
        return found.id;
    }
  }
};

}  // namespace

// Fill the slots, which are zero.
extern "C" int han_words_index(int64_t count, const uint32_t *codes, const int64_t *ends,
                               Slot *slots, int64_t num_slots) {
  Lexicon lexicon{codes, ends, slots, num_slots};
  const Memory memory(ends[count - 1]);
  if (!memory) return 1;
  const Characters text = memory.characters();
  for (int64_t i = 0; i < ends[count - 1]; i++) text.put(i, codes[i], KNOWN);
  for (int64_t id = 1; id < count; id++)
    lexicon.add(Key(text, ends[id - 1], ends[id]), (int32_t)id);
  return 0;
}

// Find sentences and words, and the words' ids. A text is made of pieces, which are given by their
// lengths in characters; a piece of negative length is no part of a sentence. What is written for a
// text starts at the number of its first piece (sentences) or byte (words); a text that has a
// character that is not known has -1 sentences.
extern "C" int han_words_find(const uint8_t *const *texts, int64_t count, const int64_t *byte_ends,
                              const int64_t *piece_ends, const int32_t *lengths,
                              const uint8_t *kinds, const uint32_t *normalized,
                              const uint32_t *codes, const int64_t *ends, Slot *slots,
                              int64_t num_slots, int32_t *num_sentences, int32_t *num_words,
                              int32_t *sentence_spans, int32_t *words_per_sentence,
                              int32_t *word_spans, int32_t *ids) {
  const Lexicon lexicon{codes, ends, slots, num_slots};
  int64_t longest = 0;
  for (int64_t i = 0; i < count; i++) longest = std::max(longest, byte_ends[i + 1] - byte_ends[i]);
  const Memory memory(longest);
  if (!memory) return 1;
  const Characters text = memory.characters();

  for (int64_t i = 0; i < count; i++) {
    num_sentences[i] = -1;
    if (!read(texts[i], byte_ends[i + 1] - byte_ends[i], kinds, normalized, text)) continue;
    int64_t sentence = piece_ends[i], word = byte_ends[i];
    int64_t piece_start = 0;
    for (int64_t piece = piece_ends[i]; piece < piece_ends[i + 1]; piece++) {
      int64_t start = piece_start, end = start + lengths[piece];
      piece_start += std::abs(lengths[piece]);
      while (start < end && text.kind[start] & SPACE) start++;
      while (start < end && text.kind[end - 1] & SPACE) end--;
      if (start >= end) continue;

      const int64_t first_word = word;
      const uint32_t code_after = text.code[end];
      const uint8_t kind_after = text.kind[end];
      text.put(end, ' ', SPACE);
      for (int64_t from = start, to; from < end; from = text.skip(to, SPACE)) {
        to = end_of_word(text, from);
        ids[word] = lexicon.find(text, from, to);
        word_spans[2 * word] = (int32_t)from;
        word_spans[2 * word + 1] = (int32_t)to;
        word++;
      }
      text.put(end, code_after, kind_after);
      sentence_spans[2 * sentence] = (int32_t)start;
      sentence_spans[2 * sentence + 1] = (int32_t)end;
      words_per_sentence[sentence] = (int32_t)(word - first_word);
      sentence++;
    }
    num_sentences[i] = (int32_t)(sentence - piece_ends[i]);
    num_words[i] = (int32_t)(word - byte_ends[i]);
  }
  return 0;
}
