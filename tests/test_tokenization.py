# ruff: noqa: RUF001 - the texts are to hold what looks alike
from __future__ import annotations

import ctypes
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from han import native
from han.lexicon import UNKNOWN_WORD, Lexicon
from han.tokenization import TokenizedText, Tokenizer

BUILDS = [name for name in native.BUILDS if native.load(name) is not None]

AWKWARD = [
    "👩\u200d👩\u200d👧\u200d👦",
    "👍🏽",
    "🇩🇪🇰🇷",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "1️⃣",
    "e\u0301",
    "\u0301",
    "\u200d",
    "مَرْحَبًا",
    "\u202eשלום\u202c",
    "می\u200cخواهم",
    "한국어",
    "\u1112\u1161\u11ab",
    "日本語。",
    "ไทย",
    "हिन्दी",
    "İstanbul",
    "ẞ",
    "ﬁ",
    "don't",
    "IT’S",
    "'s",
    "3,000.5",
    "U.S.",
    "...",
    "--",
    "<unk>",
    "<br />",
    "<BR>",
    "<br",
    "\r\n",
    "\r\n\r\n",
    "\n \t\n",
    "\r",
    "\x00",
    "\x1c",
    "\x85",
    "\u2028",
    "\u2029",
    "\u3000",
    "\ufeff",
    "\ud800",
    "\udfff",
    "Dr. ",
    "z. B. ",
    "End. ",
    "“Quoted. Twice!” ",
    "(",
    '"',
    " ",
    "\n\n",
]
# What the cases of the words' expression are made of, whole and torn apart.
TORN = [
    *"aNtTsrevlDM.,:'’-1٣½日ไ😀👍🇩🇪\u0301\u200d\U0001f3fd\U000e0067\u017f\u212a\u0130 ",
    *("n't", "N’T", "'re", "'VE", "'ll", "1.5", "..", "a.b.", "antidisestablishmentarianism"),
]
characters = st.one_of(st.characters(), st.characters(max_codepoint=0x7F))
texts = st.lists(
    st.one_of(st.sampled_from(AWKWARD), st.sampled_from(TORN), st.text(characters)),
    max_size=40,
).map("".join)
languages = st.sampled_from(["en", "de", "ko", "zh", "ar", "ja", "hi", "es", "my"])
tokenizers = st.builds(
    Tokenizer, language=languages, lowercase=st.booleans(), hierarchical=st.booleans()
)


def slices(text: str, spans: np.ndarray) -> list[str]:
    return [text[start:end] for start, end in spans.tolist()]


def words(text: str, tokenizer: Tokenizer | None = None) -> list[str]:
    return slices(text, (tokenizer or Tokenizer()).tokenize(text).word_spans)


def sentences(text: str, language: str = "en") -> list[str]:
    return [text[start:end] for start, end in Tokenizer(language).split_sentences(text)]


def assert_spans_are_sound(text: str, tokenized: TokenizedText) -> None:
    """Assert what every reader of the spans relies on, character by character."""
    expected = {place for place, character in enumerate(text) if not character.isspace()}
    for line_break in re.finditer(r"<br\s*/?>", text, re.IGNORECASE):
        expected -= set(range(*line_break.span()))
    covered = [place for start, end in tokenized.word_spans for place in range(start, end)]
    assert covered == sorted(expected)

    assert all(start < end for start, end in tokenized.word_spans)
    assert tokenized.words_per_sentence.sum() == len(tokenized.word_spans)
    assert len(tokenized.words_per_sentence) == len(tokenized.sentence_spans)
    last_end = 0
    ends = np.cumsum(tokenized.words_per_sentence)
    for (start, end), last, size in zip(
        tokenized.sentence_spans, ends, tokenized.words_per_sentence, strict=True
    ):
        assert last_end <= start < end
        assert size >= 1
        # Trimmed: the sentence starts with its first word and ends with its last.
        assert start == tokenized.word_spans[last - size, 0]
        assert end == tokenized.word_spans[last - 1, 1]
        last_end = end
    assert tokenized.cut == ()
    for array in (tokenized.sentence_spans, tokenized.word_spans, tokenized.words_per_sentence):
        assert array.dtype == np.int32


