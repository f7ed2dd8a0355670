"""Find words in sentences, and their ids.

What the words are says an expression that the library `tokenizers` matches. The compiled loops,
where they are at hand (`han.native`), find the same words and look up their ids some forty times as
fast. They follow the expression case by case, and are told by the library what each character is (a
letter, a number, ...) when it is first met, so that they find exactly what the library does; a text
with a character that cannot be told of by itself, because its lower case has several or it passes
for another's, is left to the library.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from itertools import accumulate, chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from han import native

UNKNOWN_WORD = "<unk>"
"""The vocabulary's entry 0. No text contains it as a word: `<` and `>` are words of their own."""

Integers: TypeAlias = npt.NDArray[np.int32]
Spans: TypeAlias = npt.NDArray[np.int32]

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


class Pieces(NamedTuple):
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

    def limited(self, max_sentences: int) -> Pieces:
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
        return Pieces(self.text, lengths, ((beyond[0][0], beyond[-1][1]),))


class Words(NamedTuple):
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

    def joined(self) -> Words:
        """Make one sentence of them all, if there are any."""
        if not len(self.ids):
            return self
        span = np.array([[self.word_spans[0, 0], self.word_spans[-1, 1]]], np.int32)
        return self._replace(
            sentence_spans=span, words_per_sentence=np.array([len(self.ids)], np.int32)
        )


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

    def find(self, texts: Sequence[Pieces]) -> list[Words]:
        """Return the sentences and words of each text."""
        ways: list[Callable[[Sequence[Pieces]], Sequence[Words | None]]]
        ways = [self._find_compiled, self._find_learning, self._find_with_library]
        found: list[Words | None] = [None] * len(texts)
        for find in ways if native.library else ways[-1:]:
            rest = [pieces for pieces, words in zip(texts, found, strict=True) if words is None]
            if rest:
                now_found = iter(find(rest))
                found = [words or next(now_found) for words in found]
        return [words for words in found if words is not None]

    def _find_with_library(self, texts: Sequence[Pieces]) -> list[Words]:
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
                Words(
                    sentence_spans[sentences], num_words[sentences], word_spans[words], ids[words]
                )
            )
        return found

    def _find_learning(self, texts: Sequence[Pieces]) -> list[Words | None]:
        _alphabet(self._lowercase).learn(set().union(*(pieces.text for pieces in texts)))
        return self._find_compiled(texts)

    def _find_compiled(self, texts: Sequence[Pieces]) -> list[Words | None]:
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
        found: list[Words | None] = []
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
                Words(
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


def _keep_threads_out_of_forks() -> None:
    """Let forked processes encode without threads, instead of with a warning from `tokenizers`."""
    variable = "TOKENIZERS_PARALLELISM"
    os.environ.setdefault(variable, "true")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: os.environ.update({variable: "false"}))


_keep_threads_out_of_forks()
