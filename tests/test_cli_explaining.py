from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import han
from han.cli.explaining import (
    PAGE_SAMPLE,
    RANKINGS,
    affordable,
    explain_and_score,
    sample,
    scoring_cost,
)
from han.documents import Document
from han.explanation import METHODS, Explanation
from han.predictor import Predictor
from tests.commands import ROWS, Place
from tests.tiny import TEXTS, make_bundle, save_model
from tests.varieties import VARIETIES


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def save_other_model(folder: Path) -> Path:
    """Write a model that finds the same words and weighs them otherwise."""
    bundle = make_bundle()
    for member in bundle.network.members:
        member.word_encoder.attention.context.data.neg_()
    bundle.save(folder)
    return folder


class TestMethod:
    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            ("attention", METHODS[:1]),
            ("occlusion", ("attention", "occlusion")),
            ("gradient, attention_gradient", ("attention", "attention_gradient", "gradient")),
            ("all", METHODS),
        ],
    )
    def test_records_have_the_methods_that_are_asked_for(
        self, place: Place, names: str, expected: tuple[str, ...]
    ) -> None:
        target = place.folder / "o.jsonl"
        source = place.write_rows("a.csv")
        place.run("explain", source, "--method", names, f"--output={target}")
        for record in records(target):
            assert Explanation.from_dict(record).methods == expected

    def test_the_first_is_drawn(self, place: Place) -> None:
        attention = place.run("explain", "The soup was cold.").out
        signed = place.run("explain", "The soup was cold.", "--method=occlusion,attention").out
        assert "|." in attention
        assert "|+." in signed or "|-." in signed

    def test_label_chooses_the_class_that_words_speak_for(self, place: Place) -> None:
        both = [
            place.run("explain", "The soup was cold.", "--method=occlusion", f"--label={label}").out
            for label in ("bad", "good")
        ]
        assert both[0] != both[1]  # what speaks for one of two classes speaks against the other
        swapped = both[1].translate(str.maketrans("+-", "-+"))
        assert [line for line in both[0].splitlines() if "|" in line] == [
            line for line in swapped.splitlines() if "|" in line
        ]

    @pytest.mark.parametrize("option", ["--method=lime", "--method=attention,lime"])
    def test_unknown_method_is_refused(self, place: Place, option: str) -> None:
        for command in ("explain", "faithfulness"):
            place.run(command, place.write_rows("a.csv"), option).assert_one_line(
                "no method 'lime'; choose among attention, attention_gradient"
            )

    def test_unknown_class_is_refused(self, place: Place) -> None:
        place.run("explain", "Soup.", "--method=occlusion", "--label=ugly").assert_one_line(
            "knows no class 'ugly', only bad, good"
        )


class TestHead:
    def test_one_head_is_shown_alone(self, place: Place) -> None:
        make_bundle(options=VARIETIES["several heads"]).save(place.model)
        mean, *others = (
            place.run("explain", TEXTS[0], *options).out
            for options in ((), ("--word_head", "5"), ("--word_head=0", "--sentence_head=3"))
        )
        assert len({mean, *others}) == 3
        expected = han.load(place.model).explain(TEXTS[0]).of_head(0, 3)
        assert others[1].splitlines()[1:] == expected.to_text().splitlines()[1:]  # but the id

    @pytest.mark.parametrize(
        ("option", "there"),
        [
            ("--word_head=6", "its heads are 0 to 5"),
            ("--sentence_head=-1", "its heads are 0 to 3"),
        ],
    )
    def test_one_that_is_not_there_is_refused(self, place: Place, option: str, there: str) -> None:
        make_bundle(options=VARIETIES["several heads"]).save(place.model)
        name, _, number = option.partition("=")
        place.run("explain", TEXTS[0], option).assert_one_line(
            f"`{name}` is {number}, which the model does not have: {there}."
        )

    def test_a_single_one_has_no_number(self, place: Place) -> None:
        place.run("explain", TEXTS[0], "--word_head", "0").assert_one_line("it has one head there")


