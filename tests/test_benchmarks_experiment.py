from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from tests.benchmarks import ablation, accuracy, results
from tests.benchmarks.experiment import (
    Experiment,
    Run,
    Source,
    Variant,
    figures,
    named,
    read_corpora,
)
from tests.benchmarks.max_pooling import MaxPooling
from tests.reviews import NETWORK, han, rows, write_reviews, write_rows

ROOT = Path(__file__).parent.parent
LISTS = sorted((ROOT / "tests/benchmarks").glob("*.yaml"))
HARDWARE = {"processor": "Chip", "threads": 2, "loops": "plain torch", "device": "cpu"}
CIRCUMSTANCES = {"hardware": HARDWARE, "versions": {"han": "1", "torch": "2"}}
SMALL = "--model.hidden_size 4 --trainer.max_epochs 1"


def make_experiment(**changes: Any) -> Experiment:  # noqa: ANN401  # whatever it takes
    """Return two variants on one corpus with two seeds."""
    made = Experiment(
        name="made",
        layout="corpora",
        split="test",
        variants=(Variant("one"), Variant("other", ("--model.x", "0"))),
        corpora=(Source("Some news", "news.csv"),),
        seeds=(0, 1),
    )
    return replace(made, **changes)


def finish(
    run: Run,
    accuracy: float,
    *,
    seconds: float = 10,
    config: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    validation: list[tuple[float, float]] | None = None,
) -> None:
    """Write what a finished run leaves, with these figures.

    `validation` are the losses and accuracies of the epochs.
    """
    run.directory.mkdir(parents=True)
    about = {
        "command": ["han", *run.command()],
        "documents": {"train": 1200, "test": 300},
        "classes": 3,
        "epochs": 4,
        "recipe": recipe or {"epochs": 12},
        "seconds": {"training": seconds, "command": seconds + 1},
        **CIRCUMSTANCES,
    }
    content = {"monitor": "val_loss", "data": {"train": run.corpus.path}, **(config or {})}
    tested = {"accuracy": accuracy, "macro_f1": accuracy - 0.1}
    for name, value in (("run", about), ("test_metrics", tested)):
        (run.directory / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    (run.directory / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    names = ("epoch", "train_loss", "val_loss", "val_accuracy", "val_macro_f1")
    logged: list[tuple[object, ...]] = [(0, 2.0, "", "", "")]
    logged += [(0, "", loss, value, value - 0.2) for loss, value in validation or ()]
    with open(run.directory / "metrics.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, *logged])


def write_baseline(run: Run, **accuracies: float) -> None:
    models = {
        name.replace("_", " "): {"test": {"accuracy": value, "macro_f1": value}}
        for name, value in accuracies.items()
    }
    (run.directory / "baseline.json").write_text(json.dumps({"models": models}), encoding="utf-8")


def table(folder: Path) -> list[list[str]]:
    """Return the cells of the table that the runs in a folder give."""
    lines = results.render(results.collect(folder)).split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


class TestTables:
    def test_a_corpus_is_a_row_of_means_beside_the_better_linear_model(
        self, tmp_path: Path
    ) -> None:
        experiment = make_experiment()
        experiment.save(tmp_path)
        runs = list(experiment.runs(tmp_path))
        for run, value, seconds in zip(runs, (0.9, 0.5, 0.8, 0.7), (10, 20, 30, 99), strict=True):
            finish(run, value, seconds=seconds)
        write_baseline(runs[0], linear_SVM=0.84, logistic_regression=0.81)
        assert table(tmp_path) == [
            ["corpus", "documents", "classes", "linear", "one", "other", "training, one"],
            ["---"] * 7,
            ["Some news", "1,500", "3", ".840 / .840", "**.850 ± .071 / .750**",
             ".600 ± .141 / .500", "20 s"],
        ]  # fmt: skip
        text = results.render(results.collect(tmp_path))
        assert "Accuracy / macro-F1 on test, seeds 0, 1; " in text
        assert "\nChip, 2 threads, plain torch; han 1, torch 2.\n" in text
        assert "\nhan fit --data.train news.csv --seed_everything 0\n" in text

    def test_the_linear_model_is_marked_where_it_is_better(self, tmp_path: Path) -> None:
        experiment = make_experiment(seeds=(0,), variants=(Variant("one"),))
        experiment.save(tmp_path)
        (run,) = experiment.runs(tmp_path)
        finish(run, 0.9)
        write_baseline(run, linear_SVM=0.95)
        assert table(tmp_path)[-1][3:5] == ["**.950 / .950**", ".900 / .800"]

    def test_differences_are_of_runs_with_the_same_seed_and_fold(self, tmp_path: Path) -> None:
        experiment = make_experiment(layout="differences", split="validation", folds=2)
        experiment.save(tmp_path)
        (tmp_path / "documents").mkdir()
        (tmp_path / "documents/Some-news.jsonl").touch()
        for run in experiment.runs(tmp_path):
            first = run.variant.name == "one"
            value = 0.5 + run.seed / 10 + run.fold / 100 - (0 if first else 0.01 * run.fold)
            finish(run, value, seconds=10 if first else 15, validation=[(1.0, 0.0)])
        assert table(tmp_path)[2:] == [
            ["one", "", ".565 ± .058", "1 ×"],
            # Twice a point less, twice two: 1.5 on average, their deviation 1 / sqrt(3), over 2
            ["other", "`--model.x 0`", "−1.5 ± 0.3", "1.50 ×"],  # noqa: RUF001  # a minus sign
        ]

    def test_groups_are_columns(self, tmp_path: Path) -> None:
        variants = tuple(
            Variant(name, (f"--model.{name}=1",), group) for group in "ab" for name in ("p", "q")
        )
        experiment = make_experiment(layout="grid", seeds=(0,), variants=variants)
        experiment.save(tmp_path)
        for run, value in zip(experiment.runs(tmp_path), (0.1, 0.2, 0.3, 0.4), strict=True):
            finish(run, value)
        assert table(tmp_path) == [
            ["", "Some news, a", "Some news, b"],
            ["---"] * 3,
            ["p", ".100", ".300"],
            ["q", ".200", ".400"],
        ]

    def test_what_is_missing_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        experiment = make_experiment()
        experiment.save(tmp_path)
        finish(next(experiment.runs(tmp_path)), 0.9)
        assert table(tmp_path)[-1][4:6] == ["**.900 (1 of 2 runs) / .800**", ""]
        assert capsys.readouterr().err == "3 of 4 runs are not finished\n"

    def test_a_run_counts_without_a_baseline_that_another_command_would_add(
        self, tmp_path: Path
    ) -> None:
        experiment = make_experiment(baseline=True, seeds=(0,), variants=(Variant("one"),))
        experiment.save(tmp_path)
        (run,) = experiment.runs(tmp_path)
        finish(run, 0.9)
        assert not run.finished
        assert table(tmp_path)[-1][3:5] == ["", "**.900 / .800**"]


class TestCollect:
    def test_runs_from_before_a_change_of_the_defaults_are_not_averaged(
        self, tmp_path: Path
    ) -> None:
        experiment = make_experiment(
            variants=(Variant("one"),), corpora=(Source("a", "a.csv"), Source("b", "b.csv"))
        )
        experiment.save(tmp_path)
        for run in experiment.runs(tmp_path):
            changed = run.corpus.name == "b" and run.seed == 1
            finish(run, 0.9, config={"model": {"rate": 2 if changed else 1}, "name": "x"})
        with pytest.raises(ValueError, match=r"a/one/0 and .*b/one/1 .*model\.rate is 1 and 2"):
            results.collect(tmp_path)

    def test_nor_are_runs_from_before_a_change_of_what_follows_from_the_documents(
        self, tmp_path: Path
    ) -> None:
        corpora = (Source("a", "a.csv"), Source("b", "b.csv"))
        experiment = make_experiment(variants=(Variant("one"),), corpora=corpora)
        experiment.save(tmp_path)
        for run in experiment.runs(tmp_path):
            changed = run.corpus.name == "b" and run.seed == 1
            epochs = {"a": 12, "b": 3}[run.corpus.name] + changed
            finish(run, 0.9, recipe={"epochs": epochs})
        with pytest.raises(ValueError, match=r"b/one/0 and .*b/one/1 .*recipe\.epochs is 3 and 4"):
            results.collect(tmp_path)

    def test_options_of_one_corpus_alone_are_no_such_change(self, tmp_path: Path) -> None:
        corpora = (Source("a", "a.csv"), Source("b", "b.csv", ("--model.rate", "2")))
        experiment = make_experiment(seeds=(0,), variants=(Variant("one"),), corpora=corpora)
        experiment.save(tmp_path)
        for run in experiment.runs(tmp_path):
            finish(run, 0.9, config={"model": {"rate": 2 if run.corpus.options else 1}})
        assert len(results.collect(tmp_path)["cells"]) == 2

    def test_no_path_of_the_machine_is_told(self, tmp_path: Path) -> None:
        command = ["han", "fit", "--config", "configs/paper.yaml", f"--config={tmp_path}/my.yaml"]
        command += ["--data.train=../data/a b.csv", "--data.vectors", str(tmp_path / "v.npz")]
        command += ["--baseline", "--data.cache_dir", "/c", "--run_dir=/r", "--model.x=1"]
        assert results.shown(command) == (
            "han fit --config configs/paper.yaml --config my.yaml --data.train 'a b.csv' "
            "--data.vectors v.npz --model.x 1"
        )

    @pytest.mark.parametrize(
        ("monitor", "expected"), [("val_loss", 0.7), ("val_accuracy", 0.8), ("val_macro_f1", 0.8)]
    )
    def test_validation_figures_are_those_of_the_checkpoint_that_was_kept(
        self, tmp_path: Path, monitor: str, expected: float
    ) -> None:
        experiment = make_experiment(split="validation")
        (tmp_path / "documents").mkdir()
        (tmp_path / "documents/Some-news.jsonl").touch()
        run = next(experiment.runs(tmp_path))
        epochs = [(0.9, 0.6), (0.5, 0.7), (0.5, 0.75), (0.6, 0.8)]
        finish(run, 0.0, config={"monitor": monitor}, validation=epochs)
        assert figures(run) == pytest.approx({"accuracy": expected, "macro_f1": expected - 0.2})


class TestExperiment:
    def test_further_corpora_and_seeds_join_those_before(self, tmp_path: Path) -> None:
        make_experiment().save(tmp_path)
        further = make_experiment(corpora=(Source("More", "more.csv"),), seeds=(2,))
        further.save(tmp_path)
        joined = Experiment.load(tmp_path)
        assert [corpus.name for corpus in joined.corpora] == ["Some news", "More"]
        assert joined.seeds == (0, 1, 2)
        assert joined.variants == further.variants

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"variants": (Variant("one", ("--model.x", "1")),)}, "'one' with other options"),
            ({"corpora": (Source("Some news", "other.csv"),)}, "'Some news' with other options"),
            ({"options": ("--model.x", "1")}, r"another experiment \(options\)"),
        ],
    )
    def test_runs_of_other_options_are_not_mixed(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        make_experiment().save(tmp_path)
        with pytest.raises(ValueError, match=message):
            make_experiment(**changes).save(tmp_path)
        assert Experiment.load(tmp_path) == make_experiment()

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(ValueError, match="holds something else"):
            make_experiment().save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_names_that_would_share_a_folder_are_refused(self) -> None:
        with pytest.raises(ValueError, match="same name"):
            make_experiment(corpora=(Source("a b", "1.csv"), Source("a/b", "2.csv")))


class TestFolds:
    def test_each_document_is_held_out_once_and_none_of_test_is_there(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "reviews.csv", rows(), ("id", "review", "stars", "part"))
        columns = "--data.text_column review --data.label_column=stars --data.split_column part"
        options = shlex.split(f"{columns} --model.x 1")
        corpus = Source("reviews", str(path), tuple(options))
        experiment = make_experiment(split="validation", folds=4, corpora=(corpus,))
        commands = [run.command() for run in experiment.runs(tmp_path / "runs")]
        written = (tmp_path / "runs/documents/reviews.jsonl").read_text("utf-8").splitlines()
        documents = [json.loads(line) for line in written]
        expected = {row[0]: row for row in rows() if row[3] != "test"}
        assert {one["id"]: (one["text"], one["label"]) for one in documents} == {
            name: (row[1], row[2]) for name, row in expected.items()
        }
        for one in documents:
            splits = Counter(one[f"fold{fold}"] for fold in range(1, 5))
            assert splits == {"train": 3, "test": 1}
        for fold in range(1, 5):
            held_out = Counter(d["label"] for d in documents if d[f"fold{fold}"] == "test")
            assert held_out == {"bad": 4, "good": 4}
        for command in commands:
            assert "--data.text_column" not in command
            assert command[:3] == ["fit", "--model.x", "1"]
            assert command[command.index("--data.train") + 1].endswith("documents/reviews.jsonl")
        split_columns = {command[command.index("--data.split_column") + 1] for command in commands}
        assert split_columns == {"fold1", "fold2", "fold3", "fold4"}

    def test_without_folds_the_split_of_the_corpus_stays(self, tmp_path: Path) -> None:
        path = write_reviews(tmp_path / "reviews.csv")
        experiment = make_experiment(split="validation", corpora=(Source("r", str(path)),))
        next(experiment.runs(tmp_path)).command()
        lines = (tmp_path / "documents/r.jsonl").read_text("utf-8").splitlines()
        splits = Counter(json.loads(line)["split"] for line in lines)
        assert splits == {"train": 26, "validation": 6}

    def test_documents_in_further_files_are_refused(self, tmp_path: Path) -> None:
        corpus = Source("r", "r.csv", ("--data.validation=v.csv",))
        run = next(make_experiment(split="validation", corpora=(corpus,)).runs(tmp_path))
        with pytest.raises(ValueError, match="must be in one file"):
            run.command()


class TestArguments:
    def test_a_corpus_is_named_by_its_stem_or_as_is_said(self, tmp_path: Path) -> None:
        assert named("data/bbc.jsonl.gz") == ("bbc", "data/bbc.jsonl.gz")
        assert named("BBC news=data/bbc.jsonl.gz") == ("BBC news", "data/bbc.jsonl.gz")
        assert named("hf://a/b?config=c") == ("b?config=c", "hf://a/b?config=c")
        odd = tmp_path / "a=b.csv"
        odd.touch()
        assert named(str(odd)) == ("a=b", str(odd))

    def test_options_go_to_the_corpus_that_they_name(self, tmp_path: Path) -> None:
        path = str(write_reviews(tmp_path / "r.csv"))
        corpora = read_corpora([path, f"x={path}"], ["x: --data.label_column 'my label'"])
        assert corpora == (
            Source("r", path),
            Source("x", path, ("--data.label_column", "my label")),
        )
        with pytest.raises(ValueError, match="begin with one of r and"):
            read_corpora([path], ["y: --model.x 1"])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("variants: [", "not YAML"),
            ("[]", "the file must have variants"),
            ("variants: []", "must be a list"),
            ("variants: [{options: x}]", "a variant must have name"),
            ("variants: [{name: x, optoins: y}]", "a variant must have name"),
            ("{variants: [{name: x}], split: train}", "must be validation or test"),
            ("variants: [{name: x, options: [y]}]", "must be one text"),
        ],
    )
    def test_a_list_that_is_none_is_one_line(
        self, tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "list.yaml"
        path.write_text(content, encoding="utf-8")
        corpus = str(write_reviews(tmp_path / "r.csv"))
        assert ablation.main([str(path), corpus, "--runs", str(tmp_path / "runs")]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "runs").exists()


class TestWholeRoad:
    def test_accuracy_runs_once_and_goes_to_the_readme(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        corpus = write_reviews(tmp_path / "reviews.csv")
        own = f"reviews: --data.cache_dir {tmp_path / 'cache'} {SMALL}"
        runs = tmp_path / "runs"
        command = [str(corpus), "--runs", str(runs), "--seeds", "3", "--jobs", "2"]
        assert accuracy.main([*command, "--options", own]) == 0
        out, err = capsys.readouterr()
        assert "[2/2] " in err
        assert not list(runs.rglob("checkpoints"))
        written = {path: path.stat().st_mtime_ns for path in runs.rglob("run.json")}
        assert {path.parts[-3] for path in written} == {"built-in-vectors", "no-vectors"}
        assert (runs / "reviews/built-in-vectors/3/baseline.json").is_file()

        (runs / "reviews/no-vectors/3/run.json").unlink()  # as if it had been interrupted
        assert accuracy.main([*command, "--options", own]) == 0
        assert capsys.readouterr().out.splitlines()[0] == out.splitlines()[0]
        again = {path: path.stat().st_mtime_ns for path in runs.rglob("run.json")}
        assert {path.parts[-3] for path in again if again[path] != written[path]} == {"no-vectors"}

        readme, figures_file = tmp_path / "README.md", tmp_path / "results.json"
        readme.write_text("a\n<!-- results accuracy -->\nold\n<!-- /results -->\nb\n", "utf-8")
        arguments = ["--runs", str(runs), "--json", str(figures_file), "--readme", str(readme)]
        assert results.main(arguments) == 0
        text = readme.read_text("utf-8")
        assert text.startswith("a\n<!-- results accuracy -->\n| corpus |")
        assert text.endswith("```\n<!-- /results -->\nb\n")
        assert str(tmp_path) not in text + figures_file.read_text("utf-8")
        (cell, _) = json.loads(figures_file.read_text("utf-8"))["accuracy"]["cells"]
        tested = json.loads((runs / "reviews/built-in-vectors/3/test_metrics.json").read_text())
        assert cell["runs"][0]["accuracy"] == tested["accuracy"]
        assert cell["runs"][0]["seed"] == 3

    def test_a_run_that_fails_is_told_and_the_others_go_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "list.yaml"
        variants = "[{name: bad, options: --model.nothing 1}, {name: good}]"
        path.write_text(f"options: --data.vectors none {SMALL}\nvariants: {variants}\n", "utf-8")
        corpus = str(write_reviews(tmp_path / "r.csv"))
        command = [str(path), corpus, "--runs", str(tmp_path / "runs"), "--seeds", "0"]
        assert ablation.main([*command, "--jobs", "2"]) == 1
        out, err = capsys.readouterr()
        assert re.search(r"r, bad, seed 0: failed: han: .*nothing", err)
        assert "1 failed; see output.txt in " in err
        assert re.search(r"\| good \|  \|  \|", out)  # it has nothing to be compared with
        assert not list((tmp_path / "runs").rglob("test_metrics.json"))

    def test_interrupted_it_leaves_no_process_and_no_finished_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        started = []

        class Process(subprocess.Popen[bytes]):
            def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
                super().__init__(*args, **options)
                started.append(self)

        monkeypatch.setattr(subprocess, "Popen", Process)
        monkeypatch.setattr(time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        handler = signal.getsignal(signal.SIGTERM)
        corpus = str(write_reviews(tmp_path / "reviews.csv"))
        assert accuracy.main([corpus, "--runs", str(tmp_path / "runs"), "--jobs", "2"]) == 130
        assert [process.returncode for process in started] == [-signal.SIGKILL] * 2
        assert signal.getsignal(signal.SIGTERM) == handler
        assert capsys.readouterr().err.endswith("interrupted; the same command goes on\n")
        assert not list((tmp_path / "runs").rglob("run.json"))


class TestJoined:
    def collected(self, folder: Path, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the figures of runs whose accuracies are .5, .6 and so on."""
        experiment = make_experiment(seeds=(0,), **changes)
        experiment.save(folder)
        for number, run in enumerate(experiment.runs(folder), 5):
            finish(run, number / 10)
        return results.collect(folder)

    def test_new_figures_take_their_places_and_the_others_stay(self, tmp_path: Path) -> None:
        one, other, third = Variant("one"), Variant("other", ("--model.x", "0")), Variant("third")
        news, mail = Source("news", "news.csv"), Source("mail", "mail.csv")
        before = self.collected(tmp_path / "a", variants=(one, other), corpora=(news,))
        before["corpora"][0]["baseline"] = {"linear SVM": {"accuracy": 0.4, "macro_f1": 0.4}}
        new = self.collected(tmp_path / "b", variants=(other, third), corpora=(mail, news))
        section = results.joined(before, {**new, "seeds": [1]}, "made")
        accuracies = {
            (cell["corpus"], cell["variant"]): [run["accuracy"] for run in cell["runs"]]
            for cell in section["cells"]
        }
        assert accuracies == {
            ("news", "one"): [0.5],
            ("news", "other"): [0.7],
            ("news", "third"): [0.8],
            ("mail", "other"): [0.5],
            ("mail", "third"): [0.6],
        }
        assert [variant["name"] for variant in section["variants"]] == ["one", "other", "third"]
        assert [corpus["name"] for corpus in section["corpora"]] == ["news", "mail"]
        assert section["corpora"][0]["baseline"] == before["corpora"][0]["baseline"]
        assert section["seeds"] == [0, 1]

    def test_each_machine_that_figures_are_of_is_told_once(self, tmp_path: Path) -> None:
        news, mail = (Source("news", "news.csv"),), (Source("mail", "mail.csv"),)
        before = self.collected(tmp_path / "a", corpora=news)
        new = self.collected(tmp_path / "b", corpora=mail)
        for cell in new["cells"]:
            cell["circumstances"] = [{**CIRCUMSTANCES, "hardware": {**HARDWARE, "threads": 1}}]
        text = results.render(results.joined(before, new, "made"))
        assert text.count("Chip, 2 threads, plain torch") == 1
        assert text.count("Chip, 1 thread, plain torch") == 1
        replaced = self.collected(tmp_path / "c", corpora=news)
        for cell in replaced["cells"]:
            cell["circumstances"] = new["cells"][0]["circumstances"]
        assert "2 threads" not in results.render(results.joined(before, replaced, "made"))

    def test_the_file_is_filled_folder_by_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "results.json"
        for name in ("news", "mail", "news"):
            folder = tmp_path / name
            if not folder.exists():
                self.collected(folder, corpora=(Source(name, f"{name}.csv"),))
            assert results.main(["--runs", str(folder), "--json", str(path)]) == 0
        section = json.loads(path.read_text(encoding="utf-8"))["made"]
        found = [(cell["corpus"], cell["variant"]) for cell in section["cells"]]
        assert found == [(name, one) for name in ("news", "mail") for one in ("one", "other")]

    def test_figures_of_something_else_are_not_joined(self, tmp_path: Path) -> None:
        before = self.collected(tmp_path / "a")
        with pytest.raises(ValueError, match=r"`made` have another split and folds than these"):
            results.joined(before, {**before, "split": "validation", "folds": 3}, "made")
        changed = self.collected(tmp_path / "b", variants=(Variant("other", ("--y", "1")),))
        with pytest.raises(ValueError, match=r"'other' with `--model.x 0`, these runs with `--y 1"):
            results.joined(before, changed, "made")


class TestReadme:
    def test_its_tables_are_what_the_recorded_figures_say(self) -> None:
        sections = json.loads(results.RESULTS.read_text(encoding="utf-8"))
        blocks = re.findall(
            r"<!-- results ([\w-]+) -->\n(.*?)<!-- /results -->",
            (ROOT / "README.md").read_text(encoding="utf-8"),
            re.DOTALL,
        )
        assert {name: results.render(section) for name, section in sections.items()} == dict(blocks)

    def test_a_readme_without_blocks_or_results_is_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        readme = tmp_path / "README.md"
        for text, message in (
            ("nothing", "no line"),
            ("<!-- results x -->\n<!-- /results -->\n", "no results of x"),
        ):
            readme.write_text(text, encoding="utf-8")
            arguments = ["--readme", str(readme), "--json", str(tmp_path / "results.json")]
            assert results.main(arguments) == 1
            err = capsys.readouterr().err
            assert message in err
            assert err.count("\n") == 1
            assert readme.read_text(encoding="utf-8") == text


def effective(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the whole configuration that `han fit` makes of options."""
    with pytest.raises(SystemExit):
        han("fit", *options, "--print_config")
    return dict(yaml.safe_load(capsys.readouterr().out))


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_variant_that_is_listed_differs_from_the_others(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    listed = ablation.read_variants(path)
    configs = [
        (one.module, effective(listed["options"] + one.options, capsys))
        for one in listed["variants"]
    ]
    assert all(config not in configs[:number] for number, config in enumerate(configs))


def test_a_variant_may_be_run_by_another_module(tmp_path: Path) -> None:
    write_reviews(tmp_path / "reviews.csv")
    (tmp_path / "variants.yaml").write_text(
        "split: test\n"
        f"options: {' '.join((*NETWORK, '--model.attention_size=4', '--trainer.max_epochs=1'))}\n"
        "variants:\n"
        "  - {name: attention}\n"
        "  - {name: maximum, module: tests.benchmarks.max_pooling}\n",
        encoding="utf-8",
    )
    runs, documents = tmp_path / "runs", tmp_path / "reviews.csv"
    arguments = (str(tmp_path / "variants.yaml"), f"r={documents}", "--seeds", "0")
    assert ablation.main([*arguments, "--runs", str(runs)]) == 0
    cells = results.collect(runs)["cells"]
    assert [cell["command"].split(" fit ")[0] for cell in cells] == [
        "han",
        "python -m tests.benchmarks.max_pooling",
    ]
    weights = {
        name: safetensors.torch.load_file(runs / f"r/{name}/0/model/model.safetensors").keys()
        for name in ("attention", "maximum")
    }
    assert any("attention.context" in name for name in weights["attention"])
    assert not any("attention.context" in name for name in weights["maximum"])


def test_the_maximum_of_each_element_is_pooled() -> None:
    hidden = torch.tensor([[1.0, 5.0], [3.0, 2.0], [3.0, -1.0], [-4.0, -2.0]], requires_grad=True)
    pooled, weights = MaxPooling()(hidden, torch.tensor([3, 0, 1]))
    assert pooled.tolist() == [[3.0, 5.0], [0.0, 0.0], [-4.0, -2.0]]
    # The first supplies one element alone, the next two share the other.
    assert weights.tolist() == [[0.5], [0.25], [0.25], [1.0]]
    pooled.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.sum(0).tolist() == [2.0, 2.0]
