"""Cut texts into sentences and words, each with its span in the text as the author wrote it.

sentencex says where sentences end; what the words in them are, an expression that the library
`tokenizers` matches. Where the compiled loops are at hand (`han.native`), they find the words and
look up their ids instead, some forty times as fast. They find exactly the same: they follow the
expression case by case, and the library itself tells what each character is (a letter, a number,
...) when it is first met. The rare text with a character that this cannot be told of, because in
lower case it is several or the expression takes it for another one, is left to the library.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import accumulate, chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import sentencex
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from han import native

UNKNOWN_WORD = "<unk>"
"""The vocabulary's entry 0. No text contains it as a word: `<` and `>` are words of their own."""

Integers: TypeAlias = npt.NDArray[np.int32]
Spans: TypeAlias = npt.NDArray[np.int32]

# ISO 639-1, and the three-letter codes that sentencex maps to the rules of a related language.
# It takes any other code for English without a word.
_LANGUAGES = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da
de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz
ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln
lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi
pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th
ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
aae abs ace acm ady aeb aln als alt ami anp apc arn arq ary arz ast atj avk awa azb ban bar bbc
bcc bci bdr bew bgn bjn blk bpy bqi btm bug bxr cdo cpx crh csb dsb dtp dty dua egl eml ext fit
fon frc frp frr fur gag gan gcf gcr gld glk gom gor gsw guc hak hif hke hrx hsb hsn hyw iba inh
jut kaa kab kbd kbp kea kge khw kiu kjh kjp koi krc krl ksh ksw kum lad lbe lez lij liv ljp lki
lld lmo lrc ltg lua luz lzh lzz mad mag mai mdf mhr min mnw mrj mui mwl myv mzn nah nan nap nds
nia nrm nyo olo pcd pdc pdt pfl pms pnt pwn qug rgn rmy rsk rue rup ruq rut sah scn sdc sdh ses
sgs shi shy sjd skr sli sma smn srn sro stq sty szl szy tay tcy tet trv ttj tyv udm vec vep vls
vmf vmw vot vro wls wuu xal xmf yue
"""

# What ends a sentence whatever stands around it, and is no word.
_BREAK = re.compile(r"(<br\s*/?>|\n\s*\n|\r\s*\r|\u2029)", re.IGNORECASE)
_BREAK_WITHIN_LINE = re.compile(r"(<[Bb][Rr]\s*/?>)")  # one first character: faster to look for
_SURROGATE = re.compile("[\ud800-\udfff]")

# Sets of characters, in the dialect of Oniguruma.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_FIRST = rf"[\p{{L}}\p{{N}}&&[^{_UNSPACED}]]"
_INNER = rf"[\p{{L}}\p{{N}}\p{{M}}\p{{Cf}}&&[^{_UNSPACED}]]"
_SPACE = r"\s\x{1C}-\x{1F}"  # as Python has it
_EMOJI = r"\p{Extended_Pictographic}"
_MODIFIER = r"[\p{M}\x{1F3FB}-\x{1F3FF}\x{E0020}-\x{E007F}]"
_OF_CONTRACTION = "(?i:['nstmdrevl])"  # what `n't` and the like are spelled with
_KINDS = (f"[{_SPACE}]", _FIRST, _INNER, r"\p{N}", r"\p{M}", _EMOJI, _MODIFIER)  # as in words.cpp


def _word_pattern() -> str:
    """Return the expression whose matches are the words of a sentence.

    `end_of_word` in native/words.cpp follows it case by case.
    """
    emoji = f"{_EMOJI}{_MODIFIER}*"
    return "|".join(
        (
            # Contractions as the Penn Treebank and GloVe have them: do|n't, it|'s.
            rf"(?={_FIRST}{_INNER}*+'){_FIRST}{_INNER}*?(?=(?i:n't)(?!{_INNER}))",
            rf"(?i:n't|'(?:s|m|d|re|ve|ll))(?!{_INNER})",
            r"\p{N}++(?:[.,:]\p{N}++)+",  # 1,000 and 3.5 and 10:30
            rf"(?:{_FIRST}\.){{2,}}",  # U.S. and z.B.
            rf"{_FIRST}{_INNER}*+",
            r"[\x{1F1E6}-\x{1F1FF}]{2}",  # a flag
            rf"{emoji}(?:\x{{200D}}{emoji})*",
            r"\.\.\.",
            "--",
            # Anything else. In scripts written without spaces each character is a word.
            rf"[^{_SPACE}]\p{{M}}*",
        )
    )


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """A text's sentences and words. Spans are half-open, in Unicode code points of the text.

    Attributes:
        sentence_spans: int32 (S, 2), increasing and disjoint, without the white space around.
        word_spans: int32 (N, 2), increasing and disjoint, each within its sentence.
        words_per_sentence: int32 (S,), each at least 1, sums to N.
        cut: Spans of what was left out because of a limit; empty if nothing was.
    """

    sentence_spans: Spans
    word_spans: Spans
    words_per_sentence: Integers
    cut: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tokenizer:
    """Find the sentences and words of texts.

    A sentence ends where sentencex says so for the language, at a blank line and at an HTML
    `<br>`. Words are runs of letters and digits, single characters in scripts that are written
    without spaces, emoji, and punctuation marks; English contractions fall into two words (`do`
    `n't`). Each character that is neither white space nor part of a `<br>` is in exactly one word.

    Args:
        language: ISO 639 code of the texts' language, for the rules by which sentences end.
        lowercase: Whether words that differ in upper and lower case only are the same word.
        max_sentences: Most sentences read of a text; all by default.
        max_words_per_sentence: Most words read of a sentence; all by default.
    """

    language: str = "en"
    lowercase: bool = True
    max_sentences: int | None = None
    max_words_per_sentence: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            ValueError: The language is unknown or a limit is below 1.
        """
        if self.rules not in _LANGUAGES.split():
            raise ValueError(
                f"`language` {self.language!r} is unknown; give an ISO 639 code such as "
                "'en', 'de', 'ko', 'zh' or 'ar'."
            )
        for name in ("max_sentences", "max_words_per_sentence"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"`{name}` must be at least 1, or None for no limit, got {limit}.")

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments, values that JSON can hold."""
        return asdict(self)

    def split_sentences(self, text: str) -> list[tuple[int, int]]:
        """Return the spans of the text's sentences, without the white space around them."""
        return self._cut(text).sentence_spans()

    def _cut(self, text: str) -> _Pieces:
        text = _encodable(text)
        one_line = not ("\n" in text or "\r" in text or "\u2029" in text)
        rules = self.rules
        lengths: list[int] = []
        for index, part in enumerate((_BREAK_WITHIN_LINE if one_line else _BREAK).split(text)):
            if index % 2:
                lengths.append(-len(part))
            elif part:
                lengths += map(len, sentencex.segment(rules, part))
        assert sum(map(abs, lengths)) == len(text), "sentencex leaves out nothing but blank lines"
        return _Pieces(text, lengths)

    def tokenize(self, text: str) -> TokenizedText:
        """Return the sentences and words of a text."""
        [(_, tokenized)] = self.encode([text], self._empty_lexicon)
        return tokenized

    def normalize(self, word: str) -> str:
        """Return a word of a text as a vocabulary has it."""
        normalized: str = self._empty_lexicon.library.normalizer.normalize_str(_encodable(word))
        return normalized

    def encode(
        self, texts: Iterable[str], lexicon: Lexicon
    ) -> Iterator[tuple[Integers, TokenizedText]]:
        """Yield, text by text, the id of each word, int32 (N,), and the words themselves.

        Args:
            texts: The texts.
            lexicon: The words that have an id, with the same `lowercase`.
        """
        for batch in batches(texts):
            cut = [self._cut(text) for text in batch]
            if self.max_sentences is not None:
                cut = [pieces.limited(self.max_sentences) for pieces in cut]
            for pieces, words in zip(cut, lexicon.find(cut), strict=True):
                yield self._limited(words, pieces.left_out)

    def _limited(
        self, words: _Words, left_out: tuple[tuple[int, int], ...]
    ) -> tuple[Integers, TokenizedText]:
        """Leave out the words beyond `max_words_per_sentence` and note where they were."""
        sentence_spans, num_words, word_spans, ids = words
        limit = self.max_words_per_sentence
        if limit is not None and (num_words > limit).any():
            first = np.cumsum(num_words) - num_words
            too_long = np.flatnonzero(num_words > limit)
            starts = word_spans[first[too_long] + limit, 0].tolist()
            ends = sentence_spans[too_long, 1].tolist()
            left_out = (*zip(starts, ends, strict=True), *left_out)
            kept = np.arange(len(ids)) - np.repeat(first, num_words) < limit
            ids, word_spans, num_words = ids[kept], word_spans[kept], np.minimum(num_words, limit)
        return ids, TokenizedText(sentence_spans, word_spans, num_words, left_out)

    @cached_property
    def _empty_lexicon(self) -> Lexicon:
        return Lexicon([UNKNOWN_WORD], self.lowercase)

    @property
    def rules(self) -> str:
        """The code that sentencex knows: it takes `de-DE` for English, without a word."""
        return str(self.language).replace("_", "-").split("-")[0].lower()