class TestTokenizer:
    def test_options_make_an_equal_tokenizer(self) -> None:
        limited = Tokenizer("de", lowercase=False, max_sentences=3, max_words_per_sentence=7)
        flat = Tokenizer("de", hierarchical=False, max_words_per_sentence=7)

        for tokenizer in (limited, flat):
            assert Tokenizer(**tokenizer.options()) == tokenizer

    @pytest.mark.parametrize("language", ["", "english", "Korean", "xx", "e n", "12"])
    def test_unknown_language_is_an_error_that_names_codes(self, language: str) -> None:
        with pytest.raises(ValueError, match=r"`language` .* is unknown; .* 'en', 'de', 'ko'"):
            Tokenizer(language)

    @pytest.mark.parametrize("language", ["de", "DE", "de-AT", "de_DE"])
    def test_region_and_case_of_the_language_do_not_change_its_rules(self, language: str) -> None:
        assert sentences("Siehe Abb. 3 auf S. 5 ff. im Anhang. Gut.", language) == sentences(
            "Siehe Abb. 3 auf S. 5 ff. im Anhang. Gut.", "de"
        )

    @pytest.mark.parametrize("name", ["max_sentences", "max_words_per_sentence"])
    @pytest.mark.parametrize("limit", [0, -1])
    def test_limit_below_one_is_an_error(self, name: str, limit: int) -> None:
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
            Tokenizer("en", True, **{name: limit})

    def test_sentences_cannot_be_limited_where_there_is_one(self) -> None:
        with pytest.raises(ValueError, match=r"`max_sentences` 5 .* `hierarchical` is false"):
            Tokenizer(hierarchical=False, max_sentences=5)


