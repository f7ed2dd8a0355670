from __future__ import annotations

import errno
import gzip
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import han.corpus.building
from han.corpus import Corpus, StoredDocuments, prepare_corpus
from han.corpus.writing import SplitWriter, as_rows
from han.documents import Document
from han.embeddings import PretrainedVectors
from han.tokenization import Tokenizer
from han.vocabulary import EncodedText, Vocabulary

TEXTS = ("Good film. I liked it.", "Bad film!", "", "A good, good end.\n\nYes.", "bad")

PACKAGE = Path(han.__file__).parent

prepare = partial(prepare_corpus, min_count=1, progress=False)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_rows(count: int = 20, **more: object) -> list[dict[str, object]]:
    return [
        {"id": f"d{i}", "text": TEXTS[i % len(TEXTS)], "label": "ab"[i % 2], **more}
        for i in range(count)
    ]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "reviews.jsonl", make_rows())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def ids(corpus: Corpus) -> dict[str, list[str]]:
    return {split: list(documents.ids) for split, documents in corpus.splits.items()}


def content(corpus: Corpus) -> dict[str, bytes]:
    """Return the bytes of every file of the store."""
    files = sorted(path for path in corpus.directory.rglob("*") if path.is_file())
    return {str(path.relative_to(corpus.directory)): path.read_bytes() for path in files}


