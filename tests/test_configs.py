from __future__ import annotations

import argparse
import contextlib
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import han
from han.cli.demo import ARGUMENTS, demo
from han.recipe import Recipe
from tests.benchmarks import paper_data
from tests.reviews import han as run_han
from tests.reviews import read_csv, write_reviews

FOLDER = Path(__file__).parent.parent / "configs"
OVERLAYS = {"wandb": "WandbLogger", "tensorboard": "TensorBoardLogger"}  # and what they log with
SWEEP = FOLDER / "sweep.yaml"  # is W&B's to read
OTHERS = {SWEEP, *(FOLDER / f"{name}.yaml" for name in OVERLAYS)}
CONFIGS = sorted({*FOLDER.glob("*.yaml")} - OTHERS)
TANG = ("yelp2013", "yelp2014", "yelp2015", "imdb10")
ZHANG = ("yahoo_answers", "amazon_full")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def effective(capsys: pytest.CaptureFixture[str], *args: str | Path) -> dict[str, Any]:
    """Return the whole configuration that `han fit` makes of `args`."""
    with pytest.raises(SystemExit):
        run_han("fit", *args, "--print_config")
    return dict(yaml.safe_load(capsys.readouterr().out))


def differences(config: dict[str, Any], default: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Return the values of a configuration that are not the default ones, by their path."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= differences(value, default[key], f"{at}{key}.")
        elif value != default[key]:
            found[f"{at}{key}"] = value
    return found


def told(path: Path, command: str) -> list[str]:
    """Return the arguments with which a configuration says that a command is to be run."""
    content = path.read_text(encoding="utf-8").replace(" configs/", f" {FOLDER}/")
    [line] = [line for line in content.splitlines() if line.startswith(f"#   {command} ")]
    return line.removeprefix(f"#   {command} ").split()


def configs(path: Path) -> list[str]:
    """Return the `--config` options with which a configuration says that it is to be run."""
    args = told(path, "han fit")
    end = args.index("--data.train") if "--data.train" in args else len(args)
    return args[:end]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestEveryConfig:
    def test_it_parses(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert effective(capsys, "--config", path)

    def test_it_says_how_to_run_it(self, path: Path) -> None:
        assert configs(path)[-2:] == ["--config", str(path)]

    @pytest.mark.parametrize("command", ["validate", "test", "predict"])
    def test_the_other_commands_read_it_too(
        self, path: Path, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_han(command, *configs(path)) == 1
        assert "needs a trained network" in capsys.readouterr().err

    def test_it_trains(self, path: Path, folder: Path) -> None:
        write_reviews(folder / "reviews.csv", 60)
        args = ("--data.train=reviews.csv", "--data.cache_dir=cache", "--trainer.max_epochs=1")
        assert run_han("fit", *configs(path), *args, "--run_dir=run") == 0
        assert han.load("run").classify("The soup was cold.").label in ("bad", "good")


@pytest.mark.parametrize("name", OVERLAYS)
class TestOverlays:
    def test_it_adds_a_logger_and_callbacks_to_another_config_alone(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = configs(FOLDER / f"{name}.yaml")
        assert args[-2:] == ["--config", str(FOLDER / f"{name}.yaml")]
        without, both = effective(capsys, *args[:-2]), effective(capsys, *args)
        added = differences(both, without)
        assert added.keys() == {"trainer.logger", "trainer.callbacks"}
        [logger] = added["trainer.logger"]
        assert logger["class_path"] == f"han.tracking.{OVERLAYS[name]}"

    def test_it_keeps_the_callbacks_and_loggers_that_are_there(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        own = {
            "callbacks": ["DeviceStatsMonitor"],
            "logger": [{"class_path": "CSVLogger", "init_args": {"save_dir": "mine"}}],
        }
        Path("own.yaml").write_text(yaml.safe_dump({"trainer": own}), encoding="utf-8")
        trainer = effective(capsys, "--config", "own.yaml", *configs(FOLDER / f"{name}.yaml"))[
            "trainer"
        ]
        assert trainer["callbacks"][0]["class_path"].endswith(".DeviceStatsMonitor")
        assert trainer["callbacks"][1]["class_path"] == "han.tracking.ClassFigures"
        assert len(trainer["logger"]) == 2


class TestSweep:
    def sweep(self) -> dict[str, Any]:
        return dict(yaml.safe_load(SWEEP.read_text(encoding="utf-8")))

    def command(self, values: dict[str, Any]) -> list[str]:
        """Return what an agent of W&B runs for these values."""
        command = [str(part) for part in self.sweep()["command"]]
        assert command[:2] == ["han", "fit"]
        assert command[-1] == "${args}"
        given = [f"--{name}={value}" for name, value in values.items()]
        return [part.replace("configs/", f"{FOLDER}/") for part in command[2:-1]] + given

    @pytest.mark.parametrize("end", [0, -1])
    def test_its_parameters_are_options(self, end: int, capsys: pytest.CaptureFixture[str]) -> None:
        values = {
            name: options.get("values", [options.get("min"), options.get("max")])[end]
            for name, options in self.sweep()["parameters"].items()
        }
        config = effective(capsys, *self.command(values))
        for name, value in values.items():
            found = config
            for part in name.split("."):
                found = found[part]
            assert found == value, name

    def test_it_goes_by_what_is_logged(self, capsys: pytest.CaptureFixture[str]) -> None:
        metric = self.sweep()["metric"]
        config = effective(capsys, *self.command({}))
        assert metric == {"name": f"best_{config['monitor']}", "goal": "minimize"}
        assert config["trainer"]["logger"][0]["class_path"] == "han.tracking.WandbLogger"


class TestPaper:
    def test_a_later_config_adds_to_an_earlier_one(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paper = effective(capsys, "--config", FOLDER / "paper.yaml")
        both = effective(capsys, *configs(FOLDER / "yelp2013.yaml"))
        assert differences(both, paper) == {"name": "yelp2013", "data.train": "yelp-2013.jsonl"}

    def test_it_is_one_network(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert effective(capsys, "--config", FOLDER / "paper.yaml")["model"]["members"] == 1

    def test_nothing_follows_from_the_number_of_documents(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paper = effective(capsys, "--config", FOLDER / "paper.yaml")
        said = {**paper, **paper["model"], **paper["data"]}
        said["epochs"] = paper["trainer"]["max_epochs"]
        assert None not in [said[name] for name in Recipe._fields]

    def test_word_vectors_are_learned_from_the_documents(self, folder: Path) -> None:
        write_reviews(folder / "reviews.csv", 60)
        args = ("--data.train=reviews.csv", "--data.cache_dir=cache", "--trainer.max_epochs=1")
        assert run_han("fit", "--config", FOLDER / "paper.yaml", *args, "--run_dir=run") == 0
        [vectors] = Path("cache/corpora").glob("*.npz")
        with np.load(vectors) as archive:
            assert archive["vectors"].shape[1] == 200


class TestDataSetsOfThePaper:
    """Files as their makers distribute them, through the commands that the configurations name."""

    def fit(self, path: Path, *options: str) -> dict[str, Any]:
        """Convert and train as the configuration says; return the data's summary."""
        assert paper_data.main(told(path, "python -m tests.benchmarks.paper_data")) == 0
        quick = ("--trainer.max_epochs=1", "--data.cache_dir=cache", "--run_dir=run")
        small = ("--data.embedding_size=4", "--data.min_count=1", "--model.hidden_size=3")
        assert run_han("fit", *told(path, "han fit"), *quick, *small, *options) == 0
        config = json.loads(Path("run/model/config.json").read_text("utf-8"))
        return dict(config["data"])

    @pytest.mark.parametrize("name", TANG)
    def test_tang_2015(self, name: str) -> None:
        path = FOLDER / f"{name}.yaml"
        [stem] = told(path, "python -m tests.benchmarks.paper_data")
        review = "u{0}==\t\tb{0}\t\t{1}\t\tthe soup was n't hot . <sssss> go , #{0} !\n"
        for split, count in (("train", 20), ("dev", 4), ("test", 5)):
            lines = (review.format(index, index % 4 + 1) for index in range(count))
            Path(f"{stem}-{split}.txt.ss").write_text("".join(lines), encoding="utf-8")
        summary = self.fit(path)
        found = [summary[split]["documents"] for split in ("train", "validation", "test")]
        assert found == [20, 4, 5]
        assert summary["test"]["classes"] == {"1": 2, "2": 1, "3": 1, "4": 1}
        assert summary["test"]["sentences"] == 10
        assert han.load("run").labels == ("1", "2", "3", "4")

    @pytest.mark.parametrize("name", ZHANG)
    def test_zhang_2015(self, name: str) -> None:
        path = FOLDER / f"{name}.yaml"
        [stem] = told(path, "python -m tests.benchmarks.paper_data")
        Path(stem).mkdir()
        texts = {
            "yahoo_answers": ("Why?", "", 'It "is" so,\\nas it was.'),
            "amazon_full": ("A", "B."),
        }
        for split, count in (("train", 20), ("test", 5)):
            with open(f"{stem}/{split}.csv", "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, quoting=csv.QUOTE_ALL)
                writer.writerows([index % 3 + 1, *texts[name]] for index in range(count))
        summary = self.fit(path)
        found = [summary[split]["documents"] for split in ("train", "validation", "test")]
        assert found == [18, 2, 5]
        assert summary["test"]["classes"] == {"1": 2, "2": 2, "3": 1}
        text = json.loads(Path(f"{stem}.jsonl").read_text("utf-8").splitlines()[0])["text"]
        assert text in ('Why?\n\n\n\nIt "is" so,\nas it was.', "A\n\nB.")

    @pytest.mark.parametrize(
        ("file", "content", "part"),
        [
            (
                "x-train.txt.ss",
                "u\t\tb\t\t5\t\ttext\nu\tb\t5\ttext\n",
                "x-train.txt.ss:2: expected are",
            ),
            ("x/train.csv", '"5","title","text"\n"label","title"\n', "train.csv:2: expected are"),
            ("x/train.csv", '"5"\n', "train.csv:1: expected are"),
            ("x/train.csv", '"5","text"\n\n', "train.csv:2: expected are"),
            ("x/train.csv", '"5","te"xt"\n', "expected after"),
            ("other", "", "x-train.txt.ss"),
        ],
    )
    def test_another_format_is_an_error_and_leaves_nothing(
        self,
        folder: Path,
        file: str,
        content: str,
        part: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content)
        assert paper_data.main(["x"]) == 1
        out, err = capsys.readouterr()
        assert (out, part in err) == ("", True), err
        assert not [path for path in folder.iterdir() if "jsonl" in path.name]


class TestDemo:
    def test_its_config_is_what_the_command_runs(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert effective(capsys, "--config", FOLDER / "demo.yaml") == effective(capsys, *ARGUMENTS)

    @pytest.mark.slow
    def test_the_whole_road_on_the_bundled_corpus(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_han("demo", "--run_dir=demo") == 0
        out, err = capsys.readouterr()
        assert "report: demo/report.html" in out
        assert "han classify demo " in err
        accuracy = [float(r["test_accuracy"]) for r in read_csv(Path("demo/metrics.csv"))[-1:]]
        assert accuracy[0] >= 0.85
        assert len(Path("demo/report.html").read_text(encoding="utf-8")) > 100_000
        assert {path.name for path in folder.iterdir()} == {"demo"}
        text = "We train a quadruped robot to walk on sand with reinforcement learning."
        assert "robot" in han.load("demo").classify(text).label.lower()

    def test_it_writes_a_report_of_the_test_documents(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        small = ("--data.vectors=none", "--data.embedding_size=4", "--model.hidden_size=2")
        short = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
        arguments = (*ARGUMENTS, *small, *short, "--data.cache_dir=cache")
        monkeypatch.setattr("han.cli.demo.ARGUMENTS", arguments)
        with contextlib.chdir(folder):
            demo(argparse.Namespace(run_dir=None))
        out, err = capsys.readouterr()
        report = Path("runs/demo/1/report.html")
        assert out.splitlines()[4] == f"report: {report}"
        assert report.read_text(encoding="utf-8").count("arXiv") > 0
        assert f"han explain  {Path('runs/demo/1')}" in err