class TestSplitSentences:
    def test_english(self) -> None:
        text = (
            "Dr. Smith paid $3,000.50 for the U.S. edition, didn't he? "
            "“It’s a well-known book,” she said... He left at 10:30 a.m. with Mrs. Jones."
        )

        assert sentences(text) == [
            "Dr. Smith paid $3,000.50 for the U.S. edition, didn't he?",
            "“It’s a well-known book,” she said...",
            "He left at 10:30 a.m. with Mrs. Jones.",
        ]

    def test_german_abbreviations_and_ordinals(self) -> None:
        text = (
            "Das Haus, z. B. in der Straße Nr. 5, gehört Herrn Dr. Müller. Am 3. Oktober ist "
            "Feiertag, d. h. die Läden sind geschlossen! Kommst du bzw. ihr trotzdem?"
        )

        assert sentences(text, "de") == [
            "Das Haus, z. B. in der Straße Nr. 5, gehört Herrn Dr. Müller.",
            "Am 3. Oktober ist Feiertag, d. h. die Läden sind geschlossen!",
            "Kommst du bzw. ihr trotzdem?",
        ]

    def test_korean(self) -> None:
        text = "안녕하세요. 저는 서울에서 온 학생입니다. 영화가 정말 재미있었어요! 다시 볼까요?"

        assert sentences(text, "ko") == [
            "안녕하세요.",
            "저는 서울에서 온 학생입니다.",
            "영화가 정말 재미있었어요!",
            "다시 볼까요?",
        ]

    def test_chinese(self) -> None:
        text = "我昨天看了一部电影。剧情很好，演员也不错！你想看吗？票价是35.5元。"

        assert sentences(text, "zh") == [
            "我昨天看了一部电影。",
            "剧情很好，演员也不错！",
            "你想看吗？",
            "票价是35.5元。",
        ]

    def test_arabic(self) -> None:
        text = (
            "شاهدتُ الفيلم أمس. كانت القصة رائعة، والتمثيل ممتازًا! "
            "هل تريد أن تشاهده؟ ثمن التذكرة ٣٥ ريالًا."
        )

        assert sentences(text, "ar") == [
            "شاهدتُ الفيلم أمس.",
            "كانت القصة رائعة، والتمثيل ممتازًا!",
            "هل تريد أن تشاهده؟",
            "ثمن التذكرة ٣٥ ريالًا.",
        ]

    @pytest.mark.parametrize(
        "ending",
        ["<br>", "<br/>", "<BR />", "<br\n/><br>", "\n\n", "\n \t\n", "\r\n\r\n", "\r\r", "\u2029"],
    )
    def test_blank_line_and_html_line_break_end_a_sentence(self, ending: str) -> None:
        assert sentences(f"A title{ending}and the text") == ["A title", "and the text"]

    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\u2028"])
    def test_wrapped_line_does_not_end_a_sentence(self, line_end: str) -> None:
        text = f"A sentence that was{line_end}wrapped in an e-mail"

        assert sentences(text) == [text]

    @pytest.mark.parametrize("text", ["", " \t\r\n\x1c\u3000", "<br>", "\n\n<br />\n\n"])
    def test_text_without_words_has_no_sentence(self, text: str) -> None:
        assert sentences(text) == []

    @pytest.mark.parametrize("blank_line", ["\n\n", "\n\n\n\n", "\r\n\r\n", "\n \n"])
    @pytest.mark.parametrize(
        "paragraph", ["One here. And two", "没有句号。还有一句", "👍🏽 yes! no"]
    )
    def test_long_text_loses_nothing_at_blank_lines(self, blank_line: str, paragraph: str) -> None:
        text = blank_line.join([paragraph] * 3000)

        assert sentences(text) == sentences(paragraph) * 3000
        assert_spans_are_sound(text, Tokenizer().tokenize(text))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (" One. Two<br />three!\n\nFour \n", ["One. Two<br />three!\n\nFour"]),
            ("<br>One<br>", ["One"]),
            (" <br> ", []),
            ("", []),
        ],
    )
    def test_without_hierarchy_there_is_one(self, text: str, expected: list[str]) -> None:
        flat = Tokenizer(hierarchical=False)

        assert [text[start:end] for start, end in flat.split_sentences(text)] == expected
        assert slices(text, flat.tokenize(text).sentence_spans) == expected

    def test_long_sentence_without_punctuation_stays_whole(self) -> None:
        text = " ".join(f"word{number}" for number in range(2000))

        tokenized = Tokenizer().tokenize(text)

        assert slices(text, tokenized.sentence_spans) == [text]
        assert slices(text, tokenized.word_spans) == text.split()