class TestScoresInRecords:
    def test_as_many_documents_as_asked_for_have_figures_of_their_own(self, place: Place) -> None:
        target = place.folder / "o.jsonl"
        source = place.write_rows("a.csv")
        place.run("explain", source, "--faithfulness=2", f"--output={target}")
        found = [record["faithfulness"] for record in records(target)]
        assert [record["id"] for record in records(target)] == ["r0", "r1", "r2"]
        assert sum(figures is not None for figures in found) == 2
        for figures in filter(None, found):
            assert isinstance(figures, dict)
            assert set(figures) == {"attention", "occlusion", "random"}
            assert 0 < figures["attention"]["word_flip"] <= 1

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            (["--faithfulness=5"], "`--faithfulness` is for pages and records"),
            (["--faithfulness=-1", "--output=o.html"], "`--faithfulness` must be at least 0"),
            (["--compare=x"], "`--compare` is for a page"),
            (["--compare=missing", "--output=o.html"], "missing"),
        ],
    )
    def test_options_that_do_not_fit_are_refused(
        self, place: Place, options: list[str], part: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(place.folder)
        source = place.write_rows("a.csv")
        before = place.names()
        place.run("explain", source, *options).assert_one_line(part)
        assert place.names() == before


class TestPage:
    def test_it_has_both_models_and_the_figures(self, place: Place) -> None:
        target = place.folder / "o.html"
        other = save_other_model(place.folder / "other")
        outcome = place.run(
            "explain", place.write_rows("a.csv"), f"--compare={other}", f"--output={target}"
        )
        assert (outcome.status, outcome.out, outcome.err) == (0, "", f"report: {target}\n")
        assert "soup" in target.read_text(encoding="utf-8")

    def test_documents_without_words_are_drawn(self, place: Place) -> None:
        target = place.folder / "o.html"
        source = place.write("a.csv", "text,id\n ,a\n,b\n")
        assert place.run("explain", source, f"--output={target}").status == 0


class TestAffordable:
    def test_documents_of_the_usual_length_are_all_afforded(self) -> None:
        predictor = Predictor(make_bundle())
        reviews = [Document(str(i), "The soup was cold. " * 20) for i in range(200)]
        assert affordable(predictor, reviews) == list(range(200))

    def test_a_page_and_the_command_score_the_same_documents(self, place: Place) -> None:
        rows = [{"text": f"The soup was cold. So was I{'!' * (i % 7)}"} for i in range(230)]
        source, target = place.write_rows("a.csv", rows), place.folder / "o.json"
        place.run("faithfulness", source, f"--output={target}", "--method=attention,occlusion")
        command = json.loads(target.read_text(encoding="utf-8"))
        documents = [Document(str(i), row["text"]) for i, row in enumerate(rows)]
        predictor = Predictor(make_bundle())
        drawn = sample(range(230), PAGE_SAMPLE)
        _, figures = explain_and_score(predictor, documents, ("attention",), drawn)
        assert figures is not None
        assert figures.to_dict() == command

    def test_documents_that_are_too_long_are_counted(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("han.cli.explaining.AFFORDED_CHARACTERS", 50)
        source = place.write("a.csv", "text\nThe soup was cold.\n" + "Cold soup. " * 9 + "\n")
        assert "1 documents, 5 words, seed 0; 1 more were too long." in " ".join(
            place.run("faithfulness", source).out.split()
        )

    def test_where_all_are_too_long_that_is_said(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("han.cli.explaining.AFFORDED_CHARACTERS", 5)
        place.run("faithfulness", place.write_rows("a.csv")).assert_one_line(
            "each of the 3 documents drawn would take minutes to score"
        )

    def test_too_few_to_judge_by_are_not_scored(self) -> None:
        predictor = Predictor(make_bundle())
        assert affordable(predictor, [Document("0", "The soup was cold.")] * 9) == []
        assert affordable(predictor, [Document("0", "")] * 12) == []

    @pytest.mark.parametrize(
        "text", ["soup " * 9000, "汤" * 9000, "Soup. " * 9000], ids=["one sentence", "Han", "many"]
    )
    def test_what_would_take_minutes_is_left_out(self, text: str) -> None:
        predictor = Predictor(make_bundle())
        short = [Document(str(i), "The soup was cold.") for i in range(10)]
        assert affordable(predictor, [Document("long", text), *short]) == list(range(1, 11))

    def test_cost_counts_what_is_read(self) -> None:
        # 2 x 2 + 3 x 3 for occlusion within sentences, 5 x 2 over them; 5 steps of each ranking.
        assert scoring_cost(np.array([2, 3], np.int32)) == 13 + 10 + RANKINGS * 5 * (3 + 2)
        assert scoring_cost(np.array([], np.int32)) == 0


class TestFaithfulness:
    def test_tables_are_printed(self, place: Place) -> None:
        outcome = place.run("faithfulness", place.write_rows("a.csv"))
        assert (outcome.status, outcome.err) == (0, "")
        for words in (
            "words with most attention",
            "input × gradient",
            "random (mean)",
            "Kendall's tau-b",
            "3 documents",
        ):
            assert words in outcome.out

    def test_json_has_the_figures(self, place: Place) -> None:
        target = place.folder / "o.json"
        other = save_other_model(place.folder / "other")
        outcome = place.run(
            "faithfulness",
            place.write_rows("a.csv"),
            "--method=occlusion",
            "--documents=2",
            f"--compare={other}",
            f"--output={target}",
        )
        assert (outcome.out, outcome.err) == ("", f"figures: {target}\n")
        record = json.loads(target.read_text(encoding="utf-8"))
        assert record["documents"] == 2
        assert [of["method"] for of in record["methods"]] == ["attention", "occlusion", "random"]
        assert record["divergence"][0]["model"] == str(other)

    def test_rationales_of_some_documents_are_compared(self, place: Place) -> None:
        marks = ["", [[0, 6]], None]
        rows = [{**row, "marks": mark} for row, mark in zip(ROWS, marks, strict=True)]
        source = place.write_rows("a.jsonl", rows)
        target = place.folder / "o.json"
        outcome = place.run(
            "faithfulness", source, "--rationale_column=marks", f"--output={target}"
        )
        assert outcome.status == 0
        record = json.loads(target.read_text(encoding="utf-8"))
        assert record["methods"][0]["rationales"]["documents"] == 1

    def test_a_rationale_that_does_not_fit_is_named(self, place: Place) -> None:
        rows = [{"text": "Cold soup.", "marks": "01"}, {"text": "Good soup.", "marks": "011"}]
        source = place.write_rows("a.csv", rows)
        place.run("faithfulness", source, "--rationale_column=marks").assert_one_line(
            "a.csv:3: `marks` must have a 0 or 1 for each of the text's 2 words"
        )

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            (["--documents=0"], "`--documents` must be at least 1"),
            (["--output=o.html"], "the figures are written as .json"),
            (["--rationale_column=marks"], "set `--rationale_column` to one of them"),
            (["--seed=-1"], "`--seed` must be at least 0"),
            (["--compare=missing"], "missing"),
        ],
    )
    def test_options_that_do_not_fit_are_refused(
        self, place: Place, options: list[str], part: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(place.folder)
        source = place.write_rows("a.csv")
        place.run("faithfulness", source, *options).assert_one_line(part)

    def test_another_model_with_other_words_is_refused(self, place: Place) -> None:
        from han.tokenization import Tokenizer

        make_bundle(tokenizer=Tokenizer(max_sentences=1)).save(place.folder / "short")
        place.run(
            "faithfulness", place.write_rows("a.csv"), f"--compare={place.folder / 'short'}"
        ).assert_one_line("is of other words")

    def test_a_file_without_words_is_refused(self, place: Place) -> None:
        source = place.write("a.csv", "text,id\n ,a\n")
        place.run("faithfulness", source).assert_one_line("no document with a word")


class TestSample:
    def test_it_keeps_the_order_and_takes_all_where_there_are_few(self) -> None:
        assert sample(range(5), 5) == sample(range(5), 9) == [0, 1, 2, 3, 4]
        drawn = sample(range(1000), 50, seed=1)
        assert drawn == sorted(set(drawn))
        assert len(drawn) == 50
        assert drawn == sample(range(1000), 50, seed=1) != sample(range(1000), 50, seed=2)

    def test_each_is_as_likely(self) -> None:
        counts = [0] * 10
        for seed in range(2000):
            for item in sample(range(10), 3, seed):
                counts[item] += 1
        assert all(abs(count - 600) < 100 for count in counts)


def test_models_of_different_labels_share_a_page(place: Place) -> None:
    other = save_model(place.folder / "other", labels=("a", "b", "c"))
    target = place.folder / "o.html"
    outcome = place.run(
        "explain", place.write_rows("a.csv"), f"--compare={other}", f"--output={target}"
    )
    assert outcome.status == 0
    assert target.exists()