class _Pieces(NamedTuple):
    """A text, cut where sentences end.

    Attributes:
        text: The text, without lone surrogates.
        lengths: Of the pieces that make the text; negative where one is no part of a sentence.
        left_out: The span of the sentences beyond a limit, if there are any.
    """

    text: str
    lengths: list[int]
    left_out: tuple[tuple[int, int], ...] = ()

    def sentence_spans(self) -> list[tuple[int, int]]:
        """Return the spans of the sentences, without the white space around them."""
        spans = []
        end = 0
        for length in self.lengths:
            start, end = end, end + abs(length)
            trimmed = self.text[start:end].strip()
            if trimmed and length > 0:
                first = self.text.index(trimmed, start)
                spans.append((first, first + len(trimmed)))
        return spans

    def limited(self, max_sentences: int) -> _Pieces:
        """Leave out the sentences beyond the limit."""
        spans = self.sentence_spans()
        beyond = spans[max_sentences:]
        if not beyond:
            return self
        lengths: list[int] = []
        last_end = 0
        for start, end in spans[:max_sentences]:
            lengths += (last_end - start, end - start)
            last_end = end
        return _Pieces(self.text, lengths, ((beyond[0][0], beyond[-1][1]),))


class _Words(NamedTuple):
    """The sentences and words of a text.

    Attributes:
        sentence_spans: int32 (S, 2).
        words_per_sentence: int32 (S,).
        word_spans: int32 (N, 2).
        ids: int32 (N,).
    """

    sentence_spans: Spans
    words_per_sentence: Integers
    word_spans: Spans
    ids: Integers


