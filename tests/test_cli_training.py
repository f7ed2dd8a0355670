from __future__ import annotations

import contextlib
import errno
import gc
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import han
from han import native
from han.bundle import Bundle
from han.cli.recording import AtomicCheckpointIO, metrics_file
from han.cli.runs import find_checkpoint, new_run, run_of
from han.datamodule import HANDataModule
from han.documents import Document
from han.module import HANModule
from han.recipe import recipe_for
from tests.reviews import (
    CACHE,
    FILES,
    NETWORK,
    PLAIN,
    QUICK,
    assert_same_weights,
    figures,
    files,
    fit,
    left,
    read_csv,
    record,
    rows,
    validation_losses,
    weights,
    write_reviews,
    write_rows,
)
from tests.reviews import han as run_han
from tests.varieties import VARIETIES, flags

LEARNING = (  # enough for these documents
    "--trainer.max_epochs=4",
    "--data.batch_size=4",
    "--model.learning_rate=0.05",
    "--model.embedding_learning_rate=0.1",
    *PLAIN,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder that holds `reviews.csv` alone."""
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path / "reviews.csv")
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that learned its documents; nobody may change it."""
    folder = tmp_path_factory.mktemp("trained")
    write_reviews(folder / "reviews.csv")
    with contextlib.chdir(folder):
        assert fit(*LEARNING) == 0
    return folder


@pytest.fixture
def copied(trained: Path, folder: Path) -> Path:
    """Copy that run to this folder and return its directory."""
    return Path(shutil.copytree(trained / "runs", folder / "runs")) / "reviews" / "1"


class TestFit:
    def test_a_run_directory_holds_what_it_should_and_nothing_else(self, trained: Path) -> None:
        assert files(trained / "runs") == {f"reviews/1/{name}" for name in FILES}
        assert {path.name for path in trained.iterdir()} == {"cache", "reviews.csv", "runs"}

    def test_figures_of_the_test_documents_are_whole(self, trained: Path) -> None:
        found = figures(trained / "runs/reviews/1")
        assert found.keys() >= {
            "accuracy", "macro_f1", "loss", "documents", "per_class", "seconds", "words_per_second",
        }  # fmt: skip
        assert found["documents"] == 8
        assert found["per_class"].keys() == {"bad", "good"}
        assert found["seconds"] > 0
        words = 8 * 2 + sum(len(text.split()) for _, text, _, split in rows() if split == "test")
        assert found["words_per_second"] == pytest.approx(words / found["seconds"])

    def test_it_says_how_it_came_about(self, trained: Path) -> None:
        found = record(trained / "runs/reviews/1")
        assert found["command"] == ["han", "fit", "--data.train=reviews.csv", *QUICK, *LEARNING]
        assert (found["seed"], found["classes"], found["epochs"]) == (0, 2, 4)
        assert found["documents"] == {"train": 26, "validation": 6, "test": 8}
        assert 0 < found["seconds"]["training"] < found["seconds"]["command"]
        assert found["hardware"]["threads"] == torch.get_num_threads()
        assert found["hardware"]["processor"]
        assert found["versions"]["torch"] == torch.__version__
        assert found["versions"]["han"] == version("han-classifier")

    def test_what_is_not_said_follows_from_the_documents(self, folder: Path) -> None:
        expected = recipe_for(26, 2)
        options = (*NETWORK, CACHE, "--model.attention_size=4", "--patience=100")
        assert run_han("fit", "--data.train=reviews.csv", *options) == 0
        run = folder / "runs/reviews/1"
        found = record(run)
        assert found["recipe"] == expected._asdict()
        assert found["epochs"] == expected.epochs
        checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        batches = math.ceil(26 / expected.batch_size)
        assert checkpoint["global_step"] == expected.epochs * batches
        assert checkpoint["lr_schedulers"][0]["base_lrs"] == [expected.learning_rate] * 3
        told = json.loads((run / "model/config.json").read_text(encoding="utf-8"))["training"]
        for name in ("learning_rate", "embedding_learning_rate"):
            assert told[name] == expected.learning_rate

    def test_the_process_is_left_as_it_was(self, folder: Path) -> None:
        def state() -> list[object]:
            gc.collect()
            modules = [obj for obj in gc.get_objects() if type(obj) is HANModule]
            return [len(modules), signal.getsignal(signal.SIGTERM)]

        before = state()
        assert fit("--refit=true") == 0
        assert state() == before

    def test_what_is_said_stays(self, folder: Path) -> None:
        assert (
            fit("--model.learning_rate=0.02", "--data.batch_size=7", "--trainer.max_epochs=1") == 0
        )
        found = record(folder / "runs/reviews/1")["recipe"]
        assert found == {"epochs": 1, "batch_size": 7, "learning_rate": 0.02, "refit": False}

    @pytest.mark.parametrize(("members", "told"), [(1, ""), (3, "3 networks, ")])
    def test_it_tells_what_it_is_about_to_do(
        self, folder: Path, capsys: pytest.CaptureFixture[str], members: int, told: str
    ) -> None:
        assert fit(f"--model.members={members}", "--trainer.max_epochs=1") == 0
        lines = capsys.readouterr().err.splitlines()
        assert f"{told}at most 1 epoch, batches of 16, learning rate 0.007" in lines
        network = Bundle.load(folder / "runs/reviews/1/model").network
        assert len(network.members) == members

    @pytest.mark.parametrize("members", ["0", "-1", "1.5"])
    def test_no_network_is_refused_in_one_line(
        self, folder: Path, capsys: pytest.CaptureFixture[str], members: str
    ) -> None:
        assert fit(f"--model.members={members}") != 0
        assert "members" in capsys.readouterr().err.splitlines()[-1]
        assert left(folder) == set()

    def test_steps_are_a_limit_of_their_own(self, folder: Path) -> None:
        options = (*NETWORK, CACHE, "--trainer.max_steps=4")
        assert run_han("fit", "--data.train=reviews.csv", *options) == 0
        run = folder / "runs/reviews/1"
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
        assert record(run)["recipe"]["epochs"] is None

    def test_no_fewer_epochs_follow_than_are_wanted(self, folder: Path) -> None:
        options = (*NETWORK, CACHE, "--patience=100", "--trainer.min_epochs=19")
        assert run_han("fit", "--data.train=reviews.csv", *options) == 0
        assert record(folder / "runs/reviews/1")["epochs"] == 19

    def test_the_model_directory_classifies_as_the_figures_say(self, trained: Path) -> None:
        model = han.load(trained / "runs/reviews/1")
        test = [row for row in rows() if row[3] == "test"]
        predictions = model.classify([row[1] for row in test])
        found = figures(trained / "runs/reviews/1")
        correct = [p.label == row[2] for p, row in zip(predictions, test, strict=True)]
        assert sum(correct) / len(test) == found["accuracy"] == 1.0
        losses = [-math.log(p.probabilities[r[2]]) for p, r in zip(predictions, test, strict=True)]
        assert sum(losses) / len(test) == pytest.approx(found["loss"], abs=1e-6)

    def test_the_model_is_the_best_checkpoint(self, trained: Path) -> None:
        run = trained / "runs/reviews/1"
        best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
        assert best["epoch"] == min(range(4), key=validation_losses(run).__getitem__)
        for name, weight in weights(run).items():
            assert torch.equal(weight, best["state_dict"][f"network.{name}"])

    def test_without_test_documents_there_are_no_figures(self, folder: Path) -> None:
        write_rows(folder / "plain.csv", [row[:3] for row in rows()], ("id", "text", "label"))
        assert run_han("fit", "--data.train=plain.csv", *QUICK) == 0
        assert files(folder / "runs/plain/1") == FILES - {"test_metrics.json"}
        assert han.load(folder / "runs/plain/1").classify("The soup was cold.").label in (
            "bad",
            "good",
        )

    def test_asked_for_it_is_compared_with_linear_models(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit(*LEARNING, "--baseline") == 0
        run = folder / "runs/reviews/1"
        assert files(run) == {*FILES, "baseline.json"}
        record = json.loads((run / "baseline.json").read_text(encoding="utf-8"))
        compared, tested = record["comparison"], figures(run)
        assert compared["split"] == "test"
        assert compared["network"] == {name: tested[name] for name in compared["network"]}
        opponent = record["models"][record["best"]]["test"]
        won = compared["only_network_right"] - compared["only_opponent_right"]
        assert won == round(8 * (tested["accuracy"] - opponent["accuracy"]))
        assert record["documents"] == {"train": 26, "validation": 6, "test": 8}
        *_, heading, names, network, svm, regression, _, verdict = capsys.readouterr().out.split(
            "\n"
        )[:-1]
        assert (heading.split(), names.split()) == (["test"], ["accuracy", "macro-F1"])
        assert network.split() == [
            "network",
            f"{tested['accuracy']:.4f}",
            f"{tested['macro_f1']:.4f}",
        ]
        assert svm.startswith("linear SVM ")
        assert regression.startswith("logistic regression ")
        assert verdict == compared["verdict"]

    def test_without_test_documents_it_is_compared_on_validation(self, folder: Path) -> None:
        write_rows(folder / "plain.csv", [row[:3] for row in rows()], ("id", "text", "label"))
        assert run_han("fit", "--data.train=plain.csv", *QUICK, "--baseline") == 0
        record = json.loads((folder / "runs/plain/1/baseline.json").read_text(encoding="utf-8"))
        compared = record["comparison"]
        assert compared["split"] == "validation"
        assert record["documents"] == {"train": 36, "validation": 4}
        model = han.load(folder / "runs/plain/1")
        data = HANDataModule("plain.csv", vectors="none", cache_dir="cache")
        documents = data.corpus.splits["validation"]
        right = [
            prediction.label == data.labels[label]
            for prediction, label in zip(
                model.classify(documents.texts[:]), documents.labels, strict=True
            )
        ]
        assert compared["network"]["accuracy"] == sum(right) / 4

    def test_what_hinders_the_linear_models_costs_no_model(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        short = [(row[0], "a b. c" if row[2] == "bad" else "x y. z", *row[2:]) for row in rows()]
        write_rows(folder / "reviews.csv", short)
        assert fit("--baseline") == 1
        run = folder / "runs/reviews/1"
        assert files(run) == FILES
        err = capsys.readouterr().err
        assert err.splitlines()[-1].startswith("han: The linear models find no word")
        assert "Traceback" not in err

    def test_its_config_trains_the_same_network_again(self, folder: Path) -> None:
        assert fit("--seed_everything=3", "--model.word_dropout=0.4", "--name=a") == 0
        config = folder / "runs/a/1/config.yaml"
        assert run_han("fit", "--config", config, "--name=b") == 0
        assert_same_weights(folder / "runs/a/1", folder / "runs/b/1")
        other = yaml.safe_load((folder / "runs/b/1/config.yaml").read_text())
        assert other == yaml.safe_load(config.read_text()) | {"name": "b"}

    def test_another_seed_trains_another_network(self, folder: Path) -> None:
        assert fit() == fit("--seed_everything=1") == 0
        with pytest.raises(AssertionError):
            assert_same_weights(folder / "runs/reviews/1", folder / "runs/reviews/2")

    def test_without_hierarchy_documents_are_one_sentence_for_all_commands(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = ("--data.hierarchical=false", "--run_dir=run")
        assert fit(*options, "--data.max_sentences=2") == 1
        [line] = capsys.readouterr().err.splitlines()[-1:]
        assert "max_sentences` 2 has no meaning where" in line
        assert fit(*options) == 0
        assert run_han("test", "--ckpt_path=run", "--data.test=reviews.csv", "--run_dir=test") == 0
        capsys.readouterr()
        assert run_han("explain", "run", "The soup.<br>We were here!", "--output=o.jsonl") == 0
        [sentence] = json.loads(Path("o.jsonl").read_text(encoding="utf-8"))["sentences"]
        assert (sentence["start"], sentence["end"], len(sentence["words"])) == (0, 26, 7)
        assert run_han("classify", "run", "reviews.csv", "--split=test") == 0
        found = map(json.loads, capsys.readouterr().out.splitlines())
        figures = json.loads(Path("run/test_metrics.json").read_text(encoding="utf-8"))
        truth = [row[2] for row in rows() if row[3] == "test"]
        right = sum(one["label"] == label for one, label in zip(found, truth, strict=True))
        assert right / 8 == figures["accuracy"]

    def test_a_printed_config_is_the_same_when_read_back(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            fit("--print_config", "--model.optimizer=sgd")
        printed = capsys.readouterr().out
        (folder / "printed.yaml").write_text(printed)
        with pytest.raises(SystemExit):
            run_han("fit", "--config=printed.yaml", "--print_config")
        assert capsys.readouterr().out == printed
        assert yaml.safe_load(printed)["model"]["optimizer"] == "sgd"
        assert left(folder) == {"printed.yaml"}

    def test_a_second_run_leaves_the_first_as_it_was(self, copied: Path, folder: Path) -> None:
        before = {name: (copied / name).read_bytes() for name in FILES}
        assert fit() == 0
        assert files(folder / "runs/reviews/2") == FILES
        assert before == {name: (copied / name).read_bytes() for name in FILES}

    def test_a_run_goes_where_it_is_told(self, folder: Path) -> None:
        assert fit("--run_dir=a/b") == 0
        assert files(folder / "a/b") == FILES
        assert left(folder) == {"a"}

    def test_results_alone_go_to_standard_output(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit("--name=x") == 0
        out, err = capsys.readouterr()
        lines = out.splitlines()
        assert re.fullmatch(r"best: val_loss \d+\.\d{4}", lines[0])
        assert lines[1].startswith("test: accuracy ")
        assert lines[2].startswith("calibration: temperature ")
        assert lines[3:] == [f"model: {Path('runs/x/1/model')}"]
        assert "Epoch" in err
        assert "train" in err

    def test_what_was_read_is_reported(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_rows(folder / "reviews.csv", [*rows(), ("x", "No class.", "", "train")])
        words = sum(len(text.split()) + 2 for _, text, _, split in rows() if split == "train")
        assert fit("--data.on_bad_row=skip") == 0
        err = capsys.readouterr().err
        assert [line.split()[:4] for line in err.splitlines() if line.startswith("train ")] == [
            ["train", "26", "52", str(words)]
        ]
        assert "skipped 1 of train: empty label" in err
        assert "2 classes, 22 words" in err
        assert re.search(rf"^\d+ threads?, {native.description()}$", err, re.MULTILINE)

    def test_training_stops_when_validation_improves_no_more(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = ("--patience=1", "--model.learning_rate=1e-12", "--model.embedding_learning_rate=0")
        assert fit(*args, "--trainer.max_epochs=4") == 0
        assert len(validation_losses(folder / "runs/reviews/1")) == 2
        assert "Stopped after epoch 2" in capsys.readouterr().err

    def test_the_best_by_accuracy_is_the_highest(self, folder: Path) -> None:
        assert fit(*LEARNING, "--monitor=val_accuracy", "--model.learning_rate=0.02") == 0
        run = folder / "runs/reviews/1"
        logged = [float(r["val_accuracy"]) for r in read_csv(run / "metrics.csv") if r["val_loss"]]
        best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
        assert min(logged) < max(logged)
        assert best["epoch"] == logged.index(max(logged))

    def test_test_documents_have_no_say_before_the_test(self, folder: Path) -> None:
        poison = [
            (name, text, label, split)
            if split != "test"
            else (name, "Zebras xylophone quickly!", "good", "test")
            for name, text, label, split in rows()
        ]
        write_rows(folder / "poisoned.csv", poison)
        assert fit("--name=a") == 0
        assert run_han("fit", "--data.train=poisoned.csv", *QUICK, "--name=b") == 0
        assert_same_weights(folder / "runs/a/1", folder / "runs/b/1")
        assert validation_losses(folder / "runs/a/1") == validation_losses(folder / "runs/b/1")
        assert figures(folder / "runs/a/1")["loss"] != figures(folder / "runs/b/1")["loss"]

    def test_a_number_of_steps_that_one_cycle_of_torch_refuses_trains(self, folder: Path) -> None:
        assert fit("--trainer.max_epochs=5", "--data.batch_size=32", "--name=x") == 0
        assert files(folder / "runs/x/1") == FILES

    def test_loggers_of_the_user_come_beside_the_csv_file(self, folder: Path) -> None:
        logger = "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=mine"
        assert fit(*logger) == 0
        assert files(folder / "runs/reviews/1") == FILES
        assert {"version_0/metrics.csv"} <= files(folder / "mine/lightning_logs")

    def test_a_callback_of_the_user_comes_beside_ours(self, folder: Path) -> None:
        assert fit("--trainer.callbacks=LearningRateMonitor", "--trainer.log_every_n_steps=1") == 0
        assert any(
            key.startswith("lr-") for key in read_csv(folder / "runs/reviews/1/metrics.csv")[0]
        )

    def test_a_checkpoint_callback_of_the_user_does_not_choose_the_model(
        self, folder: Path
    ) -> None:
        other = ("--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.dirpath=mine")
        assert fit(*LEARNING, *other, "--trainer.callbacks.monitor=train_loss_epoch") == 0
        run = folder / "runs/reviews/1"
        best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(w, best[f"network.{name}"]) for name, w in weights(run).items())
        assert len(list((folder / "mine").iterdir())) == 1

    def test_a_trial_run_keeps_nothing(self, folder: Path) -> None:
        assert fit("--trainer.fast_dev_run=true") == 0
        assert left(folder) == set()

    def test_a_loss_that_is_not_finite_is_said_clearly(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit("--model.learning_rate=1e30", "--trainer.max_epochs=4") == 1
        err = capsys.readouterr().err
        assert err.splitlines()[-1].startswith("han: Training diverged, the loss of ")
        assert "`--model.learning_rate`" in err
        assert not (folder / "runs/reviews/1/model").exists()
        assert not (folder / "runs/reviews/1/test_metrics.json").exists()

    @pytest.mark.parametrize(
        "callback", ["EMAWeightAveraging", "BatchSizeFinder", "LearningRateFinder"]
    )
    def test_recipes_of_lightning_work(self, folder: Path, callback: str) -> None:
        size = ("--data.batch_size=2", "--refit=true")
        assert fit(f"--trainer.callbacks+={callback}", *size, "--run_dir=run") == 0
        assert left(folder) == {"run"}
        recipe = record(folder / "run")["recipe"]
        assert (recipe["batch_size"] > 2) == (callback == "BatchSizeFinder")
        assert (recipe["learning_rate"] != 0.007) == (callback == "LearningRateFinder")
        if callback == "EMAWeightAveraging":
            assert fit(*size, "--run_dir=plain") == 0
            averaged, plain = weights(folder / "run"), weights(folder / "plain")
            assert not all(torch.equal(averaged[name], plain[name]) for name in plain)

    def test_half_precision_makes_little_difference(self, copied: Path) -> None:
        assert fit(*LEARNING, "--trainer.precision=bf16-mixed", "--run_dir=new") == 0
        half, full = figures(Path("new"))["loss"], figures(copied)["loss"]
        assert half == pytest.approx(full, abs=0.05)
        assert half != full

    def test_wandb_is_not_imported(self, folder: Path) -> None:
        code = (
            "import sys; from han.cli import main; status = main(sys.argv[1:]); "
            "print('wandb' in sys.modules, status)"
        )
        command = [sys.executable, "-c", code, "fit", "--data.train=reviews.csv", *QUICK]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False 0"


class TestVarieties:
    @pytest.mark.parametrize("options", VARIETIES.values(), ids=VARIETIES)
    def test_each_trains_and_explains(
        self, folder: Path, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        small = ("--model.hidden_size=5", "--model.members=1", "--trainer.max_epochs=1")
        assert fit(*small, *flags(options)) == 0
        network = han.load(folder / "runs/reviews/1").bundle.network
        for name, value in options.items():
            assert network.options[name] == (value if isinstance(value, str) else vars(value))
        capsys.readouterr()
        assert run_han("explain", "runs/reviews/1", "The soup was awful. We left!") == 0
        assert "The" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["hard_reinforce", "several heads", "transformer"])
    def test_it_goes_on_and_is_tested_as_it_was_saved(self, folder: Path, name: str) -> None:
        options = ("--model.hidden_size=5", *flags(VARIETIES[name]))
        assert fit(*options, "--trainer.max_epochs=1") == 0
        run = folder / "runs/reviews/1"
        assert fit(*options, "--ckpt_path=last", "--trainer.max_epochs=2") == 0
        assert record(run)["epochs"] == 2
        assert run_han("test", "--ckpt_path=runs/reviews/1", "--data.test=reviews.csv", CACHE) == 0
        assert figures(folder / "runs/reviews/2")["loss"] == figures(run)["loss"]
        model, again = han.load(run), HANModule.load_from_checkpoint(run / "checkpoints/best.ckpt")
        assert again.network.options == model.bundle.network.options
        for key, weight in model.bundle.network.state_dict().items():
            assert torch.equal(weight, again.network.state_dict()[key])

    @pytest.mark.slow
    @pytest.mark.parametrize("options", VARIETIES.values(), ids=VARIETIES)
    def test_each_learns_the_bundled_abstracts(self, folder: Path, options: dict[str, Any]) -> None:
        """Better than twice the share of the largest class, in four epochs."""
        options = {name: value for name, value in options.items() if name != "transformer"}
        assert run_han(
            "fit", "--data.train=builtin", "--model.members=1", "--refit=false", "--run_dir=run",
            "--trainer.max_epochs=4", *flags(options),
        ) == 0  # fmt: skip
        assert figures(folder / "run")["accuracy"] > 0.4


class TestResume:
    def test_a_run_goes_on_in_its_directory(self, folder: Path) -> None:
        assert fit() == 0
        assert fit("--ckpt_path=last", "--trainer.max_epochs=4", "--model.hidden_size=4") == 0
        assert left(folder) == {"runs"}
        run = folder / "runs/reviews/1"
        assert files(folder / "runs") == {f"reviews/1/{name}" for name in FILES}
        epochs = [row["epoch"] for row in read_csv(run / "metrics.csv") if row["val_loss"]]
        assert epochs == ["0", "1", "2", "3"]
        assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 4
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 3

    def test_seconds_count_those_before_it_went_on(self, copied: Path) -> None:
        path = copied / "checkpoints/last.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        assert (
            0 < checkpoint["callbacks"]["Clock"]["seconds"] < record(copied)["seconds"]["command"]
        )
        checkpoint["callbacks"]["Clock"]["seconds"] = 1000.0
        torch.save(checkpoint, path)
        assert fit(*LEARNING, "--ckpt_path=last", "--trainer.max_epochs=5") == 0
        seconds = record(copied)["seconds"]
        assert 1000 < seconds["training"] < 1000 + seconds["command"]

    def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        whole = ("--trainer.max_epochs=3", *PLAIN)
        assert fit(*whole, "--name=whole") == 0
        handler = signal.getsignal(signal.SIGINT)
        with monkeypatch.context() as patched:
            patched.setattr(HANModule, "training_step", _interrupted_in_epoch(2))
            assert fit(*whole, "--name=cut") == 130
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
        err = capsys.readouterr().err
        assert f"--run_dir {Path('runs/cut/1')} --ckpt_path last" in err
        assert err.splitlines()[-1] == "han: interrupted"
        assert fit(*whole, "--run_dir=runs/cut/1", "--ckpt_path=last") == 0
        assert_same_weights(folder / "runs/whole/1", folder / "runs/cut/1")
        assert validation_losses(folder / "runs/cut/1") == validation_losses(
            folder / "runs/whole/1"
        )

    def test_it_keeps_the_network_of_the_checkpoint(self, copied: Path) -> None:
        args = ("--data.train=reviews.csv", "--ckpt_path=last", "--trainer.max_epochs=5", CACHE)
        assert run_han("fit", *args, "--refit=false") == 0
        model = yaml.safe_load((copied / "config.yaml").read_text())["model"]
        assert model["hidden_size"] == 4
        assert model["word_dropout"] == 0

    def test_it_may_go_on_elsewhere(self, copied: Path, folder: Path) -> None:
        before = {name: (copied / name).read_bytes() for name in FILES}
        args = (f"--ckpt_path={copied}", "--trainer.max_epochs=5", "--run_dir=other", *PLAIN)
        assert fit(*args) == 0
        assert files(folder / "other") == FILES
        assert before == {name: (copied / name).read_bytes() for name in FILES}

    def test_a_checkpoint_outside_a_run_starts_a_run_of_its_own(
        self, copied: Path, folder: Path
    ) -> None:
        shutil.copy(copied / "checkpoints/last.ckpt", folder / "kept.ckpt")
        assert fit("--ckpt_path=kept.ckpt", "--trainer.max_epochs=5", *PLAIN) == 0
        assert left(folder) == {"kept.ckpt", "runs"}
        assert files(folder / "runs/reviews/2") == FILES

    def test_an_option_that_the_checkpoint_would_override_is_refused(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit("--ckpt_path=last", "--model.learning_rate=0.5", *PLAIN) == 1
        err = capsys.readouterr().err
        assert "--model.learning_rate is 0.5, but the checkpoint was trained with 0.05" in err

    @pytest.mark.parametrize(
        ("option", "own"),
        [("word_attention.heads=2", "1"), ("transformer.positions=learned", "sinusoidal")],
    )
    def test_so_is_one_of_a_group(
        self, copied: Path, capsys: pytest.CaptureFixture[str], option: str, own: str
    ) -> None:
        test = ("test", "--ckpt_path=runs/reviews/1", "--data.test=reviews.csv", CACHE)
        assert run_han(*test, f"--model.{option}") == 1
        name, _, value = option.partition("=")
        expected = f"--model.{name} is {value}, but the checkpoint was trained with {own}"
        assert expected in capsys.readouterr().err

    def test_a_used_run_directory_is_refused_otherwise(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {name: (copied / name).read_bytes() for name in FILES}
        assert fit(f"--run_dir={copied}") == 1
        assert "holds a run already" in capsys.readouterr().err
        assert before == {name: (copied / name).read_bytes() for name in FILES}

    def test_files_of_the_user_are_not_taken_for_ours(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "metrics.csv").write_text("mine")
        assert fit("--run_dir=.") == 1
        assert "metrics.csv" in capsys.readouterr().err
        assert (folder / "metrics.csv").read_text() == "mine"


def _interrupted_in_epoch(epoch: int) -> Any:  # noqa: ANN401  # a method
    original = HANModule.training_step

    def training_step(self: HANModule, batch: Any, batch_index: int) -> torch.Tensor:  # noqa: ANN401
        if self.current_epoch == epoch and batch_index == 1:
            raise KeyboardInterrupt
        return original(self, batch, batch_index)

    return training_step


class TestTest:
    @pytest.mark.parametrize(
        "checkpoint", ["best", "runs/reviews/1", "runs/reviews/1/checkpoints/best.ckpt"]
    )
    def test_the_figures_are_those_of_fit(self, copied: Path, checkpoint: str) -> None:
        args = ("--data.train=reviews.csv", f"--ckpt_path={checkpoint}", CACHE)
        assert run_han("test", *args) == 0
        timing = {"seconds", "words_per_second"}
        again, before = figures(copied.parent / "2"), figures(copied)
        for figure in before.keys() - timing:
            assert again[figure] == before[figure]
        assert files(copied.parent / "2") == {"test_metrics.json"}

    def test_a_checkpoint_of_before_there_were_several_is_of_one_network(
        self, copied: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkpoint = torch.load(copied / "checkpoints/last.ckpt", weights_only=True)
        del checkpoint["hyper_parameters"]["members"]
        checkpoint["state_dict"] = {
            name.replace("members.0.", ""): weight
            for name, weight in checkpoint["state_dict"].items()
            if "members.1." not in name
        }
        torch.save(checkpoint, folder / "old.ckpt")
        args = ("test", "--data.train=reviews.csv", "--ckpt_path=old.ckpt", CACHE)
        assert run_han(*args) == 0
        capsys.readouterr()
        assert run_han(*args, "--model.members=2") == 1
        [line] = capsys.readouterr().err.splitlines()
        assert "--model.members is 2, but the checkpoint was trained with 1" in line

    def test_the_last_checkpoint_is_the_last(self, copied: Path) -> None:
        last = torch.load(copied / "checkpoints/last.ckpt", weights_only=True)
        for name, weight in last["state_dict"].items():
            if name.endswith("classifier.bias"):
                weight += torch.tensor([50.0, 0.0])
        torch.save(last, copied / "checkpoints/last.ckpt")
        assert run_han("test", "--data.train=reviews.csv", "--ckpt_path=last", CACHE) == 0
        assert figures(copied.parent / "2")["per_class"]["bad"]["recall"] == 1.0
        assert figures(copied.parent / "2")["per_class"]["good"]["recall"] == 0.0

    def test_the_config_of_a_run_serves(self, copied: Path) -> None:
        args = ("--config", copied / "config.yaml", "--ckpt_path", copied)
        assert run_han("test", *args) == 0
        assert figures(copied.parent / "2")["accuracy"] == figures(copied)["accuracy"]
        assert (copied.parent / "2" / "config.yaml").exists() is False

    def test_the_vocabulary_of_the_checkpoint_rules_over_another_corpus(
        self, copied: Path, folder: Path
    ) -> None:
        other = [
            ("a", "Unheard words were cold.", "bad"),
            ("b", "Lovely soup. Other unheard words!", "good"),
            ("c", "", "good"),
        ]
        write_rows(folder / "other.csv", other, ("id", "text", "label"))
        assert run_han("test", "--data.test=other.csv", f"--ckpt_path={copied}", CACHE) == 0
        found = figures(folder / "runs/other/1")
        predictions = han.load(copied).classify([text for _, text, _ in other])
        losses = [
            -math.log(prediction.probabilities[label])
            for prediction, (_, _, label) in zip(predictions, other, strict=True)
        ]
        assert found["loss"] == pytest.approx(sum(losses) / 3, abs=1e-6)
        assert found["documents"] == 3

    def test_a_label_that_the_checkpoint_lacks_is_refused(
        self, copied: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_rows(folder / "other.csv", [("a", "Cold soup.", "mixed")], ("id", "text", "label"))
        assert run_han("test", "--data.test=other.csv", f"--ckpt_path={copied}", CACHE) == 1
        assert "other.csv:2: the label 'mixed'" in capsys.readouterr().err
        assert left(folder) == {"other.csv", "runs"}
        assert not (folder / "runs/other").exists()

    def test_training_documents_are_not_read_beside_test_documents(self, copied: Path) -> None:
        args = ("--data.train=missing.csv", "--data.test=reviews.csv", f"--ckpt_path={copied}")
        assert run_han("test", *args, CACHE) == 0


class TestValidate:
    def test_the_figures_are_those_of_the_best_epoch(
        self, copied: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_han("validate", "--data.train=reviews.csv", "--ckpt_path=best", CACHE) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["val_loss"] == pytest.approx(min(validation_losses(copied)), abs=1e-6)
        assert printed.keys() == {"val_loss", "val_accuracy", "val_macro_f1"}
        assert {path.name for path in copied.parent.iterdir()} == {"1"}


class TestPredict:
    def test_unlabelled_documents_come_back_once_and_in_order(
        self, copied: Path, folder: Path
    ) -> None:
        texts = [f"The soup was {word}. {'We sat here. ' * (i % 7)}" for i, word in enumerate(
            ["cold", "lovely", "rude", "", "nice"] * 30
        )]  # fmt: skip
        texts[5] = ""
        ids = [f"n{i % 149}" for i in range(150)]  # one id twice
        write_rows(folder / "new.csv", list(zip(ids, texts, strict=True)), ("id", "text"))
        args = ("--data.predict=new.csv", f"--ckpt_path={copied}", CACHE)
        assert run_han("predict", *args, "--data.eval_batch_size=7") == 0
        lines = (folder / "runs/new/1/predictions.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [found["id"] for found in records] == ids
        documents = [Document(id, text) for id, text in zip(ids, texts, strict=True)]
        for found, prediction in zip(
            records, han.load(copied).classify_documents(documents), strict=True
        ):
            expected = prediction.to_record()
            for figure in ("probability", "probabilities"):
                assert found.pop(figure) == pytest.approx(expected.pop(figure), abs=1e-5)
            assert found == expected

    def test_it_needs_nothing_but_the_run_directory(
        self, trained: Path, tmp_path_factory: pytest.TempPathFactory, folder: Path
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        shutil.copytree(trained / "runs/reviews/1", elsewhere / "moved")
        write_rows(elsewhere / "new.csv", [("a", "Awful, cold and slow!")], ("id", "text"))
        with contextlib.chdir(elsewhere):
            args = ("--data.predict=new.csv", "--ckpt_path=best", "--run_dir=moved", CACHE)
            assert run_han("predict", *args) == 0
        record = json.loads((elsewhere / "moved/predictions.jsonl").read_text())
        assert record["label"] == "bad"
        assert files(elsewhere / "moved") == {*FILES, "predictions.jsonl"}


class TestErrors:
    @pytest.mark.parametrize(
        ("args", "status", "message"),
        [
            (["--nope=1"], 2, "--nope"),
            (["--model.nope=1"], 2, "--model.nope"),
            (["--model.hidden_size=abc"], 2, "model.hidden_size"),
            (["--model.schedule=abc"], 2, "model.schedule"),
            (["--monitor=test_loss"], 2, "monitor"),
            (["--seed_everything=-1"], 2, "seed_everything"),
            (["--config=nope.yaml"], 2, "nope.yaml"),
            (["--data.train=nope.csv"], 1, "nope.csv: no such file"),
            (["--data.text_column=stars"], 1, "set `--data.text_column` to one of them"),
            (["--data.label_column=stars"], 1, "set `--data.label_column` to one of them"),
            (["--data.vectors=nope.txt"], 1, "nope.txt"),
            (["--data.vectors=glove.7B.9d"], 1, "glove.7B.9d"),
            (["--data.vectors=builtin"], 1, "`--data.embedding_size` says 8"),
            (["--data.embedding_size=0"], 1, "`--data.embedding_size` must be at least 1"),
            (["--data.batch_size=0"], 1, "`--data.batch_size` must be at least 1"),
            (["--data.min_count=1000"], 1, "`--data.min_count`"),
            (["--data.cache_dir=reviews.csv"], 1, "`--data.cache_dir`"),
            (["--model.hidden_size=0"], 1, "`--model.hidden_size` must be at least 1"),
            (["--model.label_smoothing=2"], 1, "`--model.label_smoothing`"),
            (["--model.learning_rate=-1"], 1, "`--model.learning_rate` must be above 0"),
            (["--model.embedding_learning_rate=-1"], 1, "`--model.embedding_learning_rate`"),
            (["--model.word_dropout=1"], 1, "`--model.word_dropout` must be"),
            (["--trainer.max_epochs=-1"], 1, "`--trainer.max_epochs`"),
            (["--trainer.enable_checkpointing=false"], 1, "enable_checkpointing"),
            (["--run_dir=reviews.csv"], 1, "reviews.csv"),
            (["--ckpt_path=best"], 1, "no checkpoint `best` in any run in runs"),
            (["--ckpt_path=reviews.csv"], 1, "not a checkpoint that `han fit` wrote"),
            (["--ckpt_path=nope.ckpt"], 1, "nope.ckpt: no such checkpoint"),
        ],
        ids=lambda value: value[0].lstrip("-") if isinstance(value, list) else "",
    )
    def test_one_line_says_what_is_wrong_and_nothing_is_left(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        args: list[str],
        status: int,
        message: str,
    ) -> None:
        assert fit(*args) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[-1].startswith("han: ")
        assert message in err.splitlines()[-1]
        assert err.count("han: ") == 1
        assert "Traceback" not in err
        assert left(folder) == set()

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            (["fit"], "give --data.train"),
            (["test", "--data.test=reviews.csv"], "`han test` needs a trained network"),
            (["predict", "--data.predict=reviews.csv"], "`han predict` needs a trained network"),
            (["test", "--ckpt_path=runs/reviews/1"], "give --data.test (or --data.train"),
            (["validate", "--ckpt_path=runs/reviews/1"], "give --data.validation (or"),
            (["predict", "--ckpt_path=runs/reviews/1"], "give --data.predict."),
        ],
    )
    def test_what_a_command_lacks_is_named(
        self,
        copied: Path,
        capsys: pytest.CaptureFixture[str],
        command: list[str],
        message: str,
    ) -> None:
        assert run_han(*command) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err
        assert files(copied.parent) == {f"1/{name}" for name in FILES}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([("a b", "x"), ("b c", "x"), ("a c", "x")], "all training documents have the label"),
            ([("a b", "x"), ("a b", "y")], "each class must keep one"),
        ],
    )
    def test_documents_that_cannot_be_trained_on_are_refused(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        content: list[tuple[str, str]],
        message: str,
    ) -> None:
        write_rows(folder / "few.csv", content, ("text", "label"))
        assert run_han("fit", "--data.train=few.csv", *QUICK) == 1
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert left(folder) == {"few.csv"}

    def test_no_validation_documents_are_an_error(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_rows(folder / "plain.csv", [row[:3] for row in rows()], ("id", "text", "label"))
        args = ("--data.train=plain.csv", "--data.validation_share=0", *QUICK)
        assert run_han("fit", *args) == 1
        assert "give `--data.validation`" in capsys.readouterr().err.splitlines()[-1]
        assert left(folder) == {"plain.csv"}

    @pytest.mark.parametrize(
        "option", ["limit_val_batches=0", "check_val_every_n_epoch=9", "max_steps=1"]
    )
    def test_training_without_validation_is_an_error(
        self, capsys: pytest.CaptureFixture[str], option: str
    ) -> None:
        assert fit(f"--trainer.{option}") == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("han: Training ended before any validation")

    def test_a_run_directory_that_was_there_stays_when_nothing_comes_of_it(
        self, folder: Path
    ) -> None:
        (folder / "a/b").mkdir(parents=True)
        assert fit("--run_dir=a/b", "--data.batch_size=0") == 1
        assert (folder / "a/b").is_dir()


class Payload:
    """Executes a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


class TestCheckpointFiles:
    def check_refused(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for command in ("fit", "test"):
            args = (f"--data.{'train' if command == 'fit' else 'test'}=reviews.csv", CACHE)
            assert run_han(command, *args, f"--ckpt_path={path}") == 1
            err = capsys.readouterr().err
            assert err.splitlines()[-1].startswith(f"han: {path} is not a checkpoint")
            assert "Traceback" not in err
        assert not Path("executed").exists()
        assert not Path("runs/reviews/2").exists()

    def test_a_payload_in_a_checkpoint_is_not_executed(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkpoint = torch.load(copied / "checkpoints/best.ckpt", weights_only=True)
        torch.save(checkpoint | {"payload": Payload()}, "hostile.ckpt")
        self.check_refused(Path("hostile.ckpt"), capsys)

    def test_a_pickle_is_not_executed(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("hostile.ckpt").write_bytes(pickle.dumps(Payload()))
        self.check_refused(Path("hostile.ckpt"), capsys)

    def test_a_checkpoint_that_is_cut_short_is_refused(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = (copied / "checkpoints/best.ckpt").read_bytes()
        Path("cut.ckpt").write_bytes(content[: len(content) // 2])
        self.check_refused(Path("cut.ckpt"), capsys)

    @pytest.mark.parametrize("key", ["HANDataModule", "hyper_parameters", "global_step"])
    def test_a_checkpoint_of_another_program_is_refused(
        self, copied: Path, capsys: pytest.CaptureFixture[str], key: str
    ) -> None:
        checkpoint = torch.load(copied / "checkpoints/best.ckpt", weights_only=True)
        del checkpoint[key]
        torch.save(checkpoint, "other.ckpt")
        self.check_refused(Path("other.ckpt"), capsys)

    def test_checkpoints_hold_plain_values_and_tensors(self, copied: Path) -> None:
        for name in ("best", "last"):
            torch.load(copied / f"checkpoints/{name}.ckpt", weights_only=True)


class TestAtomicCheckpointIO:
    def test_a_checkpoint_comes_back(self, folder: Path) -> None:
        AtomicCheckpointIO().save_checkpoint({"a": torch.arange(3)}, folder / "x/best.ckpt")
        found = torch.load(folder / "x/best.ckpt", weights_only=True)
        assert torch.equal(found["a"], torch.arange(3))
        assert files(folder / "x") == {"best.ckpt"}

    def test_the_old_one_stays_where_the_disk_is_full(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = folder / "x/best.ckpt"
        AtomicCheckpointIO().save_checkpoint({"a": 1}, path)

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(
            OSError, match=r"best\.ckpt: the checkpoint cannot be written: No space"
        ):
            AtomicCheckpointIO().save_checkpoint({"a": 2}, path)
        assert torch.load(path, weights_only=True) == {"a": 1}
        assert files(folder / "x") == {"best.ckpt"}

    def test_training_writes_by_it(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(*args: object, **kwargs: object) -> None:
            raise OSError("runs/best.ckpt: the checkpoint cannot be written: disk full.")

        monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", full)
        assert fit() == 1
        assert "the checkpoint cannot be written" in capsys.readouterr().err.splitlines()[-1]


class TestMetricsFile:
    def test_rows_after_the_step_to_go_on_from_are_dropped(self, folder: Path) -> None:
        first = metrics_file(folder / "run", 0)
        for step in range(4):
            first.log_metrics({"loss": step / 8}, step)
        first.save()
        with pytest.warns(UserWarning, match="exists and is not empty"):
            again = metrics_file(folder / "run", 2)
        again.log_metrics({"loss": 9.0, "other": 1.0}, 2)
        again.save()
        found = [(r["step"], r["loss"], r["other"]) for r in read_csv(folder / "run/metrics.csv")]
        assert found == [("0", "0.0", ""), ("1", "0.125", ""), ("2", "9.0", "1.0")]


class TestNewRun:
    def test_runs_are_numbered_from_one_by_value(self, folder: Path) -> None:
        assert new_run("x") == Path("runs/x/1")
        (folder / "runs/x/10").mkdir()
        (folder / "runs/x/notes").mkdir()
        assert new_run("x") == Path("runs/x/11")
        assert new_run("y") == Path("runs/y/1")

    def test_a_number_that_another_process_took_is_passed_over(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Path.mkdir
        rivals = iter([True, True])

        def mkdir(self: Path, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            if self.name.isdecimal() and next(rivals, False):
                original(self)
            original(self, *args, **kwargs)

        monkeypatch.setattr(Path, "mkdir", mkdir)
        assert new_run("x") == Path("runs/x/3")


class TestFindCheckpoint:
    @pytest.fixture(autouse=True)
    def runs(self, folder: Path) -> None:
        for name in ("a/2/checkpoints/best", "a/2/checkpoints/last", "a/10/checkpoints/last"):
            path = folder / "runs" / f"{name}.ckpt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    @pytest.mark.parametrize(
        ("path", "run_dir", "found"),
        [
            ("last", None, "runs/a/10/checkpoints/last.ckpt"),
            ("best", None, "runs/a/2/checkpoints/best.ckpt"),
            ("last", "runs/a/2", "runs/a/2/checkpoints/last.ckpt"),
            ("runs/a/2", None, "runs/a/2/checkpoints/best.ckpt"),
            ("runs/a/2/checkpoints/last.ckpt", None, "runs/a/2/checkpoints/last.ckpt"),
        ],
    )
    def test_it_is_the_one_meant(self, path: str, run_dir: str | None, found: str) -> None:
        assert find_checkpoint(path, run_dir, "a") == Path(found)

    @pytest.mark.parametrize(
        ("path", "run_dir"), [("best", "runs/a/10"), ("runs/a/10", None), ("x.ckpt", None)]
    )
    def test_none_is_an_error_that_says_where(self, path: str, run_dir: str | None) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such|no checkpoint `best` in runs/a/10;"):
            find_checkpoint(path, run_dir, "a")

    def test_another_name_has_other_runs(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"in any run in runs/b; .*--name"):
            find_checkpoint("best", None, "b")


class TestRunOf:
    def test_it_is_the_folder_around_the_checkpoints(self) -> None:
        assert run_of(Path("runs/a/2/checkpoints/best.ckpt")) == Path("runs/a/2")

    def test_a_checkpoint_elsewhere_belongs_to_none(self) -> None:
        assert run_of(Path("best.ckpt")) is None
