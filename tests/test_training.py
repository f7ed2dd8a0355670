from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning.loggers import Logger
from sklearn.metrics import log_loss

import han
from han import HANClassifier
from han.batching import Batch
from han.cli.runs import find_checkpoint
from han.module import HANModule, _one_cycle
from tests.reviews import NETWORK, read_csv, rows, write_reviews, write_rows
from tests.reviews import han as run_han

OPTIONS = (
    *NETWORK,
    "--model.attention_size=4",
    "--model.learning_rate=0.02",
    "--data.batch_size=4",
    "--data.cache_dir=cache",
    "--trainer.log_every_n_steps=1",
)
RUN = Path("runs/reviews/1")
REFIT = "checkpoints/refit.ckpt"


def fit(*args: str, epochs: int = 4) -> int:
    """Train on `reviews.csv`."""
    return run_han(
        "fit", "--data.train=reviews.csv", f"--trainer.max_epochs={epochs}", *OPTIONS, *args
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder that holds `reviews.csv` alone."""
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path / "reviews.csv")
    return tmp_path


def record(run: Path = RUN) -> dict[str, Any]:
    """Return what a run says about itself."""
    return dict(json.loads((run / "run.json").read_text(encoding="utf-8")))


def validation_losses(run: Path = RUN) -> list[float]:
    """Return the logged validation loss of each epoch."""
    return [float(row["val_loss"]) for row in read_csv(run / "metrics.csv") if row["val_loss"]]


def checkpoint(name: str, run: Path = RUN) -> dict[str, Any]:
    """Return a checkpoint of a run."""
    return dict(torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True))


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def model_weights(run: Path = RUN) -> dict[str, torch.Tensor]:
    """Return the weights of a run's model directory, named as in a checkpoint."""
    network = han.load(run).bundle.network
    return {f"network.{name}": weight for name, weight in network.state_dict().items()}


class Recorder(Logger):
    """Keeps the name and the step of every figure."""

    made: ClassVar[list[Recorder]] = []
    name = version = None

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[str, int | None]] = []
        self.made.append(self)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logged += [(name, step) for name in metrics]

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Keep none."""


class TestRefit:
    def test_plateau_goes_without(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert fit("--model.schedule=plateau", "--refit=true") == 1
        err = capsys.readouterr().err
        assert "by which `--model.schedule` plateau goes" in err
        assert "Epoch" not in err
        assert not (RUN / "checkpoints").exists()
        assert fit("--model.schedule=plateau", "--refit=null", "--run_dir=runs/plateau") == 0
        assert record(Path("runs/plateau"))["refit_epochs"] is None

    def test_the_model_learned_from_all(self) -> None:
        assert fit("--refit=true") == 0
        assert record()["refit_epochs"] == record()["epochs"] == 4
        assert checkpoint("refit")["global_step"] == 4 * 8  # 32 documents, 4 a batch
        assert_same_weights(model_weights(), checkpoint("refit")["state_dict"])

    def test_the_temperature_is_of_the_networks_before(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit("--refit=true") == 0
        config = json.loads((RUN / "model/config.json").read_text(encoding="utf-8"))
        calibration = checkpoint("best")["calibration"]
        assert calibration["documents"] == 6
        assert calibration == checkpoint("refit")["calibration"] == config["calibration"]
        assert config["temperature"] == calibration["temperature"] != 1
        figures = json.loads((RUN / "test_metrics.json").read_text(encoding="utf-8"))["calibration"]
        assert figures["temperature"] == config["temperature"]
        error = figures["ece"]
        assert (
            f"calibration: temperature {config['temperature']:.2f}, expected calibration error on "
            f"test {error['before']:.4f} before, {error['after']:.4f} after\n"
        ) in capsys.readouterr().out

    def test_small_steps_are_the_last_also_where_the_first_training_stopped_early(self) -> None:
        stop = ("--monitor=val_accuracy", "--patience=1", "--model.learning_rate=1e-9")
        assert fit("--refit=true", "--trainer.callbacks+=LearningRateMonitor", *stop) == 0
        assert record()["refit_epochs"] == record()["epochs"] == 2
        found = [row["refit_lr-RowwiseAdamW/pg1"] for row in read_csv(RUN / "metrics.csv")]
        rates = [float(rate) for rate in found if rate]
        expected = [1e-9 * _one_cycle(step, 2 * 8) for step in range(2 * 8)]
        assert rates == pytest.approx(expected, abs=1e-14)

    def test_without_a_schedule_it_takes_as_long_as_was_best(self) -> None:
        options = ("--model.schedule=constant", "--model.learning_rate=3", "--refit=true")
        assert fit(*options, epochs=5) == 0
        losses = [
            float(row["val_loss"]) for row in read_csv(RUN / "metrics.csv") if row["val_loss"]
        ]
        assert record()["refit_epochs"] == 1 + int(np.argmin(losses)) < 5
        assert checkpoint("refit")["global_step"] == record()["refit_epochs"] * 8

    def test_the_best_checkpoint_has_not_seen_validation(self) -> None:
        assert fit("--refit=true", "--name=a") == fit("--refit=false", "--name=b") == 0
        of_both = [checkpoint("best", Path(f"runs/{name}/1"))["state_dict"] for name in "ab"]
        assert_same_weights(*of_both)
        assert_same_weights(model_weights(Path("runs/b/1")), of_both[1])
        with pytest.raises(AssertionError):
            assert_same_weights(model_weights(Path("runs/a/1")), of_both[0])

    @pytest.mark.parametrize("asked", [True, False])
    def test_it_says_so(self, asked: bool, capsys: pytest.CaptureFixture[str]) -> None:
        assert fit(f"--refit={asked}".lower()) == 0
        told = json.loads((RUN / "model/config.json").read_text(encoding="utf-8"))["training"]
        assert told["refit"] is record()["recipe"]["refit"] is asked
        assert (record()["refit_epochs"] is not None) is asked
        assert (RUN / "checkpoints/refit.ckpt").is_file() is asked
        said = "anew on all 32 training and validation documents" in capsys.readouterr().err
        assert said is asked
        logged = [row for row in read_csv(RUN / "metrics.csv") if row.get("refit_loss_step")]
        assert bool(logged) is asked
        if asked:
            assert int(logged[0]["step"]) == 4 * 7  # after the first training's 26 documents
            assert len(logged) == record()["refit_epochs"] * 8

    def test_few_documents_are_all_trained_on_by_default(self) -> None:
        assert fit(epochs=1) == 0
        assert record()["recipe"]["refit"] is True

    def test_without_validation_documents_there_is_nothing_more_to_train_on(self) -> None:
        classifier = HANClassifier(
            vectors="none", embedding_size=8, max_epochs=1, validation_fraction=0, refit=True
        )
        texts, labels = zip(*((row[1], row[2]) for row in rows()), strict=True)
        classifier.fit(list(texts), list(labels))
        facts = classifier.predictor_.bundle.facts
        assert facts["training"]["refit"] is False

    def test_test_and_predict_use_the_network_of_the_model_and_validate_the_one_before(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit("--refit=true") == 0
        capsys.readouterr()
        documents = ("--data.train=reviews.csv", "--data.cache_dir=cache", "--ckpt_path", str(RUN))
        assert run_han("test", *documents, "--run_dir=t") == 0
        of_test = (RUN / "test_metrics.json", Path("t/test_metrics.json"))
        first, again = (json.loads(path.read_text(encoding="utf-8")) for path in of_test)
        assert first["loss"] == again["loss"]
        capsys.readouterr()
        assert run_han("validate", *documents, "--run_dir=v") == 0
        losses = [
            float(row["val_loss"]) for row in read_csv(RUN / "metrics.csv") if row["val_loss"]
        ]
        validated = json.loads(capsys.readouterr().out)["val_loss"]
        assert validated == pytest.approx(min(losses), abs=1e-6)
        assert find_checkpoint("refit", str(RUN), "x") == RUN / "checkpoints/refit.ckpt"
        assert run_han("validate", *documents[:2], "--run_dir=v", f"--ckpt_path={RUN}/{REFIT}") == 0
        assert "were trained on the validation documents of their run" in capsys.readouterr().err
        others = ("--data.predict=reviews.csv", "--data.cache_dir=cache", f"--ckpt_path={RUN}")
        assert run_han("predict", *others, "--run_dir=p") == 0
        predicted = Path("p/predictions.jsonl").read_text(encoding="utf-8").splitlines()
        expected = han.load(RUN).probabilities([row[1] for row in rows()])
        for line, probabilities in zip(predicted, expected, strict=True):
            found = json.loads(line)["probabilities"].values()
            assert list(found) == pytest.approx(probabilities.tolist(), abs=1e-6)

    def test_a_time_limit_leaves_none_for_it(self) -> None:
        assert fit("--trainer.max_time=00:01:00:00") == 0
        assert record()["refit_epochs"] is None

    def test_there_is_a_model_should_it_come_to_nothing(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(*_: object) -> None:
            raise ValueError("The sky fell.")

        monkeypatch.setattr("han.cli.training.refit", fail)
        assert fit("--refit=true") == 1
        assert capsys.readouterr().err.endswith("han: The sky fell.\n")
        assert_same_weights(model_weights(), checkpoint("best")["state_dict"])
        config = json.loads((RUN / "model/config.json").read_text(encoding="utf-8"))
        assert config["training"]["refit"] is False

    def test_texts_given_for_validation_are_held_out_unless_asked(self) -> None:
        texts, labels = zip(*((row[1], row[2]) for row in rows()), strict=True)
        held_out = {"X_val": list(texts[30:]), "y_val": list(labels[30:])}
        for asked, expected in ((None, False), (True, True)):
            classifier = HANClassifier(
                vectors="none", embedding_size=8, members=1, max_epochs=1, refit=asked
            )
            classifier.fit(list(texts[:30]), list(labels[:30]), **held_out)
            assert classifier.predictor_.bundle.facts["training"]["refit"] is expected

    def test_figures_of_the_test_documents_are_of_the_model(self) -> None:
        assert fit("--refit=true") == 0
        documents = [row for row in rows() if row[3] == "test"]
        model = han.load(RUN)
        found = model.probabilities([row[1] for row in documents])
        true = [row[2] for row in documents]
        figures = json.loads((RUN / "test_metrics.json").read_text(encoding="utf-8"))
        expected = log_loss(true, found, labels=list(model.labels))
        assert figures["loss"] == pytest.approx(expected, abs=1e-6)

    def test_compared_on_validation_is_the_network_before(self, folder: Path) -> None:
        write_rows(folder / "plain.csv", [row[:3] for row in rows()], ("id", "text", "label"))
        options = (*OPTIONS, "--trainer.max_epochs=4", "--baseline")
        assert run_han("fit", "--data.train=plain.csv", "--refit=true", "--name=a", *options) == 0
        assert run_han("fit", "--data.train=plain.csv", "--refit=false", "--name=b", *options) == 0
        first, second = (
            json.loads(Path(f"runs/{name}/1/baseline.json").read_text(encoding="utf-8"))
            for name in "ab"
        )
        assert first["comparison"]["split"] == "validation"
        assert first["comparison"] == second["comparison"]

    @pytest.mark.parametrize("vectors", ["none", "vectors.txt"])
    def test_interrupted_it_begins_anew_and_ends_with_the_same_model(
        self,
        vectors: str,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        numbers = np.random.default_rng(0).normal(size=(2, 8)).round(3).tolist()
        lines = [
            " ".join(map(str, (word, *row)))
            for word, row in zip(("soup", "awful"), numbers, strict=True)
        ]
        (folder / "vectors.txt").write_text("\n".join(lines), encoding="utf-8")
        args = ("--refit=true", f"--data.vectors={vectors}")
        assert fit(*args, "--name=whole") == 0
        step, handler = HANModule.training_step, signal.getsignal(signal.SIGINT)

        def interrupted(module: HANModule, batch: Batch, index: int) -> torch.Tensor:
            if not module.trainer.enable_validation and module.current_epoch == 1:
                raise KeyboardInterrupt
            return step(module, batch, index)

        with monkeypatch.context() as patched:
            patched.setattr(HANModule, "training_step", interrupted)
            assert fit(*args, "--name=cut") == 130
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
        cut = Path("runs/cut/1")
        assert f"--run_dir {cut} --ckpt_path last" in capsys.readouterr().err
        assert_same_weights(model_weights(cut), checkpoint("best", cut)["state_dict"])
        assert fit(*args, f"--run_dir={cut}", "--ckpt_path=last") == 0
        assert_same_weights(model_weights(cut), model_weights(Path("runs/whole/1")))

    def test_a_resumed_run_needs_the_vectors_that_it_began_with(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit("--refit=false") == 0
        capsys.readouterr()
        before = (RUN / "checkpoints/last.ckpt").read_bytes()
        others = ("--data.vectors=builtin", "--trainer.max_epochs=5", "--data.cache_dir=cache")
        resumed = ("fit", "--data.train=reviews.csv", f"--run_dir={RUN}", "--ckpt_path=last")
        assert run_han(*resumed, *others, "--refit=true") == 1
        told = capsys.readouterr().err.splitlines()[-1]
        assert told == (
            "han: The checkpoint's word vectors are 8 wide, those of `--data.vectors` 50; give the "
            "`--data.vectors` that it was trained from, or `--refit` false."
        )
        assert (RUN / "checkpoints/last.ckpt").read_bytes() == before

    def test_training_does_not_go_on_from_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert fit("--refit=true", epochs=1) == 0
        capsys.readouterr()
        assert fit("--refit=true", f"--run_dir={RUN}", "--ckpt_path=refit") == 1
        [line] = capsys.readouterr().err.splitlines()
        assert "refit.ckpt holds weights alone" in line

    def test_it_takes_no_more_steps_than_are_allowed(self) -> None:
        assert fit("--refit=true", "--trainer.max_steps=9") == 0  # 7 an epoch
        assert record()["refit_epochs"] == 2
        assert checkpoint("refit")["global_step"] == 9

    def test_it_is_logged_by_the_loggers_of_the_first_training(self) -> None:
        Recorder.made.clear()
        logger = "--trainer.logger=tests.test_training.Recorder"
        assert fit("--refit=true", logger, epochs=1) == 0
        [recorder] = Recorder.made
        first = [step for name, step in recorder.logged if name == "train_loss_step"]
        second = [step for name, step in recorder.logged if name == "refit_loss_step"]
        assert (first, second) == (list(range(7)), list(range(7, 15)))

    def test_what_is_no_longer_the_model_does_not_stay(self) -> None:
        assert fit("--refit=true") == 0
        assert fit("--refit=false", f"--run_dir={RUN}", "--ckpt_path=last") == 0
        assert not (RUN / "checkpoints/refit.ckpt").exists()
        assert_same_weights(model_weights(), checkpoint("best")["state_dict"])

    def test_own_callbacks_take_part_but_for_those_that_go_by_validation(
        self, folder: Path
    ) -> None:
        config = {
            "trainer": {
                "callbacks": [
                    {"class_path": "LearningRateMonitor"},
                    {
                        "class_path": "EarlyStopping",
                        "init_args": {"monitor": "val_accuracy", "mode": "max", "patience": 9},
                    },
                ]
            }
        }
        (folder / "own.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        assert fit("--refit=true", "--config=own.yaml") == 0
        rows_of = read_csv(RUN / "metrics.csv")
        before = [row for row in rows_of if row.get("lr-RowwiseAdamW/pg1")]
        after = [row for row in rows_of if row.get("refit_lr-RowwiseAdamW/pg1")]
        assert (len(before), len(after)) == (4 * 7, record()["refit_epochs"] * 8)

    def test_the_estimator_trains_the_same(self) -> None:
        write_rows(Path("reviews.csv"), [row[:3] for row in rows()], ("id", "text", "label"))
        assert fit("--refit=true") == 0
        classifier = HANClassifier(
            vectors="none",
            embedding_size=8,
            members=2,
            hidden_size=4,
            attention_size=4,
            learning_rate=0.02,
            batch_size=4,
            max_epochs=4,
            refit=True,
            random_state=0,
        )
        texts, labels = zip(*((row[1], row[2]) for row in rows()), strict=True)
        classifier.fit(list(texts), list(labels))
        found = classifier.predictor_.bundle.network.state_dict()
        expected = han.load(RUN).bundle.network.state_dict()
        assert_same_weights(dict(found), dict(expected))