class Lexicon:
    """Words that have an id, and what finds them in sentences.

    Args:
        words: The words; a word's index is its id, and the first is `<unk>`.
        lowercase: Whether words that differ in upper and lower case only are the same word.
    """

    def __init__(self, words: Sequence[str], lowercase: bool) -> None:
        self._words = words
        self._lowercase = lowercase

    @cached_property
    def library(self) -> tokenizers.Tokenizer:
        """What turns a sentence into words and their ids, of the library `tokenizers`."""
        ids = {word: index for index, word in enumerate(self._words)}
        library = tokenizers.Tokenizer(models.WordLevel(ids, UNKNOWN_WORD))
        library.normalizer = _normalizer(self._lowercase)
        library.pre_tokenizer = pre_tokenizers.Split(
            Regex(_word_pattern()), behavior="removed", invert=True
        )
        return library

    def find(self, texts: Sequence[_Pieces]) -> list[_Words]:
        """Return the sentences and words of each text."""
        ways: list[Callable[[Sequence[_Pieces]], Sequence[_Words | None]]]
        ways = [self._find_compiled, self._find_learning, self._find_with_library]
        found: list[_Words | None] = [None] * len(texts)
        for find in ways if native.library else ways[-1:]:
            rest = [pieces for pieces, words in zip(texts, found, strict=True) if words is None]
            if rest:
                now_found = iter(find(rest))
                found = [words or next(now_found) for words in found]
        return [words for words in found if words is not None]

    def _find_with_library(self, texts: Sequence[_Pieces]) -> list[_Words]:
        spans = [pieces.sentence_spans() for pieces in texts]
        encodings = self.library.encode_batch(
            [
                pieces.text[start:end]
                for pieces, of_text in zip(texts, spans, strict=True)
                for start, end in of_text
            ]
        )
        num_words = np.array([len(encoding) for encoding in encodings], dtype=np.int32)
        ids = np.fromiter(
            chain.from_iterable(encoding.ids for encoding in encodings), np.int32, num_words.sum()
        )
        word_spans = np.fromiter(
            chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings)),
            np.int32,
            2 * len(ids),
        ).reshape(-1, 2)
        sentence_spans = np.array(list(chain.from_iterable(spans)), np.int32).reshape(-1, 2)
        word_spans += np.repeat(sentence_spans[:, :1], num_words, axis=0)

        found = []
        sentence = word = 0
        for of_text in spans:
            sentences = slice(sentence, sentence + len(of_text))
            sentence = sentences.stop
            words = slice(word, word + int(num_words[sentences].sum()))
            word = words.stop
            found.append(
                _Words(
                    sentence_spans[sentences], num_words[sentences], word_spans[words], ids[words]
                )
            )
        return found

    def _find_learning(self, texts: Sequence[_Pieces]) -> list[_Words | None]:
        _alphabet(self._lowercase).learn(set().union(*(pieces.text for pieces in texts)))
        return self._find_compiled(texts)

    def _find_compiled(self, texts: Sequence[_Pieces]) -> list[_Words | None]:
        """Return None for a text with a character that the alphabet lacks."""
        assert native.library is not None
        encoded = [pieces.text.encode() for pieces in texts]
        byte_ends = np.array([0, *accumulate(map(len, encoded))], np.int64)
        piece_ends = np.array([0, *accumulate(len(pieces.lengths) for pieces in texts)], np.int64)
        num_bytes, num_pieces = byte_ends[-1], piece_ends[-1]
        lengths = np.fromiter(
            chain.from_iterable(pieces.lengths for pieces in texts), np.int32, num_pieces
        )
        alphabet = _alphabet(self._lowercase)
        codes, ends, slots = self._index
        num_sentences, num_words = np.empty((2, len(texts)), np.int32)
        sentence_spans = np.empty((num_pieces, 2), np.int32)
        words_per_sentence = np.empty(num_pieces, np.int32)
        word_spans = np.empty((num_bytes, 2), np.int32)  # no word has less than a byte
        ids = np.empty(num_bytes, np.int32)
        _call(
            native.library.han_words_find,
            ctypes.cast((ctypes.c_char_p * len(texts))(*encoded), ctypes.c_void_p),
            ctypes.c_int64(len(texts)),
            *_pointers(byte_ends, piece_ends, lengths, alphabet.kinds, alphabet.normalized),
            *_pointers(codes, ends, slots),
            ctypes.c_int64(len(slots)),
            *_pointers(num_sentences, num_words, sentence_spans, words_per_sentence),
            *_pointers(word_spans, ids),
        )
        found: list[_Words | None] = []
        for piece, sentences, byte, words in zip(
            piece_ends[:-1].tolist(),
            num_sentences.tolist(),
            byte_ends[:-1].tolist(),
            num_words.tolist(),
            strict=True,
        ):
            if sentences < 0:
                found.append(None)
                continue
            of_text, of_words = slice(piece, piece + sentences), slice(byte, byte + words)
            found.append(
                _Words(
                    sentence_spans[of_text],
                    words_per_sentence[of_text],
                    word_spans[of_words].copy(),  # most of the memory around them is not used
                    ids[of_words].copy(),
                )
            )
        return found

    @cached_property
    def _index(self) -> tuple[npt.NDArray[Any], ...]:
        """The code points of all words but `<unk>`, where each word ends, and a hash table."""
        assert native.library is not None
        known = self._words[1:]
        codes = np.frombuffer("".join(known).encode("utf-32-le"), "<u4").astype(np.uint32)
        ends = np.array([0, *accumulate(map(len, known))], np.int64)
        slots = np.zeros((1 << (2 * len(ends)).bit_length(), 2), np.int64)
        _call(
            native.library.han_words_index,
            ctypes.c_int64(len(ends)),
            *_pointers(codes, ends, slots),
            ctypes.c_int64(len(slots)),
        )
        return codes, ends, slots