class TestTokenize:
    @given(text=texts, tokenizer=tokenizers)
    @settings(max_examples=300, deadline=None)
    def test_spans_are_sound_for_every_text(self, text: str, tokenizer: Tokenizer) -> None:
        assert_spans_are_sound(text, tokenizer.tokenize(text))

    @pytest.mark.slow
    @given(text=texts, tokenizer=tokenizers)
    @settings(max_examples=10_000, deadline=None)
    def test_spans_are_sound_for_ten_thousand_texts(self, text: str, tokenizer: Tokenizer) -> None:
        assert_spans_are_sound(text, tokenizer.tokenize(text))

    @pytest.mark.slow
    @given(parts=st.lists(texts, min_size=1, max_size=5))
    @settings(max_examples=200, deadline=None)
    def test_spans_are_sound_for_long_texts(self, parts: list[str]) -> None:
        text = "\n\n".join(parts * (1 + 15_000 // (len("".join(parts)) + 1)))

        assert_spans_are_sound(text, Tokenizer().tokenize(text))

    @given(text=texts, sentences=st.integers(1, 4), words_of_each=st.integers(1, 4))
    @settings(max_examples=200, deadline=None)
    def test_limits_keep_a_part_and_flag_the_rest(
        self, text: str, sentences: int, words_of_each: int
    ) -> None:
        whole = Tokenizer().tokenize(text)
        limited = Tokenizer(max_sentences=sentences, max_words_per_sentence=words_of_each).tokenize(
            text
        )

        assert (limited.sentence_spans == whole.sentence_spans[:sentences]).all()
        assert (
            limited.words_per_sentence
            == np.minimum(whole.words_per_sentence[:sentences], words_of_each)
        ).all()
        kept = {tuple(span) for span in limited.word_spans.tolist()}
        for start, end in whole.word_spans.tolist():
            flagged = any(first <= start and end <= last for first, last in limited.cut)
            assert flagged != ((start, end) in kept)

    def test_cut_spans(self) -> None:
        text = "One two three. Four. Five six. Seven."

        tokenized = Tokenizer(max_sentences=2, max_words_per_sentence=2).tokenize(text)

        assert slices(text, tokenized.word_spans) == ["One", "two", "Four", "."]
        assert [text[start:end] for start, end in tokenized.cut] == ["three.", "Five six. Seven."]

    @given(text=texts, language=languages, limit=st.none() | st.integers(1, 8))
    @settings(max_examples=200, deadline=None)
    def test_without_hierarchy_words_are_the_same_in_one_sentence(
        self, text: str, language: str, limit: int | None
    ) -> None:
        whole = Tokenizer(language).tokenize(text)
        flat = Tokenizer(language, hierarchical=False, max_words_per_sentence=limit).tokenize(text)

        assert flat.word_spans.tolist() == whole.word_spans[:limit].tolist()
        assert flat.words_per_sentence.tolist() == [len(flat.word_spans)][: len(whole.word_spans)]
        ends = whole.sentence_spans[:1, 0].tolist() + whole.sentence_spans[-1:, 1].tolist()
        assert flat.sentence_spans.reshape(-1).tolist() == ends
        beyond = whole.word_spans[len(flat.word_spans) :]
        assert flat.cut == (((beyond[0, 0], beyond[-1, 1]),) if len(beyond) else ())

    def test_without_hierarchy_the_limit_of_words_is_that_of_the_text(self) -> None:
        text = "One two. Three<br />four.\n\nFive."

        tokenized = Tokenizer(hierarchical=False, max_words_per_sentence=5).tokenize(text)

        assert slices(text, tokenized.sentence_spans) == [text]
        assert slices(text, tokenized.word_spans) == ["One", "two", ".", "Three", "four"]
        assert tokenized.words_per_sentence.tolist() == [5]
        assert [text[start:end] for start, end in tokenized.cut] == [".\n\nFive."]

    def test_english_words(self) -> None:
        text = "Mrs. Jones can't pay $3,000.50 at 10:30, e.g. in the U.S. -- it’s well-known..."

        expected = (
            "Mrs . Jones ca n't pay $ 3,000.50 at 10:30 , e.g. in the U.S. -- it ’s well - known"
        )
        assert words(text) == [*expected.split(), "..."]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("don't", "do n't"),
            ("DON'T", "DO N'T"),
            ("won’t", "wo n’t"),
            ("they'll they've I'm he'd", "they 'll they 've I 'm he 'd"),
            ("n't", "n't"),
            ("O'Toole isn'ta", "O ' Toole isn ' ta"),
            ("the boys' 's", "the boys ' 's"),
        ],
    )
    @pytest.mark.parametrize("lowercase", [True, False])
    def test_contractions_fall_apart_as_in_the_penn_treebank(
        self, text: str, expected: str, lowercase: bool
    ) -> None:
        assert words(text, Tokenizer(lowercase=lowercase)) == expected.split()

    def test_korean_words_are_those_between_spaces(self) -> None:
        assert words("저는 서울에서 온 학생입니다.", Tokenizer("ko")) == [
            "저는",
            "서울에서",
            "온",
            "학생입니다",
            ".",
        ]

    def test_decomposed_korean_syllables_stay_whole(self) -> None:
        assert words("\u1112\u1161\u11ab\u1100\u116e\u11a8 x") == [
            "\u1112\u1161\u11ab\u1100\u116e\u11a8",
            "x",
        ]

    @pytest.mark.parametrize("text", ["我看了电影", "ひらがな", "カタカナ"])
    def test_characters_of_scripts_without_spaces_are_words(self, text: str) -> None:
        assert words(text) == list(text)

    def test_latin_words_and_numbers_among_chinese_stay_whole(self) -> None:
        assert words("我用Python写35.5行") == ["我", "用", "Python", "写", "35.5", "行"]

    def test_arabic_words_keep_their_marks(self) -> None:
        assert words("شاهدتُ الفيلم، ثمنه ٣٥.", Tokenizer("ar")) == [
            "شاهدتُ",
            "الفيلم",
            "،",
            "ثمنه",
            "٣٥",
            ".",
        ]

    @pytest.mark.parametrize(
        "word",
        [
            *AWKWARD[:2],
            *AWKWARD[3:6],
            "❤️",
            "👩🏽\u200d🚀",
            "e\u0301te\u0301",
            "می\u200cخواهم",
            "हिन्दी",
        ],
    )
    def test_sequence_that_shows_as_one_is_one_word(self, word: str) -> None:
        assert words(f"{word} {word}") == [word, word]

    def test_neighbouring_emoji_and_flags_are_words_each(self) -> None:
        assert words("😀😀🇩🇪🇰🇷") == ["😀", "😀", "🇩🇪", "🇰🇷"]

    @pytest.mark.parametrize("word", ["İstanbul", "ẞ", "ΟΔΟΣ", "ŉ", "\ud800", "\x00", "\ufeffa"])
    def test_word_that_changes_under_lower_casing_or_encoding_keeps_its_span(
        self, word: str
    ) -> None:
        assert "".join(words(f"a {word} b")) == f"a{word}b"

    def test_word_of_the_unknown_entry_falls_apart(self) -> None:
        assert words("<unk>") == ["<", "unk", ">"]

    @pytest.mark.slow
    @pytest.mark.parametrize("character", ["a", "1"])
    def test_endless_word_stays_whole(self, character: str) -> None:
        text = character * 11_000_000

        assert Tokenizer().tokenize(text).word_spans.tolist() == [[0, len(text)]]


