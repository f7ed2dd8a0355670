from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from han import native
from han.tokenization import Tokenizer
from han.vocabulary import EncodedText, Vocabulary

BUILDS = [name for name in native.BUILDS if native.load(name) is not None]
TEXTS = [
    "The cat sat. The dog sat too.",
    "A CAT didn\N{RIGHT SINGLE QUOTATION MARK}t sit.<br />",
    "",
    "b a b",
]


def make_vocabulary(texts: list[str] = TEXTS, tokenizer: Tokenizer | None = None) -> Vocabulary:
    return Vocabulary.build(texts, tokenizer or Tokenizer())


def words_known(vocabulary: Vocabulary, encoded: EncodedText) -> list[str]:
    return [vocabulary.words[token] for token in encoded.tokens]


class TestVocabulary:
    def test_first_word_must_be_the_unknown_one(self) -> None:
        with pytest.raises(ValueError, match="first word"):
            Vocabulary(["a", "<unk>"], Tokenizer())

    def test_no_word_may_occur_twice(self) -> None:
        with pytest.raises(ValueError, match="occurs twice"):
            Vocabulary(["<unk>", "a", "a"], Tokenizer())


class TestBuild:
    def test_words_come_by_falling_count_then_by_code_point(self) -> None:
        assert make_vocabulary().words == (
            *("<unk>", ".", "a", "b", "cat", "sat", "the"),
            *("did", "dog", "n't", "sit", "too"),
        )

    def test_case_distinguishes_words_on_demand(self) -> None:
        vocabulary = make_vocabulary(["The the THE"], Tokenizer(lowercase=False))

        assert vocabulary.words == ("<unk>", "THE", "The", "the")

    @given(texts=st.lists(st.text(st.sampled_from("abcABC .'é\u0301日😀\n")), max_size=8))
    @settings(max_examples=100, deadline=None)
    def test_counts_are_those_of_the_tokenizer(self, texts: list[str]) -> None:
        tokenizer = Tokenizer(lowercase=False)
        counts = Counter(
            text[start:end] for text in texts for start, end in tokenizer.tokenize(text).word_spans
        )

        words = Vocabulary.build(texts, tokenizer, min_count=2).words

        expected = sorted(
            (word for word, count in counts.items() if count >= 2),
            key=lambda word: (-counts[word], word),
        )
        assert words == ("<unk>", *expected)

    def test_rare_words_are_left_out(self) -> None:
        vocabulary = Vocabulary.build(["a a a b b c"], Tokenizer(), min_count=2)

        assert vocabulary.words == ("<unk>", "a", "b")

    def test_rare_words_may_be_kept_for_another_reason(self) -> None:
        asked: list[list[str]] = []

        def keep(words: Sequence[str]) -> list[str]:
            asked.append(sorted(words))
            return ["d", "never seen"]

        vocabulary = Vocabulary.build(["a a a b b c d"], Tokenizer(), min_count=2, keep=keep)

        assert asked == [["c", "d"]]
        assert vocabulary.words == ("<unk>", "a", "b", "d")

    @pytest.mark.parametrize("min_count", [0, -3])
    def test_min_count_below_one_is_an_error(self, min_count: int) -> None:
        with pytest.raises(ValueError, match=f"`min_count` must be at least 1, got {min_count}"):
            Vocabulary.build([], Tokenizer(), min_count=min_count)

    def test_texts_without_words_leave_the_unknown_one(self) -> None:
        assert make_vocabulary(["", " <br> "]).words == ("<unk>",)

    def test_text_of_the_unknown_word_adds_its_parts(self) -> None:
        assert make_vocabulary(["<unk>"]).words == ("<unk>", "<", ">", "unk")

    def test_lone_surrogates_are_taken(self) -> None:
        assert "a" in make_vocabulary(["a \ud800 b\udfff"]).words

    def test_words_cut_by_the_limits_do_not_count(self) -> None:
        texts = ["one two three. four five six. seven."]

        assert set(make_vocabulary(texts, Tokenizer(max_sentences=2)).words) == {
            *("<unk>", "one", "two", "three", "four", "five", "six", ".")
        }
        assert set(make_vocabulary(texts, Tokenizer(max_words_per_sentence=2)).words) == {
            *("<unk>", "one", "two", "four", "five", "seven", ".")
        }

    def test_texts_are_read_once_and_an_error_in_reading_comes_through(self) -> None:
        def read() -> Iterator[str]:
            yield "a"
            raise OSError("reviews.csv: gone")

        with pytest.raises(OSError, match=r"reviews\.csv: gone"):
            Vocabulary.build(read(), Tokenizer())

    @pytest.mark.parametrize("library", ["off", *BUILDS])
    def test_words_met_late_are_counted_with_and_without_compiled_loops(self, library: str) -> None:
        # Many words come both before and after the words so far have been given ids.
        numbers = [*range(6_000), *range(0, 6_000, 3), *range(4_000, 8_000)]
        texts = [f"{'Some filling. ' * 10} w{number} É{number} '{number}" for number in numbers]
        counts = Counter(
            word for number in numbers for word in (f"w{number}", f"é{number}", f"{number}")
        )
        counts.update({"some": 10 * len(texts), "filling": 10 * len(texts), ".": 10 * len(texts)})
        counts.update({"'": len(texts)})

        with mock.patch.object(native, "library", native.choose(library)[1]):
            words = Vocabulary.build(iter(texts), Tokenizer(), min_count=2).words

        assert words[1:] == tuple(
            sorted(
                (word for word, count in counts.items() if count >= 2),
                key=lambda word: (-counts[word], word),
            )
        )