class _Alphabet:
    """What the compiled loops know of each character; they know ASCII from the start.

    Args:
        lowercase: Whether texts are read in lower case.

    Attributes:
        kinds: uint8, by code point, which of the sets of characters it is in; 0 if it is not known.
        normalized: uint32, the code point that stands for it.
    """

    def __init__(self, lowercase: bool) -> None:
        self.kinds = np.zeros(0x110000, np.uint8)
        self.normalized = np.zeros(0x110000, np.uint32)
        self._normalizer = _normalizer(lowercase)
        self.learn(set(map(chr, range(128))))

    def learn(self, characters: set[str]) -> None:
        """Have the library tell what these characters are."""
        forms = {character: self._normalizer.normalize_str(character) for character in characters}
        text = "".join(sorted({form for form in forms.values() if len(form) == 1}))
        kinds = dict.fromkeys(text, 1)
        for bit, members in enumerate(_KINDS, 1):
            for member in _members(members, text):
                kinds[member] |= 1 << bit
        for member in _members(_OF_CONTRACTION, text):
            if not member.isascii():  # as U+017F stands for s
                del kinds[member]
        for character, form in forms.items():
            if form in kinds:
                self.normalized[ord(character)] = ord(form)
                self.kinds[ord(character)] = kinds[form]


