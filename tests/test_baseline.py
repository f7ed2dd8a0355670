from __future__ import annotations

import inspect
import json
import random
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

import han.baseline
from han.baseline import Baseline, Comparison, LinearModel, compare, paired_interval, train_baseline
from han.cli.baseline import OPTIONS
from han.corpus import Corpus, prepare_corpus
from han.datamodule import HANDataModule
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary
from tests.commands import Outcome, Place, packages_after
from tests.reviews import OTHERS

CLASSES = ("bad", "good", "odd")
SPLITS = ("train", "train", "train", "validation", "test")
Row = dict[str, Any]


def make_rows(count: int = 150, *, splits: Sequence[str] = SPLITS) -> list[Row]:
    """Return documents whose words say the class only partly, so that no figure is 0 or 1."""
    draw = random.Random(0)
    rows = []
    for i in range(count):
        label = draw.choice(CLASSES)
        told = [label if draw.random() < 0.4 else draw.choice(CLASSES) for _ in range(2)]
        words = draw.choices(OTHERS, k=8) + [f"{word}ly" for word in told]
        draw.shuffle(words)
        text = " ".join(words).capitalize() + "."
        row = {"id": f"d{i}", "text": text, "label": label}
        rows.append(row | ({"split": splits[i % len(splits)]} if splits else {}))
    return rows


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(folder: Path, rows: Sequence[Mapping[str, Any]], **options: object) -> Corpus:
    source = write(folder / "reviews.jsonl", rows)
    fixed = {"min_count": 1, "cache_dir": folder / "cache", "progress": False}
    return prepare_corpus(train=source, **{**fixed, **options})


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return prepare(tmp_path, make_rows())


def of(rows: Sequence[Row], *splits: str) -> tuple[list[str], list[str]]:
    """Return the texts and labels of these splits, one split after the other."""
    chosen = [row for split in splits for row in rows if row["split"] == split]
    return [row["text"] for row in chosen], [row["label"] for row in chosen]