class TestEncode:
    def test_ids_are_those_of_the_words_and_zero_for_others(self) -> None:
        vocabulary = make_vocabulary()

        [encoded] = vocabulary.encode(["The zebra DIDN'T sit"])

        assert words_known(vocabulary, encoded) == ["the", "<unk>", "did", "n't", "sit"]
        assert encoded.tokens.dtype == np.int32
        assert vocabulary.UNKNOWN == encoded.tokens[1] == 0

    def test_every_training_word_is_known(self) -> None:
        vocabulary = make_vocabulary()

        assert all((encoded.tokens != 0).all() for encoded in vocabulary.encode(TEXTS))

    @given(
        texts=st.lists(st.text(st.sampled_from("ab .!é\u0301日😀\ud800\n")), max_size=8),
        limit=st.none() | st.integers(1, 3),
    )
    @settings(max_examples=200, deadline=None)
    def test_text_alone_encodes_as_it_does_among_others(
        self, texts: list[str], limit: int | None
    ) -> None:
        tokenizer = Tokenizer(max_sentences=limit, max_words_per_sentence=limit)
        vocabulary = Vocabulary.build(["a b é"], tokenizer)

        together = vocabulary.encode(texts)

        assert len(together) == len(texts)
        for text, among_others in zip(texts, together, strict=True):
            [alone] = vocabulary.encode([text])
            tokenized = tokenizer.tokenize(text)
            assert among_others.cut == alone.cut == tokenized.cut
            assert (among_others.tokens == alone.tokens).all()
            assert len(alone.tokens) == len(alone.word_spans)
            for name in ("sentence_spans", "word_spans", "words_per_sentence"):
                expected = getattr(tokenized, name)
                assert np.array_equal(getattr(among_others, name), expected)
                assert np.array_equal(getattr(alone, name), expected)

    def test_texts_beyond_one_batch_stay_in_order(self) -> None:
        vocabulary = make_vocabulary(["a b c"])
        texts = [f"{'abc'[number % 3]} " * 1000 for number in range(1500)]

        encoded = vocabulary.encode(texts)

        assert [set(text.tokens) for text in encoded] == [{1}, {2}, {3}] * 500

    def test_unknown_words_name_and_lone_surrogates_are_unknown(self) -> None:
        [encoded] = make_vocabulary(["a"]).encode(["<unk> \ud800 a"])

        assert encoded.tokens.tolist() == [0, 0, 0, 0, 1]


class TestFromJson:
    @pytest.mark.parametrize("lowercase", [True, False])
    def test_what_to_json_wrote_encodes_the_same(self, lowercase: bool) -> None:
        vocabulary = make_vocabulary(
            [*TEXTS, "日本 😀 é \u2028 \x00"], Tokenizer(lowercase=lowercase)
        )

        restored = Vocabulary.from_json(vocabulary.to_json(), vocabulary.tokenizer)

        assert restored.words == vocabulary.words
        for before, after in zip(vocabulary.encode(TEXTS), restored.encode(TEXTS), strict=True):
            assert (before.tokens == after.tokens).all()

    def test_limits_may_differ(self) -> None:
        content = make_vocabulary().to_json()

        restored = Vocabulary.from_json(content, Tokenizer("de", max_sentences=1))

        assert restored.words == make_vocabulary().words

    @pytest.mark.parametrize(
        "content",
        [
            *("", "{", "[]", "{}", "null", '{"model": []}', "[" * 100_000),
            '{"model": {"vocab": {}}}',
            '{"model": {"vocab": ["<unk>"]}}',
            '{"model": {"vocab": {"a": 0}}}',
            '{"model": {"vocab": {"<unk>": "0"}}}',
            '{"model": {"vocab": {"<unk>": 1, "a": 0}}}',
            '{"model": {"vocab": {"<unk>": 0, "a": 2}}}',
            '{"model": {"vocab": {"<unk>": 0, "a": 1}}}',
        ],
    )
    def test_other_content_is_an_error(self, content: str) -> None:
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            Vocabulary.from_json(content, Tokenizer())

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("pre_tokenizer", {"type": "Whitespace"}),
            ("normalizer", None),
            ("model", {"type": "BPE", "vocab": {"<unk>": 0}, "merges": []}),
            ("added_tokens", [{"id": 1, "content": "a", "special": True}]),
            ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}}),
            ("truncation", {"max_length": 3}),
        ],
    )
    def test_tokenizer_of_another_make_is_an_error(self, field: str, value: object) -> None:
        content = {**json.loads(make_vocabulary().to_json()), field: value}

        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            Vocabulary.from_json(json.dumps(content), Tokenizer())

    def test_other_lower_casing_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="lowercase"):
            Vocabulary.from_json(make_vocabulary().to_json(), Tokenizer(lowercase=False))