@cache
def _alphabet(lowercase: bool) -> _Alphabet:
    return _Alphabet(lowercase)


def _members(of_set: str, text: str) -> str:
    """Return the text's characters that are in a set."""
    runs = pre_tokenizers.Split(Regex(f"{of_set}++"), behavior="removed", invert=True)
    return "".join(run for run, _ in runs.pre_tokenize_str(text))


def _normalizer(lowercase: bool) -> normalizers.Normalizer:
    apostrophe = normalizers.Replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    if not lowercase:
        return apostrophe
    return normalizers.Sequence([apostrophe, normalizers.Lowercase()])


def _call(function: Callable[..., int], *arguments: ctypes.c_int64 | ctypes.c_void_p) -> None:
    if function(*arguments) != 0:
        raise MemoryError(native.NO_MEMORY)


def _pointers(*arrays: npt.NDArray[Any]) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]


def _encodable(text: str) -> str:
    """Return the text with U+FFFD for lone surrogates, which have no UTF-8 form."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of about a million characters: the words in work need memory."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= 1_000_000:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _keep_threads_out_of_forks() -> None:
    """Let forked processes encode without threads, instead of with a warning from `tokenizers`."""
    variable = "TOKENIZERS_PARALLELISM"
    os.environ.setdefault(variable, "true")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: os.environ.update({variable: "false"}))


_keep_threads_out_of_forks()