def encode(
    library: ctypes.CDLL | None, texts: Iterable[str], tokenizer: Tokenizer, words: Iterable[str]
) -> list[tuple[npt.NDArray[np.int32], TokenizedText]]:
    """Encode in the compiled loops given, or without any."""
    lexicon = Lexicon([UNKNOWN_WORD, *words], tokenizer.lowercase)
    with mock.patch.object(native, "library", library):
        return list(tokenizer.encode(texts, lexicon))


def assert_all_builds_agree_with_the_library(
    texts: list[str], tokenizer: Tokenizer, every: int = 2
) -> None:
    """Assert that ids, spans and all are the same; `every` so many-th word has an id."""
    expected = encode(None, texts, tokenizer, [])
    words = {
        tokenizer.normalize(word)
        for text, (_, tokenized) in zip(texts, expected, strict=True)
        for word in slices(text, tokenized.word_spans)
    }
    known = sorted(words)[::every]
    expected = encode(None, texts, tokenizer, known)
    for build in BUILDS:
        found = encode(native.load(build), texts, tokenizer, known)
        for (ids, tokenized), (expected_ids, expected_tokenized) in zip(
            found, expected, strict=True
        ):
            assert np.array_equal(ids, expected_ids)
            assert ids.dtype == np.int32
            assert tokenized.cut == expected_tokenized.cut
            for name in ("sentence_spans", "word_spans", "words_per_sentence"):
                array, expected_array = getattr(tokenized, name), getattr(expected_tokenized, name)
                assert np.array_equal(array, expected_array)
                assert array.dtype == expected_array.dtype


