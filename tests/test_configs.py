from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml

import han
from han.cli.demo import ARGUMENTS, demo
from tests.reviews import han as run_han
from tests.reviews import read_csv, write_reviews

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestEveryConfig:
    def test_it_parses(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert effective(capsys, "--config", path)

    def test_it_says_how_to_run_it(self, path: Path) -> None:
        assert f"#   han fit --config configs/{path.name}" in path.read_text(encoding="utf-8")

    @pytest.mark.parametrize("command", ["validate", "test", "predict"])
    def test_the_other_commands_read_it_too(
        self, path: Path, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_han(command, "--config", path) == 1
        assert "needs a trained network" in capsys.readouterr().err

    def test_it_trains(self, path: Path, folder: Path) -> None:
        write_reviews(folder / "reviews.csv", 60)
        args = ("--data.train=reviews.csv", "--data.cache_dir=cache", "--trainer.max_epochs=1")
        assert run_han("fit", "--config", path, *args, "--run_dir=run") == 0
        assert han.load("run").classify("The soup was cold.").label in ("bad", "good")


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
        assert out.splitlines()[3] == f"report: {report}"
        assert report.read_text(encoding="utf-8").count("arXiv") > 0
        assert f"han explain  {Path('runs/demo/1')}" in err
