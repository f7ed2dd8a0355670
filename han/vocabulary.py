"""Turn words into ids: the vocabulary, built from the training texts alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tokenizers

from han.lexicon import UNKNOWN_WORD, Lexicon
from han.tokenization import TokenizedText, Tokenizer, batches


@dataclass(frozen=True, eq=False)
class EncodedText(TokenizedText):
    """A text's sentences and words, and the words' ids.

    Attributes:
        tokens: int32 (N,), the id of each word; 0 where the vocabulary lacks the word.
    """

    tokens: npt.NDArray[np.int32]


class Vocabulary:
    """The words that a model knows, and their ids.

    Args:
        words: The words; a word's index is its id, and the first is `<unk>`.
        tokenizer: What finds the words of a text.

    Attributes:
        words: As given.
        tokenizer: As given.
    """

    UNKNOWN = 0

    def __init__(self, words: Sequence[str], tokenizer: Tokenizer) -> None:
        """Check the words.

        Raises:
            ValueError: `<unk>` is not the first word, or a word occurs twice.
        """
        self.words = tuple(words)
        self.tokenizer = tokenizer
        ids = {word: index for index, word in enumerate(self.words)}
        if not self.words or self.words[0] != UNKNOWN_WORD:
            raise ValueError(f"The first word of a vocabulary must be {UNKNOWN_WORD!r}.")
        if len(ids) < len(self.words):
            raise ValueError("A word occurs twice in the vocabulary; give each once.")
        self._lexicon = Lexicon(self.words, tokenizer.lowercase)

    def __len__(self) -> int:
        """Return the number of words, `<unk>` included."""
        return len(self.words)

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        tokenizer: Tokenizer,
        min_count: int = 1,
        keep: Callable[[Sequence[str]], Collection[str]] | None = None,
    ) -> Vocabulary:
        """Collect the words of the training texts, most frequent first, then by code points.

        Args:
            texts: The training texts, read once and not kept.
            tokenizer: What finds the words of a text; what its limits cut is not counted.
            min_count: How often a word must occur to be known.
            keep: Called once with the words that occur less often; returns those to know all the
                same, such as words whose meaning pretrained vectors tell.

        Raises:
            ValueError: `min_count` is below 1.
        """
        if min_count < 1:
            raise ValueError(f"`min_count` must be at least 1, got {min_count}.")
        counts = _count(texts, tokenizer)
        known = {word for word, count in counts.items() if count >= min_count}
        if keep is not None:
            rare = [word for word in counts if word not in known]
            known.update(set(rare).intersection(keep(rare)))
        words = sorted(known, key=lambda word: (-counts[word], word))
        return cls((UNKNOWN_WORD, *words), tokenizer)

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Return the sentences, words and ids of each text."""
        return [
            EncodedText(
                tokenized.sentence_spans,
                tokenized.word_spans,
                tokenized.words_per_sentence,
                tokenized.cut,
                ids,
            )
            for ids, tokenized in self.tokenizer.encode(texts, self._lexicon)
        ]

    def to_json(self) -> str:
        """Return the vocabulary as a `tokenizer.json` of the library `tokenizers`."""
        return self._lexicon.library.to_str(pretty=True)

    @classmethod
    def from_json(cls, content: str, tokenizer: Tokenizer) -> Vocabulary:
        """Return the vocabulary that `to_json` wrote.

        Args:
            content: The content of a `tokenizer.json`.
            tokenizer: A tokenizer with the options of the one that the vocabulary was built with.

        Raises:
            ValueError: The content is not such a vocabulary.
        """
        ids = _ids(content)
        vocabulary = cls(sorted(ids, key=ids.__getitem__), tokenizer)
        try:
            # Through the library, so that files of its other versions compare as well.
            same = (
                tokenizers.Tokenizer.from_str(content).to_str()
                == vocabulary._lexicon.library.to_str()
            )
        except Exception as error:  # the library raises no narrower class
            raise ValueError(f"This is no tokenizer.json ({error}); {_ADVICE}") from error
        if not same:
            raise ValueError(
                "The tokenizer.json finds words in another way than a tokenizer with "
                f"`lowercase` {tokenizer.lowercase} does; {_ADVICE}"
            )
        return vocabulary


def _count(texts: Iterable[str], tokenizer: Tokenizer) -> Counter[str]:
    """Return how often each word occurs.

    Words are counted by their ids, which is fast, and by their letters until they have one.
    """
    counts: Counter[str] = Counter()
    words = [UNKNOWN_WORD]
    lexicon = Lexicon(words, tokenizer.lowercase)
    for batch in batches(texts):
        tokens = []
        new: Counter[str] = Counter()
        encoded = tokenizer.encode(batch, lexicon)
        for text, (ids, tokenized) in zip(batch, encoded, strict=True):
            tokens.append(ids)
            spans = tokenized.word_spans[ids == Vocabulary.UNKNOWN].tolist()
            new.update(text[start:end] for start, end in spans)
        frequency = np.bincount(np.concatenate(tokens), minlength=len(words))
        for token in (np.flatnonzero(frequency[1:]) + 1).tolist():
            counts[words[token]] += int(frequency[token])
        for word, count in new.items():
            counts[tokenizer.normalize(word)] += count
        if len(counts) > 1.25 * len(words):
            words = [UNKNOWN_WORD, *counts]
            lexicon = Lexicon(words, tokenizer.lowercase)
    return counts


_ADVICE = "give the one that was written with the model, and the options of that model."


def _ids(content: str) -> dict[str, int]:
    """Return the id of each word in a `tokenizer.json`, or raise a `ValueError`."""
    try:
        ids: dict[str, int] = json.loads(content)["model"]["vocab"]
        in_order = sorted(ids.values()) == list(range(len(ids)))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"This is no tokenizer.json ({error!r}); {_ADVICE}") from error
    if not in_order or ids.get(UNKNOWN_WORD) != Vocabulary.UNKNOWN:
        raise ValueError(
            f"The ids in this tokenizer.json are not 0, 1, 2, ... from {UNKNOWN_WORD!r} on; "
            f"{_ADVICE}"
        )
    return ids