class TestTrainBaseline:
    @pytest.mark.parametrize(
        ("name", "classifier"),
        [
            ("linear SVM", LinearSVC(random_state=0)),
            ("logistic regression", LogisticRegression(C=10)),
        ],
    )
    def test_figures_are_those_of_scikit_learn_s_own_pipeline(
        self, corpus: Corpus, name: str, classifier: LinearSVC | LogisticRegression
    ) -> None:
        rows = make_rows()
        [model] = [m for m in train_baseline(corpus).models if m.name == name]
        known = {"validation": of(rows, "train"), "test": of(rows, "train", "validation")}
        for split, (texts, labels) in known.items():
            vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
            pipeline = make_pipeline(vectorizer, classifier).fit(texts, labels)
            unseen, truth = of(rows, split)
            expected = pipeline.predict(unseen)
            assert [corpus.labels[i] for i in model.predictions[split]] == list(expected)
            found = model.figures[split]
            assert found["accuracy"] == accuracy_score(truth, expected)
            assert found["macro_f1"] == pytest.approx(f1_score(truth, expected, average="macro"))
            assert found["documents"] == 30
            assert 0.4 < found["accuracy"] < 1

    def test_it_learns_from_the_documents_that_the_network_learns_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = [*make_rows(splits=()), {"id": "bad", "text": None, "label": "odd"}]
        source = write(tmp_path / "plain.jsonl", rows)
        data = HANDataModule(
            str(source),
            vectors="none",
            seed=3,
            on_bad_row="skip",
            validation_share=0.2,
            min_count=1,
            cache_dir=str(tmp_path / "cache"),
        )
        network: dict[str, Counter[tuple[int, ...]]] = {}
        loaders = {"train": data.train_dataloader(), "validation": data.val_dataloader()}
        for split, loader in loaders.items():
            network[split] = Counter()
            for batch in loader:
                words = np.add.reduceat(
                    batch.words_per_sentence.numpy(),
                    np.cumsum([0, *batch.sentences_per_document.tolist()[:-1]]),
                )
                documents = np.split(batch.tokens.numpy(), np.cumsum(words)[:-1])
                assert batch.labels is not None
                for tokens, label in zip(documents, batch.labels.tolist(), strict=True):
                    network[split][(label, *tokens.tolist())] += 1
        read: list[Counter[str]] = []
        fit_transform = TfidfVectorizer.fit_transform

        def watched(self: TfidfVectorizer, texts: Iterable[str]) -> object:
            texts = list(texts)
            read.append(Counter(texts))
            return fit_transform(self, texts)

        monkeypatch.setattr(TfidfVectorizer, "fit_transform", watched)
        own = prepare_corpus(
            train=source,
            seed=3,
            on_bad_row="skip",
            validation_share=0.2,
            cache_dir=tmp_path / "other",
            progress=False,
        )
        result = train_baseline(own)
        [learned] = read  # without test documents there is one round
        labels = {row["text"]: data.labels.index(row["label"]) for row in rows if row["text"]}

        def encoded(texts: Counter[str]) -> Counter[tuple[int, ...]]:
            found: Counter[tuple[int, ...]] = Counter()
            for text, count in texts.items():
                [document] = data.vocabulary.encode([text])
                found[(labels[text], *document.tokens.tolist())] += count
            return found

        everything = Counter(row["text"] for row in rows if row["text"])
        assert len(everything) == 150
        assert encoded(learned) == network["train"]
        assert encoded(everything - learned) == network["validation"]
        assert result.documents == {"train": 120, "validation": 30}

    def test_the_same_seed_gives_the_same_predictions(self, corpus: Corpus) -> None:
        np.random.seed(1)  # what scikit-learn draws from where no seed is given
        first = train_baseline(corpus, seed=5)
        np.random.seed(2)
        second = train_baseline(corpus, seed=5)
        for one, other in zip(first.models, second.models, strict=True):
            for split in ("validation", "test"):
                np.testing.assert_array_equal(one.predictions[split], other.predictions[split])

    def test_without_test_documents_there_are_figures_on_validation(self, tmp_path: Path) -> None:
        result = train_baseline(prepare(tmp_path, make_rows(splits=())))
        assert result.documents == {"train": 135, "validation": 15}
        for model in result.models:
            assert model.figures.keys() == model.predictions.keys() == {"validation"}

    def test_empty_texts_are_documents_too(self, tmp_path: Path) -> None:
        rows = make_rows()
        for row in rows[::7]:
            row["text"] = ""
        result = train_baseline(prepare(tmp_path, rows))
        assert result.documents == {"train": 90, "validation": 30, "test": 30}

    def test_words_of_one_document_count_where_there_are_no_others(self, tmp_path: Path) -> None:
        rows = [
            {"text": f"word{i} term{i}", "label": "ab"[i % 2], "split": split}
            for i, split in enumerate(["train"] * 8 + ["validation"] * 2)
        ]
        result = train_baseline(prepare(tmp_path, rows))
        assert result.min_df == 1
        [note] = result.notes()
        assert "min_df=1" in note

    def test_texts_without_words_are_refused(self, tmp_path: Path) -> None:
        rows = [row | {"text": "a b c ."} for row in make_rows()]
        with pytest.raises(ValueError, match="find no word in the training documents"):
            train_baseline(prepare(tmp_path, rows))

    def test_documents_of_one_class_are_refused(self, tmp_path: Path) -> None:
        rows = [row | {"label": "good"} for row in make_rows()]
        vocabulary = Vocabulary.build([row["text"] for row in rows], Tokenizer())
        corpus = prepare(tmp_path, rows, vocabulary=vocabulary, labels=("bad", "good"))
        with pytest.raises(ValueError, match="of one class"):
            train_baseline(corpus)

    def test_documents_without_validation_are_refused(self, tmp_path: Path) -> None:
        corpus = prepare(tmp_path, make_rows(splits=()), validation_share=0.0)
        with pytest.raises(ValueError, match="no documents for validation"):
            train_baseline(corpus)

    def test_class_that_no_training_document_has_is_never_predicted(self, tmp_path: Path) -> None:
        rows = [row for row in make_rows() if (row["label"], row["split"]) != ("bad", "train")]
        vocabulary = Vocabulary.build([row["text"] for row in rows], Tokenizer())
        corpus = prepare(tmp_path, rows, vocabulary=vocabulary, labels=CLASSES)
        for model in train_baseline(corpus).models:
            assert 0 not in model.predictions["validation"]
            bad = model.figures["validation"]["per_class"]["bad"]
            assert bad["f1"] == 0
            assert bad["documents"] > 0

    def test_training_that_did_not_converge_is_said(
        self, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hasty = {"hasty": LogisticRegression(max_iter=1), "patient": LogisticRegression()}
        monkeypatch.setattr(han.baseline, "_models", lambda seed: hasty)
        result = train_baseline(corpus)
        assert [model.converged for model in result.models] == [False, True]
        [note] = result.notes()
        assert "hasty had not converged" in note

    def test_other_warnings_are_not_swallowed(
        self, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Warner(LogisticRegression):
            def fit(self, *args: object) -> object:
                warnings.warn("the sky is falling", stacklevel=1)
                return super().fit(*args)

        monkeypatch.setattr(han.baseline, "_models", lambda seed: {"warner": Warner()})
        with pytest.warns(UserWarning, match="the sky is falling"):
            result = train_baseline(corpus)
        assert result.models[0].converged


def made(accuracies: Mapping[str, tuple[float, float, float]]) -> Baseline:
    """Return a result with these accuracies on validation and test, and macro-F1 on validation."""
    models = [
        LinearModel(
            name,
            {},
            {
                "validation": {"accuracy": validation, "macro_f1": macro_f1},
                "test": {"accuracy": test, "macro_f1": test},
            },
            True,
        )
        for name, (validation, test, macro_f1) in accuracies.items()
    ]
    return Baseline(tuple(models), {}, 2, 0, 1.0)


class TestBest:
    def test_validation_chooses_and_test_has_no_say(self) -> None:
        assert made({"a": (0.8, 0.1, 0.5), "b": (0.7, 0.9, 0.9)}).best.name == "a"
        assert made({"a": (0.7, 0.9, 0.9), "b": (0.8, 0.1, 0.5)}).best.name == "b"

    def test_macro_f1_decides_between_equals(self) -> None:
        assert made({"a": (0.8, 0.9, 0.5), "b": (0.8, 0.1, 0.6)}).best.name == "b"


class TestCompare:
    def test_a_case_worked_by_hand(self, corpus: Corpus) -> None:
        baseline = train_baseline(corpus)
        truth = corpus.splits["test"].labels
        linear = baseline.best.predictions["test"] == truth
        wrong = (truth + 1) % 3
        network = np.where(linear, truth, wrong)  # as right as the linear model
        right, left = np.flatnonzero(linear), np.flatnonzero(~linear)
        network[right[:2]] = wrong[right[:2]]
        network[left[:5]] = truth[left[:5]]
        found = compare(baseline, corpus, network, "test")
        assert (found.split, found.opponent) == ("test", baseline.best.name)
        assert (found.only_network, found.only_opponent) == (5, 2)
        assert found.difference == pytest.approx(3 / 30)
        own, other = found.figures["accuracy"], baseline.best.figures["test"]["accuracy"]
        assert own - other == pytest.approx(found.difference)
        assert (found.low, found.high) == paired_interval(5, 2, 30)
        assert json.loads(json.dumps(found.to_dict()))["network"]["documents"] == 30

    @pytest.mark.parametrize(
        ("ends", "difference", "words"),
        [
            ((0.011, 0.049), 0.03, "The network earns its keep: on 1,200 test documents its "
             "accuracy is 3.0 points above that of the linear SVM (95 % interval +1.1 to +4.9)."),
            ((-0.049, -0.011), -0.03, "The network does not earn its keep: on 1,200 test documents "
             "its accuracy is 3.0 points below that of the linear SVM (95 % interval -4.9 to "
             "-1.1)."),
            ((-0.01, 0.049), 0.02, "Whether the network earns its keep is open: on 1,200 test "
             "documents its accuracy is 2.0 points above that of the linear SVM, which can be "
             "chance (95 % interval -1.0 to +4.9)."),
            ((-0.02, 0.02), 0.0, "Whether the network earns its keep is open: on 1,200 test "
             "documents its accuracy is the same as that of the linear SVM (95 % interval -2.0 to "
             "+2.0)."),
        ],
    )  # fmt: skip
    def test_the_verdict_is_one_sentence(
        self, ends: tuple[float, float], difference: float, words: str
    ) -> None:
        figures = {"documents": 1200}
        found = Comparison("test", "linear SVM", figures, difference, *ends, 0, 0)
        assert found.verdict() == words

    def test_validation_documents_are_said_to_flatter(self) -> None:
        figures = {"documents": 12}
        found = Comparison("validation", "linear SVM", figures, 0.5, 0.1, 0.7, 7, 1)
        assert "chosen" in found.verdict()


class TestPairedInterval:
    def test_a_case_worked_by_hand(self) -> None:
        # 2 / 23 and 8 / 23; their difference -6 / 23, its variance (10 / 23 - 36 / 529) / 23.
        error = ((10 / 23 - 36 / 529) / 23) ** 0.5
        low, high = paired_interval(1, 7, 21)
        assert low == pytest.approx(-6 / 23 - 1.959964 * error, abs=1e-6)
        assert high == pytest.approx(-6 / 23 + 1.959964 * error, abs=1e-6)

    def test_it_holds_the_true_difference_as_often_as_it_says(self) -> None:
        draws = np.random.default_rng(0).multinomial(100, [0.09, 0.04, 0.87], 4000)
        ends = [paired_interval(first, second, 100) for first, second, _ in draws.tolist()]
        held = np.mean([low <= 0.05 <= high for low, high in ends])
        assert 0.94 < held < 0.965

    def test_it_agrees_with_the_bootstrap_on_many_documents(self) -> None:
        differences = np.repeat([1, -1, 0], [150, 90, 1760])
        found = bootstrap(
            (differences,), np.mean, method="percentile", n_resamples=2000,
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        assert paired_interval(150, 90, 2000) == pytest.approx((found.low, found.high), abs=1e-3)

    @pytest.mark.parametrize(("first", "second", "total"), [(0, 0, 1), (1, 0, 1), (0, 50, 50)])
    def test_it_stays_within_what_is_possible(self, first: int, second: int, total: int) -> None:
        low, high = paired_interval(first, second, total)
        assert -1 <= low < high <= 1
        assert paired_interval(second, first, total) == (-high, -low)


class TestCommand:
    """`han baseline`."""

    def run(self, place: Place, source: str | Path, *options: str) -> Outcome:
        cache = f"--cache_dir={place.folder / 'cache'}"
        return place.run_main("baseline", str(source), cache, *options)

    def test_both_models_figures_are_printed_and_written(self, place: Place) -> None:
        source = write(place.folder / "a.jsonl", make_rows())
        outcome = self.run(place, source, f"--output={place.folder / 'b.json'}")
        assert outcome.status == 0
        record = json.loads((place.folder / "b.json").read_text())
        expected = train_baseline(prepare(place.folder, make_rows()))
        assert record["best"] == expected.best.name
        lines = outcome.out.splitlines()
        assert lines[0].split() == ["validation", "test"]
        assert lines[1].split() == ["accuracy", "macro-F1"] * 2
        for line, model in zip(lines[2:4], expected.models, strict=True):
            assert record["models"][model.name]["test"] == model.figures["test"]
            figures = [
                f"{model.figures[split][key]:.4f}"
                for split in ("validation", "test")
                for key in ("accuracy", "macro_f1")
            ]
            assert line.startswith(model.name)
            assert line.removeprefix(model.name).split() == figures
        assert lines[-1] == (
            "3 classes; 90 train, 30 validation, 30 test documents; chosen on validation: "
            f"{expected.best.name}"
        )

    def test_columns_splits_and_files_are_those_that_are_named(self, place: Place) -> None:
        rows = [
            {"t": row["text"], "l": row["label"], "part": row["split"]}
            for row in [*make_rows(), {"text": 3, "label": "odd", "split": "train"}]
        ]
        kept = [row for row in rows if row["part"] != "test"]
        source, test = write(place.folder / "a.jsonl", kept), place.folder / "t.jsonl"
        write(test, [row for row in rows if row["part"] == "test"])
        columns = ("--text_column=t", "--label_column=l", "--split_column=part")
        outcome = self.run(place, source, *columns, f"--test={test}", "--on_bad_row=skip")
        assert "90 train, 30 validation, 30 test documents" in outcome.out
        assert "skipped 1 of train: text is not a string" in outcome.err
        whole = self.run(place, write(place.folder / "w.jsonl", make_rows()))
        assert whole.out == outcome.out

    def test_the_seed_and_the_share_decide_who_validates(self, place: Place) -> None:
        source = write(place.folder / "a.jsonl", make_rows(splits=()))
        outs = [self.run(place, source, *options).out for options in ((), ("--seed=1",))]
        assert outs[0] != outs[1]
        assert "test" not in outs[0]
        assert "90 train, 60 validation" in self.run(place, source, "--validation_share=.4").out

    def test_the_bundled_corpus_has_a_name(self, place: Place) -> None:
        assert "1,185 train, 197 validation, 197 test" in self.run(place, "builtin").out

    def test_documents_are_read_once_for_it_and_for_the_network(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = write(place.folder / "a.jsonl", make_rows())
        assert self.run(place, source).status == 0
        read = (place.folder / "cache/corpora").iterdir
        before = {path.name for path in read()}
        data = HANDataModule(str(source), cache_dir=str(place.folder / "cache"))
        assert data.num_classes == 3
        assert {path.name for path in read()} == before

    @pytest.mark.parametrize("name", OPTIONS)
    def test_defaults_are_those_of_han_fit(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        used: dict[str, object] = {}

        def watched(**options: object) -> Corpus:
            used.update(options)
            raise ValueError("seen")

        monkeypatch.setattr("han.cli.baseline.prepare_corpus", watched)
        self.run(place, "a.jsonl").assert_one_line("seen")
        assert used[name] == inspect.signature(HANDataModule).parameters[name].default

    def test_documents_without_a_word_twice_are_read_when_asked_to(self, place: Place) -> None:
        rows = [{"text": f"word{i}", "label": "ab"[i % 2]} for i in range(6)]
        source = write(place.folder / "a.jsonl", rows)
        assert "lower `--min_count`" in self.run(place, source).err
        outcome = self.run(place, source, "--min_count=1")
        assert outcome.status == 0
        assert "(min_df=1)" in outcome.err

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            (["--text_column=review"], "set `--text_column` to one of them"),
            (["--validation_share=2"], "`--validation_share` must be"),
            (["--validation_share=0", "--split_column=none"], "no documents for validation"),
            (["--seed=-1"], "`--seed` must not be negative"),
            (["--output=b.csv"], "the suffix '.csv' is not known"),
            (["--test=none.jsonl"], "none.jsonl: no such file"),
            (["--encoding=x"], "`--encoding` 'x' is not a text encoding"),
        ],
    )
    def test_unfit_options_make_one_line(self, place: Place, options: list[str], part: str) -> None:
        source = write(place.folder / "a.jsonl", make_rows())
        outcome = self.run(place, source, *options)
        last = outcome.err.splitlines(keepends=True)[-1]
        Outcome(outcome.status, outcome.out, last).assert_one_line(part)
        assert "Traceback" not in outcome.err

    def test_documents_are_never_written_over(self, place: Place) -> None:
        train = write(place.folder / "a.json", make_rows())
        test = write(place.folder / "t.json", make_rows())
        for source in (train, test):
            before = source.read_bytes()
            outcome = self.run(place, train, f"--test={test}", f"--output={source}")
            outcome.assert_one_line("is the input")
            assert source.read_bytes() == before

    def test_it_loads_no_torch(self, place: Place) -> None:
        source = write(place.folder / "a.jsonl", make_rows())
        arguments = ["baseline", str(source), f"--cache_dir={place.folder / 'cache'}"]
        loaded = packages_after(f"from han.cli import main; main({arguments!r})")
        assert "sklearn" in loaded
        assert not loaded & {"torch", "pytorch_lightning", "torchtext", "wandb"}
