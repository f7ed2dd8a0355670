"""Cut texts into sentences and words, each with its span in the text as the author wrote it.

sentencex says where sentences end, `han.lexicon` finds the words in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sentencex

from han.lexicon import UNKNOWN_WORD, Integers, Lexicon, Pieces, Spans, Words

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
        hierarchical: Whether words are in sentences; otherwise the same words are all in one, from
            the text's first word to its last.
        max_sentences: Most sentences read of a text; all by default.
        max_words_per_sentence: Most words read of a sentence, which is the whole text where that
            is not `hierarchical`; all by default.
    """

    language: str = "en"
    lowercase: bool = True
    hierarchical: bool = True
    max_sentences: int | None = None
    max_words_per_sentence: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            ValueError: The language is unknown, a limit is below 1, or sentences are limited where
                there is only one.
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
        if self.max_sentences is not None and not self.hierarchical:
            raise ValueError(
                f"`max_sentences` {self.max_sentences} has no meaning where `hierarchical` is "
                "false and a document is one sentence; give `max_words_per_sentence` instead."
            )

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments, values that JSON can hold."""
        return asdict(self)

    def split_sentences(self, text: str) -> list[tuple[int, int]]:
        """Return the spans of the text's sentences, without the white space around them."""
        spans = self._cut(text).sentence_spans()
        return spans if self.hierarchical or not spans else [(spans[0][0], spans[-1][1])]

    def _cut(self, text: str) -> Pieces:
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
        return Pieces(text, lengths)

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
                read = words if self.hierarchical else words.joined()
                yield self._limited(read, pieces.left_out)

    def _limited(
        self, words: Words, left_out: tuple[tuple[int, int], ...]
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