@pytest.mark.skipif(not BUILDS, reason="not compiled")
class TestEncode:
    limits = st.none() | st.integers(1, 4)
    options: Mapping[str, Any] = {
        "language": languages,
        "lowercase": st.booleans(),
        "max_words_per_sentence": limits,
    }
    limited = st.builds(Tokenizer, max_sentences=limits, **options) | st.builds(
        Tokenizer, hierarchical=st.just(False), **options
    )

    @given(texts=st.lists(texts, max_size=4), tokenizer=limited)
    @settings(max_examples=300, deadline=None)
    def test_compiled_loops_find_what_the_library_finds(
        self, texts: list[str], tokenizer: Tokenizer
    ) -> None:
        assert_all_builds_agree_with_the_library(texts, tokenizer)

    @pytest.mark.slow
    @given(texts=st.lists(texts, max_size=4), tokenizer=limited)
    @settings(max_examples=5_000, deadline=None)
    def test_compiled_loops_find_what_the_library_finds_in_many_texts(
        self, texts: list[str], tokenizer: Tokenizer
    ) -> None:
        assert_all_builds_agree_with_the_library(texts, tokenizer)

    @pytest.mark.parametrize("lowercase", [True, False])
    def test_they_agree_on_the_bundled_corpus(self, lowercase: bool) -> None:
        with gzip.open(resources.files("han") / "data" / "arxiv8.jsonl.gz", "rt") as file:  # type: ignore[call-overload]
            texts = [json.loads(line)["text"] for line in file]

        assert_all_builds_agree_with_the_library(texts, Tokenizer(lowercase=lowercase))

    @pytest.mark.parametrize("lowercase", [True, False])
    @pytest.mark.parametrize(
        "code_points",
        [
            range(0x600),
            range(0x2000, 0x2200),
            range(0xE0000, 0xE0100),
            pytest.param(range(0x20000), marks=pytest.mark.slow),
        ],
        ids=["letters", "signs", "tags", "two planes"],
    )
    def test_they_agree_on_every_character(self, code_points: range, lowercase: bool) -> None:
        shapes = (
            "{0} {0}{0} a{0}b {0}.{0}. 1,{0} {0}n't n{0}t n'{0} 'l{0} '{0} a{0}t 😀{0} 😀\u200d{0}"
        )
        every = [chr(code) for code in code_points if not 0xD800 <= code < 0xE000]
        texts = [
            " ; ".join(shapes.format(character) for character in every[start : start + 16])
            for start in range(0, len(every), 16)
        ]

        assert_all_builds_agree_with_the_library(texts, Tokenizer(lowercase=lowercase), every=3)

    @pytest.mark.parametrize("lowercase", [True, False])
    def test_words_that_look_the_same_to_a_hash_table_are_told_apart(self, lowercase: bool) -> None:
        words = [
            *("a", "A", "\0", "a\0", "", "ab", "ba", "é", "è", "é" * 8, "é" * 9, "日", "abcdefgh"),
            *("abcdefghi", "abcdefgh" * 20, "abcdefgh" * 20 + "i", "-", "--", "...", "a b", "'"),
        ]
        texts = [f"{word} {word}a" for word in words]
        tokenizer = Tokenizer(lowercase=lowercase)

        expected = encode(None, texts, tokenizer, words)

        for build in BUILDS:
            found = encode(native.load(build), texts, tokenizer, words)
            assert [ids.tolist() for ids, _ in found] == [ids.tolist() for ids, _ in expected]


class TestNormalize:
    def test_word_becomes_that_of_a_vocabulary(self) -> None:
        assert Tokenizer().normalize("N’T") == "n't"
        assert Tokenizer(lowercase=False).normalize("N’T") == "N'T"
        assert Tokenizer().normalize("\ud800") == "\ufffd"


class TestThreads:
    @pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
    def test_forked_process_encodes_without_a_warning(self) -> None:
        code = """
import os
os.environ.pop("TOKENIZERS_PARALLELISM", None)
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary
vocabulary = Vocabulary.build(["a b c"] * 100, Tokenizer())
vocabulary.encode(["a b c. d e f"] * 100)
process = os.fork()
if process == 0:
    vocabulary.encode(["a b c. d e f"] * 100)
    os._exit(0)
raise SystemExit(os.waitpid(process, 0)[1])
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )

        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
