"""Cut texts into sentences and words, each with its span in the text as the author wrote it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sentencex
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

UNKNOWN_WORD = "<unk>"
"""The vocabulary's entry 0. No text contains it as a word: `<` and `>` are words of their own."""

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
_BREAK = re.compile(r"<br\s*/?>|\n\s*\n|\r\s*\r|\u2029", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")


def _word_pattern() -> str:
    """Return the expression (Oniguruma's dialect) whose matches are the words of a sentence."""
    # Scripts written without spaces: each character is a word.
    unspaced = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
    first = rf"[\p{{L}}\p{{N}}&&[^{unspaced}]]"
    other = rf"[\p{{L}}\p{{N}}\p{{M}}\p{{Cf}}&&[^{unspaced}]]"
    emoji = r"\p{Extended_Pictographic}[\p{M}\x{1F3FB}-\x{1F3FF}\x{E0020}-\x{E007F}]*"
    return "|".join(
        (
            # Contractions as the Penn Treebank and GloVe have them: do|n't, it|'s.
            rf"(?={first}{other}*+'){first}{other}*?(?=(?i:n't)(?!{other}))",
            rf"(?i:n't|'(?:s|m|d|re|ve|ll))(?!{other})",
            r"\p{N}++(?:[.,:]\p{N}++)+",  # 1,000 and 3.5 and 10:30
            rf"(?:{first}\.){{2,}}",  # U.S. and z.B.
            rf"{first}{other}*+",
            r"[\x{1F1E6}-\x{1F1FF}]{2}",  # a flag
            rf"{emoji}(?:\x{{200D}}{emoji})*",
            r"\.\.\.",
            "--",
            # Anything else that Python, too, does not take for white space.
            r"[^\s\x{1C}-\x{1F}]\p{M}*",
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
    words_per_sentence: npt.NDArray[np.int32]
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
        text = _encodable(text)
        spans = []
        paragraph_start = 0
        for paragraph_end, next_start in [
            *(found.span() for found in _BREAK.finditer(text)),
            (len(text), len(text)),
        ]:
            paragraph = text[paragraph_start:paragraph_end]
            found = sentencex.get_sentence_boundaries(self.rules, paragraph)
            # Each lasts until the next: sentencex may leave out text between two.
            starts = [0, *(boundary["start_index"] for boundary in found[1:]), len(paragraph)]
            for start, end in pairwise(starts):
                sentence = paragraph[start:end]
                trimmed = sentence.strip()
                if trimmed:
                    first = paragraph_start + start + sentence.index(trimmed)
                    spans.append((first, first + len(trimmed)))
            paragraph_start = next_start
        return spans

    def read_sentences(self, text: str) -> list[str]:
        """Return the text's sentences as far as the limits let them be read."""
        text = _encodable(text)
        if self.max_words_per_sentence is None:
            spans = self.split_sentences(text)[: self.max_sentences]
            return [text[start:end] for start, end in spans]
        read = self.tokenize(text)
        ends = read.word_spans[np.cumsum(read.words_per_sentence) - 1, 1]
        return [text[start:end] for start, end in zip(read.sentence_spans[:, 0], ends, strict=True)]

    def tokenize(self, text: str) -> TokenizedText:
        """Return the sentences and words of a text."""
        [(_, tokenized)] = self.encode([text], self._unknowing_engine)
        return tokenized

    def engine(self, ids: dict[str, int]) -> tokenizers.Tokenizer:
        """Return what turns a sentence into words and their ids.

        Args:
            ids: The id of each word, `<unk>` among them.
        """
        engine = tokenizers.Tokenizer(models.WordLevel(ids, UNKNOWN_WORD))
        normalizer: normalizers.Normalizer = normalizers.Replace(
            "\N{RIGHT SINGLE QUOTATION MARK}", "'"
        )
        if self.lowercase:
            normalizer = normalizers.Sequence([normalizer, normalizers.Lowercase()])
        engine.normalizer = normalizer
        engine.pre_tokenizer = pre_tokenizers.Split(
            Regex(_word_pattern()), behavior="removed", invert=True
        )
        return engine

    def encode(
        self, texts: Sequence[str], engine: tokenizers.Tokenizer
    ) -> Iterator[tuple[npt.NDArray[np.int32], TokenizedText]]:
        """Yield, text by text, the id of each word, int32 (N,), and the words themselves.

        Args:
            texts: The texts, which are worked on in parallel.
            engine: What `engine` returned for the vocabulary.
        """
        for batch in _batches(texts):
            yield from self._encode_batch(batch, engine)

    def _encode_batch(
        self, texts: list[str], engine: tokenizers.Tokenizer
    ) -> Iterator[tuple[npt.NDArray[np.int32], TokenizedText]]:
        all_spans = [self.split_sentences(text) for text in texts]
        read_spans = [spans[: self.max_sentences] for spans in all_spans]
        encodings = engine.encode_batch(
            [
                _encodable(text[start:end])
                for text, spans in zip(texts, read_spans, strict=True)
                for start, end in spans
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
        sentence_spans = np.array(list(chain.from_iterable(read_spans)), np.int32).reshape(-1, 2)
        word_spans += np.repeat(sentence_spans[:, :1], num_words, axis=0)

        sentence = word = 0
        for spans, read in zip(all_spans, read_spans, strict=True):
            of_text = slice(sentence, sentence + len(read))
            sentence = of_text.stop
            words = slice(word, word + int(num_words[of_text].sum()))
            word = words.stop
            yield self._limited(
                ids[words], sentence_spans[of_text], word_spans[words], num_words[of_text], spans
            )

    def _limited(
        self,
        ids: npt.NDArray[np.int32],
        sentence_spans: Spans,
        word_spans: Spans,
        num_words: npt.NDArray[np.int32],
        all_spans: list[tuple[int, int]],
    ) -> tuple[npt.NDArray[np.int32], TokenizedText]:
        """Leave out the words beyond `max_words_per_sentence` and note all that was left out."""
        cut = []
        limit = self.max_words_per_sentence
        if limit is not None and (num_words > limit).any():
            first = np.cumsum(num_words) - num_words
            for sentence in np.flatnonzero(num_words > limit):
                left_out = word_spans[first[sentence] + limit, 0]
                cut.append((int(left_out), int(sentence_spans[sentence, 1])))
            kept = np.arange(len(ids)) - np.repeat(first, num_words) < limit
            ids, word_spans, num_words = ids[kept], word_spans[kept], np.minimum(num_words, limit)
        if len(all_spans) > len(sentence_spans):
            cut.append((all_spans[len(sentence_spans)][0], all_spans[-1][1]))
        return ids, TokenizedText(sentence_spans, word_spans, num_words, tuple(cut))

    @cached_property
    def _unknowing_engine(self) -> tokenizers.Tokenizer:
        return self.engine({UNKNOWN_WORD: 0})

    @property
    def rules(self) -> str:
        """The code that sentencex knows: it takes `de-DE` for English, without a word."""
        return str(self.language).replace("_", "-").split("-")[0].lower()


def _encodable(text: str) -> str:
    """Return the text with U+FFFD for lone surrogates, which have no UTF-8 form."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
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