@contextmanager
def powerless() -> Iterator[None]:
    """Take the rights of the superuser, whom no mode of a folder keeps from writing."""
    if os.geteuid() != 0:
        yield
        return
    for place in (Path(han.__file__), Path(np.__file__)):
        if not all(folder.stat().st_mode & 0o005 == 0o005 for folder in place.parents):
            pytest.skip(f"only the superuser can read {place.parent}")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestPrepareCorpus:
    def test_the_store_holds_what_the_vocabulary_encodes(self, source: Path, cache: Path) -> None:
        corpus = prepare(train=source, cache_dir=cache, validation_share=0)
        documents = corpus.splits["train"]
        assert list(documents.ids) == [row["id"] for row in make_rows()]
        assert list(documents.texts) == [row["text"] for row in make_rows()]
        assert [corpus.labels[i] for i in documents.labels] == [row["label"] for row in make_rows()]
        encoded = corpus.vocabulary.encode(list(documents.texts))
        assert documents.words_per_document.tolist() == [len(text.tokens) for text in encoded]
        tokens, words, sentences, labels = documents.gather(range(len(documents)))
        assert tokens.tolist() == [word for text in encoded for word in text.tokens]
        assert words.tolist() == [n for text in encoded for n in text.words_per_sentence]
        assert sentences.tolist() == [len(text.words_per_sentence) for text in encoded]
        assert labels.tolist() == documents.labels.tolist()

    def test_a_document_may_have_several_labels(self, tmp_path: Path, cache: Path) -> None:
        labels: list[object] = [["b", "a"], [], ["c"], ["a"]]
        rows = [{"text": "One two.", "label": label} for label in labels]
        corpus = prepare(
            train=write_rows(tmp_path / "a.jsonl", rows), cache_dir=cache, validation_share=0
        )
        documents = corpus.splits["train"]
        assert corpus.multilabel
        assert corpus.labels == ("a", "b", "c")
        assert documents.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
        assert documents.gather([2, 0])[3].tolist() == [[0, 0, 1], [1, 1, 0]]
        assert corpus.summary["train"]["classes"] == {"a": 2, "b": 1, "c": 1}

    def test_their_validation_share_leaves_one_of_each_label(
        self, tmp_path: Path, cache: Path
    ) -> None:
        labels = [["often", *(["rare"] if i % 10 == 0 else [])] if i % 4 else [] for i in range(80)]
        rows = [{"text": "One two.", "label": label} for label in [*labels, ["once"]]]
        corpus = prepare(
            train=write_rows(tmp_path / "a.jsonl", rows), cache_dir=cache, validation_share=0.25
        )
        counts = {split: of["classes"] for split, of in corpus.summary.items()}
        assert counts["train"]["once"] == 1
        assert counts["validation"] == {"often": 15, "once": 0, "rare": 1}
        none = (corpus.splits["validation"].labels == 0).all(1).sum()
        assert none == 5

    def test_one_label_and_several_do_not_mix(self, tmp_path: Path, cache: Path) -> None:
        rows = [{"text": "One two.", "label": label} for label in ("a", ["a", "b"])]
        with pytest.raises(ValueError, match=r"a\.jsonl:2: a list of labels, where a document has"):
            prepare(train=write_rows(tmp_path / "a.jsonl", rows), cache_dir=cache)

    def test_the_summary_counts(self, tmp_path: Path, cache: Path) -> None:
        rows: list[dict[str, object]] = [
            {"text": "One two. Three!", "label": "x", "split": "train"},
            {"text": "", "label": "y", "split": "train"},
            {"text": "Four. Five. Six.", "label": "y", "split": "train"},
            {"text": "no label", "label": None, "split": "train"},
            {"text": "One and two", "label": "x", "split": "test"},
        ]
        corpus = prepare(
            train=write_rows(tmp_path / "a.jsonl", rows),
            cache_dir=cache,
            validation_share=0,
            max_sentences=2,
            on_bad_row="skip",
        )
        assert corpus.summary == {
            "train": {
                "documents": 3,
                "sentences": 4,
                "words": 9,
                "unknown_words": 0,
                "empty": 1,
                "truncated": 1,
                "classes": {"x": 1, "y": 2},
                "skipped": {"empty label": 1},
            },
            "test": {
                "documents": 1,
                "sentences": 1,
                "words": 3,
                "unknown_words": 1,
                "empty": 0,
                "truncated": 0,
                "classes": {"x": 1, "y": 0},
                "skipped": {},
            },
        }
        assert corpus.splits["train"].truncated.tolist() == [False, False, True]

    def test_a_split_column_is_honoured(self, tmp_path: Path, cache: Path) -> None:
        names = ["train", "dev", "test", "train", "valid", ""]
        rows = [row | {"split": names[i % 6]} for i, row in enumerate(make_rows(24))]
        corpus = prepare(train=write_rows(tmp_path / "a.jsonl", rows), cache_dir=cache)
        assert ids(corpus) == {
            "train": [f"d{i}" for i in range(24) if i % 6 in (0, 3, 5)],
            "validation": [f"d{i}" for i in range(24) if i % 6 in (1, 4)],
            "test": [f"d{i}" for i in range(24) if i % 6 == 2],
        }

    def test_each_split_may_have_its_own_file(self, tmp_path: Path, cache: Path) -> None:
        corpus = prepare(
            train=write_rows(tmp_path / "a.jsonl", make_rows(4)),
            validation=write_rows(tmp_path / "b.jsonl", make_rows(2)),
            test=write_rows(tmp_path / "c.jsonl", make_rows(3)),
            cache_dir=cache,
        )
        assert ids(corpus) == {
            "train": ["d0", "d1", "d2", "d3"],
            "validation": ["d0", "d1"],
            "test": ["d0", "d1", "d2"],
        }

    def test_a_split_given_twice_is_refused(self, tmp_path: Path, cache: Path) -> None:
        rows = [*make_rows(2), *make_rows(1, split="test")]
        train = write_rows(tmp_path / "a.jsonl", rows)
        test = write_rows(tmp_path / "b.jsonl", make_rows(3))
        with pytest.raises(ValueError, match=r"a\.jsonl:3: this row is for test, for which .*b\.j"):
            prepare(train=train, test=test, cache_dir=cache)

    def test_a_test_file_gives_only_its_test_rows(self, tmp_path: Path, cache: Path) -> None:
        rows = [*make_rows(2, split="train"), *make_rows(3, split="test")]
        test = write_rows(tmp_path / "b.jsonl", rows)
        train = write_rows(tmp_path / "a.jsonl", make_rows(4))
        corpus = prepare(train=train, test=test, cache_dir=cache)
        assert len(corpus.splits["test"]) == 3
        assert corpus.summary["test"]["skipped"] == {"split train": 2}

    def test_a_file_without_rows_for_its_split_is_refused(
        self, tmp_path: Path, source: Path, cache: Path
    ) -> None:
        test = write_rows(tmp_path / "b.jsonl", make_rows(4, split="train"))
        with pytest.raises(ValueError, match=r"b\.jsonl: no documents for test"):
            prepare(train=source, test=test, cache_dir=cache)

    def test_vocabulary_and_labels_come_from_training_alone(
        self, tmp_path: Path, cache: Path
    ) -> None:
        rows: list[dict[str, object]] = [
            *make_rows(4),
            {"text": "only here", "label": "a", "split": "validation"},
            {"text": "and here", "label": "b", "split": "test"},
        ]
        corpus = prepare(train=write_rows(tmp_path / "a.jsonl", rows), cache_dir=cache)
        assert corpus.labels == ("a", "b")
        assert "film" in corpus.vocabulary.words
        assert not {"only", "here", "and"} & set(corpus.vocabulary.words)
        assert corpus.summary["validation"]["unknown_words"] == 2
        tokens = corpus.splits["validation"].gather([0])[0]
        assert tokens.tolist() == [Vocabulary.UNKNOWN] * 2

    def test_words_of_split_off_documents_are_not_learnt(self, tmp_path: Path, cache: Path) -> None:
        rows = [{"text": f"word{i}", "label": "ab"[i % 2]} for i in range(20)]
        corpus = prepare(train=write_rows(tmp_path / "a.jsonl", rows), cache_dir=cache)
        assert len(corpus.vocabulary) == 1 + 18
        assert not set(corpus.splits["validation"].texts) & set(corpus.vocabulary.words)

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["10", "9", "-1", "2.5"], ("-1", "2.5", "9", "10")),
            ([10, 2, 1], ("1", "2", "10")),
            (["b", "a", "C"], ("C", "a", "b")),
            (["class 10", "class 9", "x", "7"], ("7", "class 9", "class 10", "x")),
        ],
    )
    def test_labels_are_sorted_numbers_by_value(
        self, tmp_path: Path, cache: Path, names: list[object], expected: tuple[str, ...]
    ) -> None:
        rows = [{"text": "a b", "label": name} for name in names for _ in range(2)]
        train = write_rows(tmp_path / "a.jsonl", rows)
        assert prepare(train=train, cache_dir=cache).labels == expected

    def test_one_class_is_refused(self, tmp_path: Path, cache: Path) -> None:
        train = write_rows(tmp_path / "a.jsonl", [{"text": "x", "label": "a"}] * 3)
        with pytest.raises(
            ValueError, match=r"a\.jsonl: all training documents have the label 'a'"
        ):
            prepare(train=train, cache_dir=cache)

    def test_a_label_that_training_lacks_is_refused(
        self, tmp_path: Path, source: Path, cache: Path
    ) -> None:
        rows: list[dict[str, object]] = [*make_rows(2), {"text": "x", "label": "c"}]
        validation = write_rows(tmp_path / "b.jsonl", rows)
        with pytest.raises(ValueError, match=r"b\.jsonl:3: the label 'c' of this validation doc"):
            prepare(train=source, validation=validation, cache_dir=cache)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "There are no documents to prepare"),
            ({"test": "a.jsonl"}, "`train` is missing"),
            ({"train": "-"}, "Standard input cannot be prepared"),
            ({"train": "a.jsonl", "validation_share": 1.0}, "`validation_share` must be from 0"),
            ({"train": "a.jsonl", "seed": -1}, "`seed` must not be negative"),
        ],
    )
    def test_unfit_options_are_refused(
        self, cache: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            prepare(cache_dir=cache, **options)

    def test_a_missing_file_is_named(self, tmp_path: Path, cache: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: no such file"):
            prepare(train=tmp_path / "nowhere.csv", cache_dir=cache)

    @pytest.mark.parametrize(
        "options", [{"text_column": "body"}, {"label_column": "stars"}, {"keep_columns": ["date"]}]
    )
    def test_a_missing_column_is_named_with_its_file_and_option(
        self, tmp_path: Path, cache: Path, options: dict[str, Any]
    ) -> None:
        train = tmp_path / "a.csv"
        train.write_text("text,label\nx,a\n", encoding="utf-8")
        expected = (
            rf"a\.csv:1: no column '(body|stars|date)'; the columns are 'text', 'label': "
            f"set `{next(iter(options))}` to one of them"
        )
        with pytest.raises(ValueError, match=expected):
            prepare(train=train, cache_dir=cache, **options)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are those of POSIX")
    def test_a_pipe_is_refused(self, tmp_path: Path, cache: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match=r"pipe: a pipe cannot be prepared.*give a file"):
            prepare(train=tmp_path / "pipe", cache_dir=cache)

    def test_an_empty_file_is_refused(self, tmp_path: Path, cache: Path) -> None:
        with pytest.raises(ValueError, match=r"a\.jsonl.*empty|no documents"):
            prepare(train=write_rows(tmp_path / "a.jsonl", []), cache_dir=cache)

    def test_a_vocabulary_without_words_is_refused(self, source: Path, cache: Path) -> None:
        with pytest.raises(ValueError, match="No word occurs 100 times"):
            prepare(train=source, cache_dir=cache, min_count=100)

    def test_a_failure_leaves_no_store(self, source: Path, cache: Path) -> None:
        with pytest.raises(ValueError, match="No word occurs"):
            prepare(train=source, cache_dir=cache, min_count=100)
        assert not [path for path in cache.iterdir() if path.is_dir()]

    def test_extra_columns_are_kept(self, tmp_path: Path, cache: Path) -> None:
        rows = make_rows(4, stars=3, author="Zoë")
        train = write_rows(tmp_path / "a.jsonl", rows)
        corpus = prepare(train=train, cache_dir=cache, keep_columns=["stars", "author"])
        assert corpus.splits["train"].columns(1) == {"stars": 3, "author": "Zoë"}

    @pytest.mark.parametrize("count", [2**15 - 1, 2**15])  # and <unk>: stored in 2 bytes, in 4
    def test_large_vocabularies_keep_every_id(
        self, tmp_path: Path, cache: Path, count: int
    ) -> None:
        words = [f"w{i}" for i in range(count)]
        rows = [{"text": " ".join(words[i::2]), "label": str(i)} for i in (0, 1)]
        train = write_rows(tmp_path / "a.jsonl", rows)
        corpus = prepare(train=train, cache_dir=cache, validation_share=0)
        tokens = corpus.splits["train"].gather([0, 1])[0]
        assert sorted(tokens.tolist()) == list(range(1, count + 1))
        assert corpus.vocabulary.words[tokens[-1]] == words[1::2][-1]


class TestSplittingOff:
    def make(
        self, tmp_path: Path, classes: str, validation_share: float = 0.1, seed: int = 0
    ) -> Corpus:
        rows = [{"id": str(i), "text": "x y", "label": name} for i, name in enumerate(classes)]
        train = write_rows(tmp_path / "a.jsonl", rows)
        return prepare(
            train=train, cache_dir=tmp_path / "cache", validation_share=validation_share, seed=seed
        )

    def test_each_class_gives_its_share(self, tmp_path: Path) -> None:
        corpus = self.make(tmp_path, "a" * 500 + "b" * 300 + "c" * 200, validation_share=0.1)
        counts = corpus.summary["validation"]["classes"]
        assert sum(counts.values()) == 100
        assert all(abs(counts[name] - n) <= 1 for name, n in {"a": 50, "b": 30, "c": 20}.items())

    def test_every_document_is_in_one_split_in_its_order(self, tmp_path: Path) -> None:
        found = ids(self.make(tmp_path, "ab" * 50))
        numbers = {split: [int(i) for i in of_split] for split, of_split in found.items()}
        assert all(n == sorted(n) for n in numbers.values())
        assert sorted(numbers["train"] + numbers["validation"]) == list(range(100))

    @pytest.mark.parametrize("classes", ["abbbbbbbbb", "aabbc", "ab" + "c" * 5])
    @pytest.mark.parametrize("share", [0.1, 0.3])
    def test_every_class_keeps_a_document(self, tmp_path: Path, classes: str, share: float) -> None:
        corpus = self.make(tmp_path, classes, validation_share=share)
        assert all(corpus.summary["train"]["classes"].values())
        assert len(corpus.splits["validation"]) == max(1, round(share * len(classes)))

    def test_it_is_drawn_anew_for_another_seed(self, tmp_path: Path) -> None:
        first, second, third = (self.make(tmp_path, "ab" * 50, seed=seed) for seed in (0, 1, 0))
        assert ids(first) == ids(third)
        assert ids(first) != ids(second)

    def test_a_share_of_nothing_leaves_all(self, tmp_path: Path) -> None:
        assert ids(self.make(tmp_path, "abab", validation_share=0)).keys() == {"train"}

    def test_too_few_documents_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="each class must keep one"):
            self.make(tmp_path, "abc")


class TestTrainedModel:
    @pytest.fixture
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.build(["good film", "bad film"], Tokenizer())

    def test_its_vocabulary_and_labels_are_used(
        self, source: Path, cache: Path, vocabulary: Vocabulary
    ) -> None:
        corpus = prepare(test=source, cache_dir=cache, vocabulary=vocabulary, labels=["b", "a"])
        assert corpus.splits.keys() == {"test"}
        assert corpus.vocabulary.words == vocabulary.words
        assert corpus.labels == ("b", "a")
        assert corpus.splits["test"].labels.tolist() == [1, 0] * 10

    def test_documents_to_predict_need_no_label(
        self, tmp_path: Path, cache: Path, vocabulary: Vocabulary
    ) -> None:
        rows = [
            {"text": "good", "split": "train"},
            {"text": "bad", "label": "a", "split": "test"},
            {"text": "film", "label": "never seen"},
        ]
        corpus = prepare(
            predict=write_rows(tmp_path / "new.jsonl", rows),
            cache_dir=cache,
            vocabulary=vocabulary,
            labels=["a", "b"],
        )
        assert corpus.splits["predict"].labels.tolist() == [-1, 0, -1]
        assert list(corpus.splits["predict"].ids) == [f"new.jsonl:{i}" for i in (1, 2, 3)]

    def test_a_label_it_does_not_know_is_refused(
        self, source: Path, cache: Path, vocabulary: Vocabulary
    ) -> None:
        with pytest.raises(ValueError, match=r"reviews\.jsonl:2: the label 'b' of this test doc"):
            prepare(test=source, cache_dir=cache, vocabulary=vocabulary, labels=["a", "c"])

    def test_its_own_training_documents_need_no_second_store(
        self, source: Path, cache: Path
    ) -> None:
        trained = prepare(train=source, cache_dir=cache)
        again = prepare(
            train=source, cache_dir=cache, vocabulary=trained.vocabulary, labels=trained.labels
        )
        assert again.directory == trained.directory

    def test_another_models_vocabulary_makes_another_store(
        self, source: Path, cache: Path, vocabulary: Vocabulary
    ) -> None:
        trained = prepare(train=source, cache_dir=cache)
        other = prepare(train=source, cache_dir=cache, vocabulary=vocabulary)
        assert other.directory != trained.directory
        assert other.vocabulary.words == vocabulary.words
        assert ids(other) == ids(trained)


class TestStore:
    def test_a_second_run_reads_no_documents(
        self, source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = prepare(train=source, cache_dir=cache)
        monkeypatch.delattr(han.corpus.building, "read_documents")
        second = prepare(train=source, cache_dir=cache)
        assert second.directory == first.directory
        assert second.summary == first.summary
        assert second.labels == first.labels
        assert second.vocabulary.words == first.vocabulary.words
        assert ids(second) == ids(first)

    def test_other_content_or_options_make_another_store(
        self, tmp_path: Path, source: Path, cache: Path
    ) -> None:
        directories = {prepare(train=source, cache_dir=cache).directory}
        changes: list[dict[str, Any]] = [
            {"lowercase": False},
            {"min_count": 2},
            {"seed": 5},
            {"validation_share": 0.2},
            {"max_sentences": 1},
            {"hierarchical": False},
            {"test": source},
            {"keep_columns": ["id"]},
            {"labels": ["b", "a"]},
        ]
        for change in changes:
            directories.add(prepare(train=source, cache_dir=cache, **change).directory)
        write_rows(source, make_rows(19))
        directories.add(prepare(train=source, cache_dir=cache).directory)
        renamed = source.rename(tmp_path / "other.jsonl")
        directories.add(prepare(train=renamed, cache_dir=cache).directory)
        assert len(directories) == len(changes) + 3

    def test_without_hierarchy_a_document_is_one_sentence_of_the_same_words(
        self, tmp_path: Path, cache: Path
    ) -> None:
        texts = ["One two. Three<br>four!", "", "Five.\n\nSix. Seven? One."]
        rows = [{"text": text, "label": label} for text, label in zip(texts, "aba", strict=True)]
        source = write_rows(tmp_path / "texts.jsonl", rows)
        options: dict[str, Any] = {"cache_dir": cache, "validation_share": 0, "min_count": 1}
        whole = prepare(train=source, **options)
        flat = prepare(train=source, hierarchical=False, **options)
        assert flat.vocabulary.words == whole.vocabulary.words
        words, expected = (
            corpus.splits["train"].gather([0, 1, 2])[0].tolist() for corpus in (flat, whole)
        )
        assert words == expected
        _, sizes, sentences, _ = flat.splits["train"].gather([0, 1, 2])
        assert sizes.tolist() == [6, 8]
        assert sentences.tolist() == [1, 0, 1]
        assert flat.summary["train"] == {**whole.summary["train"], "sentences": 2}

    def test_rare_words_with_a_vector_are_known(self, tmp_path: Path, cache: Path) -> None:
        texts = ["often often Once", "often twice twice strange"]
        rows = [{"text": text, "label": label} for text, label in zip(texts, "ab", strict=True)]
        source = tmp_path / "texts.jsonl"
        write_rows(source, rows)
        known = {"min_count": 2, "lowercase": False, "validation_share": 0, "cache_dir": cache}
        file = tmp_path / "vectors.npz"
        corpora = []
        for words in (["once", "never"], ["strange", "never"]):
            np.savez(file, words=words, vectors=np.eye(2))
            pretrained = PretrainedVectors(str(file), tmp_path)
            corpora.append(prepare(train=source, pretrained=pretrained, **known))
        corpora.append(prepare(train=source, **known))
        assert [corpus.vocabulary.words for corpus in corpora] == [
            ("<unk>", "often", "twice", "Once"),  # by its lower case
            ("<unk>", "often", "twice", "strange"),
            ("<unk>", "often", "twice"),
        ]

    def test_only_the_store_and_its_lock_remain(self, source: Path, cache: Path) -> None:
        corpus = prepare(train=source, cache_dir=cache)
        assert {path.name for path in cache.iterdir()} <= {
            corpus.directory.name,
            f"{corpus.directory.name}.lock",
        }
        assert "spool.arrow" not in content(corpus)

    @pytest.mark.parametrize(
        "name",
        [
            "corpus.json",
            "tokenizer.json",
            "train/words.npy",
            "train/rows.arrow",
            "train/labels.npy",
        ],
    )
    @pytest.mark.parametrize("damage", ["missing", "cut short", "empty", "rubbish"])
    def test_a_damaged_store_is_made_anew(
        self, source: Path, cache: Path, name: str, damage: str
    ) -> None:
        corpus = prepare(train=source, cache_dir=cache)
        whole = content(corpus)
        file = corpus.directory / name
        if damage == "missing":
            file.unlink()
        else:
            keep = {"cut short": whole[name][:-1], "empty": b"", "rubbish": b"\xff" * 99}[damage]
            file.unlink()
            file.write_bytes(keep)
        again = prepare(train=source, cache_dir=cache)
        assert content(again) == whole

    def test_arrays_of_the_right_size_that_do_not_fit_are_made_anew(
        self, source: Path, cache: Path
    ) -> None:
        corpus = prepare(train=source, cache_dir=cache)
        whole = content(corpus)
        file = corpus.directory / "train" / "offsets.npy"
        offsets = np.load(file)
        file.unlink()
        np.save(file, offsets + 1)
        assert content(prepare(train=source, cache_dir=cache)) == whole

    def test_a_full_disk_is_named_and_leaves_nothing(
        self, source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def encode(self: Vocabulary, texts: Sequence[str]) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Vocabulary, "encode", encode)
        with pytest.raises(OSError, match=r"cache: the disk is full"):
            prepare(train=source, cache_dir=cache)
        assert not [path for path in cache.iterdir() if path.is_dir()]

    @pytest.mark.skipif(os.name != "posix", reason="modes of folders are those of POSIX")
    def test_a_read_only_cache_is_opened_but_not_written(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)
            base.chmod(0o755)
            source = write_rows(base / "a.jsonl", make_rows())
            cache = base / "cache"
            first = prepare(train=source, cache_dir=cache)
            for path in (first.directory, cache):
                path.chmod(0o555)
            with powerless():
                assert ids(prepare(train=source, cache_dir=cache)) == ids(first)
                with pytest.raises(OSError, match=r"cache: .*Permission denied.*`cache_dir`"):
                    prepare(train=source, cache_dir=cache, seed=1)
            for path in (first.directory, cache):
                path.chmod(0o755)

    def test_a_cache_that_is_a_file_is_refused(self, source: Path) -> None:
        with pytest.raises(OSError, match=r"reviews\.jsonl: .*`cache_dir`"):
            prepare(train=source, cache_dir=source)


class TestIdentity:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "texts"
        for name in ("a/1.txt", "a/2.txt", "b/1.txt", "b/2.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("some words", encoding="utf-8")
        return folder

    @pytest.fixture
    def datasets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
        datasets.disable_progress_bars()
        yield datasets
        datasets.enable_progress_bars()

    def test_a_folder_is_known_by_the_names_and_content_of_its_files(
        self, folder: Path, cache: Path
    ) -> None:
        def directory() -> Path:
            return prepare(train=folder, cache_dir=cache, validation_share=0).directory

        first = directory()
        assert directory() == first
        (folder / "b/2.txt").rename(folder / "a/3.txt")
        renamed = directory()
        (folder / "a/3.txt").write_text("other words", encoding="utf-8")
        rewritten = directory()
        assert len({first, renamed, rewritten}) == 3

    def test_what_is_not_read_of_a_folder_does_not_count(self, folder: Path, cache: Path) -> None:
        first = prepare(train=folder, cache_dir=cache).directory
        (folder / ".DS_Store").write_text("x", encoding="utf-8")
        assert prepare(train=folder, cache_dir=cache).directory == first

    def test_files_behind_links_count(self, tmp_path: Path, folder: Path, cache: Path) -> None:
        linked = tmp_path / "linked"
        linked.mkdir()
        for name in ("a", "b"):
            (linked / name).symlink_to(folder / name, target_is_directory=True)
        first = prepare(train=linked, cache_dir=cache, validation_share=0)
        (folder / "a/1.txt").write_text("other words", encoding="utf-8")
        second = prepare(train=linked, cache_dir=cache, validation_share=0)
        assert first.splits["train"].texts[0] == "some words"
        assert second.splits["train"].texts[0] == "other words"

    @pytest.mark.usefixtures("datasets")
    def test_a_local_data_set_is_known_by_its_content(self, tmp_path: Path, cache: Path) -> None:
        folder = tmp_path / "set"
        folder.mkdir()
        source = f"hf://{folder}"
        write_rows(folder / "train.jsonl", make_rows(4))
        first = prepare(train=source, cache_dir=cache, validation_share=0)
        assert prepare(train=source, cache_dir=cache, validation_share=0).directory == (
            first.directory
        )
        write_rows(folder / "train.jsonl", make_rows(6))
        second = prepare(train=source, cache_dir=cache, validation_share=0)
        assert (len(first.splits["train"]), len(second.splits["train"])) == (4, 6)

    def test_a_data_set_of_the_hub_is_known_by_its_address(
        self, cache: Path, datasets: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = []

        def load(
            address: str, config: str | None, split: str | None, revision: str | None
        ) -> object:
            loaded.append((address, config, revision))
            return datasets.DatasetDict(train=datasets.Dataset.from_list(make_rows(4)))

        monkeypatch.setattr(datasets, "load_dataset", load)
        sources = [f"hf://owner/set{query}" for query in ("", "?revision=v2", "?config=small")]
        directories = {
            prepare(train=source, cache_dir=cache).directory for source in (*sources, *sources)
        }
        assert len(directories) == 3
        assert loaded == [
            ("owner/set", None, None),
            ("owner/set", None, "v2"),
            ("owner/set", "small", None),
        ]

    def test_a_change_of_the_code_that_makes_a_store_makes_another(
        self, tmp_path: Path, source: Path, cache: Path
    ) -> None:
        copy = tmp_path / "han"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("data", "__pycache__"))
        stages = ("documents", "tokenization", "vocabulary", "corpus")
        patterns = [pattern for stage in stages for pattern in (f"{stage}.py", f"{stage}/*.py")]
        changed = [path for pattern in patterns for path in copy.glob(pattern)]
        script = """
import sys
from han.corpus import prepare_corpus
source, cache, *changed = sys.argv[1:]
for path in (None, *changed):
    if path is not None:
        with open(path, "a") as file:
            file.write("# changed")
    corpus = prepare_corpus(train=source, cache_dir=cache, min_count=1, progress=False)
    print(corpus.directory)
"""
        output = subprocess.run(
            [sys.executable, "-c", script, source, cache, *changed, copy / "batching.py"],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,  # the copy is what is imported
        ).stdout.splitlines()
        assert len(set(output)) == 1 + len(changed)
        assert output[-1] == output[-2]


# The most memory, in MB, that a process has had since it began; what `resource` says of it may be
# that of the process that started it.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
"""

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is as Linux tells it"
)

# Prepares documents; stops where it is told until a line comes in.
PROCESS = """
import sys
from han.corpus import building, prepare_corpus

source, cache, where = sys.argv[1:]

def wait():
    print("reached", flush=True)
    sys.stdin.readline()

def waiting(function):
    def call(*arguments, **named):
        wait()
        return function(*arguments, **named)
    return call

if where == "read":
    read_documents = building.read_documents
    def read(*arguments, **named):
        for number, document in enumerate(read_documents(*arguments, **named)):
            if number == 10:
                wait()
            yield document
    building.read_documents = read
elif where == "build":
    building.Vocabulary.build = waiting(building.Vocabulary.build)
elif where == "encode":
    building.Vocabulary.encode = waiting(building.Vocabulary.encode)
elif where == "finish":
    building.SplitWriter.finish = waiting(building.SplitWriter.finish)
elif where == "move":
    import han.atomic
    han.atomic._swap = waiting(han.atomic._swap)
corpus = prepare_corpus(train=source, cache_dir=cache, min_count=1)
print(corpus.directory, flush=True)
"""


def start(source: Path, cache: Path, where: str = "nowhere") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(source), str(cache), where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )


class TestProcesses:
    @pytest.mark.parametrize("where", ["read", "build", "encode", "finish", "move"])
    def test_a_killed_process_leaves_no_half_store(
        self, source: Path, cache: Path, tmp_path: Path, where: str
    ) -> None:
        with start(source, cache, where) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "reached\n"
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        left = [path for path in cache.iterdir() if path.is_dir()]
        assert [path.name[0] for path in left] == ["."]
        corpus = prepare(train=source, cache_dir=cache)
        assert content(corpus) == content(prepare(train=source, cache_dir=tmp_path / "other"))
        assert [path for path in cache.iterdir() if path.is_dir()] == [corpus.directory]

    def test_a_second_process_waits_for_the_first(self, source: Path, cache: Path) -> None:
        with start(source, cache, "encode") as first:
            assert first.stdout is not None
            assert first.stdin is not None
            assert first.stdout.readline() == "reached\n"
            with start(source, cache, "encode") as second:
                assert second.stderr is not None
                assert "waiting" in second.stderr.readline()
                first.stdin.write("\n" * 100)
                first.stdin.flush()
                output, progress = second.communicate()
            directory = first.communicate()[0].splitlines()[-1]
        assert first.returncode == second.returncode == 0
        assert output == f"{directory}\n"
        assert "Encoding" not in progress

    def test_many_processes_at_once_make_one_store(self, source: Path, cache: Path) -> None:
        processes = [start(source, cache) for _ in range(4)]
        outputs = [process.communicate() for process in processes]
        assert all(process.returncode == 0 for process in processes)
        assert len({output for output, _ in outputs}) == 1
        assert sum("Encoding" in progress for _, progress in outputs) == 1

    @pytest.mark.slow
    @linux_only
    def test_memory_does_not_grow_with_the_documents(self, tmp_path: Path) -> None:
        peaks = []
        text = " ".join(["pneumonoultramicroscopicsilicovolcanoconiosis"] * 50)
        for number in (5_000, 50_000):
            source = tmp_path / f"{number}.jsonl.gz"
            with gzip.open(source, "wt", compresslevel=1) as file:
                for i in range(number):
                    file.write(json.dumps({"text": text, "label": i % 2}) + "\n")
            script = f"{PEAK}{PROCESS}print(peak())"
            output = subprocess.run(
                [sys.executable, "-c", script, source, tmp_path / "cache", "nowhere"],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
            )
            peaks.append(float(output.stdout.split()[-1]))
        assert peaks[1] - peaks[0] < 10  # MB; the texts are 100 MB more


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> StoredDocuments:
    folder = tmp_path_factory.mktemp("stored")
    source = write_rows(folder / "a.jsonl", make_rows(12))
    return prepare(train=source, cache_dir=folder, validation_share=0).splits["train"]


class TestStoredDocuments:
    @given(indices=st.lists(st.integers(0, 11), max_size=30))
    def test_gather_lays_documents_end_to_end(
        self, documents: StoredDocuments, indices: list[int]
    ) -> None:
        alone = [documents.gather([index]) for index in indices]
        together = documents.gather(indices)
        for field, array in enumerate(together):
            assert array.dtype == np.int64
            assert array.flags.writeable
            assert array.tolist() == [value for one in alone for value in one[field]]

    def test_an_empty_document_has_no_sentences(self, documents: StoredDocuments) -> None:
        tokens, words, sentences, labels = documents.gather([2])
        assert (len(tokens), len(words), sentences.tolist(), len(labels)) == (0, 0, [0], 1)
        assert documents.words_per_document[2] == documents.sentences_per_document[2] == 0

    @pytest.mark.parametrize("index", [-1, 12])
    def test_a_document_that_does_not_exist_is_refused(
        self, documents: StoredDocuments, index: int
    ) -> None:
        with pytest.raises(IndexError):
            documents.gather([0, index])

    def test_pickling_opens_the_same_files(self, documents: StoredDocuments) -> None:
        pickled = pickle.dumps(documents)
        assert len(pickled) < 1000
        again = pickle.loads(pickled)
        assert list(again.ids) == list(documents.ids)
        assert again.gather([0, 3])[0].tolist() == documents.gather([0, 3])[0].tolist()

    @linux_only
    def test_what_was_read_does_not_stay_in_memory(self, tmp_path: Path) -> None:
        none = np.zeros((0, 2), np.int32)
        text = EncodedText(none, none, np.full(100, 320, np.int32), (), np.ones(32_000, np.int32))
        with ExitStack() as files:
            writer = SplitWriter(tmp_path / "train", 2, files)
            for _ in range(20):
                writer.write(as_rows([Document("", "")] * 50), [text] * 50)
            writer.finish(np.zeros(1000, np.int64), ["a"])
        script = f"""
import sys
from pathlib import Path
from han.corpus import StoredDocuments
{PEAK}
documents = StoredDocuments(Path(sys.argv[1]))
documents.gather([0])
before = peak()
words = sum(len(documents.gather([index])[0]) for index in range(len(documents)))
print(words, peak() - before)
"""
        words, grown = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "train"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        ).stdout.split()
        assert int(words) == 1000 * 32_000
        assert float(grown) < 8  # MB; the words are 64

    def test_columns_of_strings_are_sequences(self, documents: StoredDocuments) -> None:
        assert len(documents.ids) == len(documents) == 12
        assert documents.ids[-1] == "d11"
        assert documents.ids[2:4] == ["d2", "d3"]
        assert Counter(documents.texts)["bad"] == 2
        with pytest.raises(IndexError):
            documents.ids[12]
