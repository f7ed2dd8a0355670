from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from han.batching import Batch
from han.module import HANModule
from han.optimization import RowwiseAdamW
from han.recipe import recipe_for

pytestmark = [
    # Tiny trainings, of batches that are made already.
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`.*"),
    # Lightning's to mend.
    pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*"),
]
VOCABULARY, CLASSES = 12, 3


def make_module(**options: Any) -> HANModule:  # noqa: ANN401
    """Return a tiny network, with nothing random in training unless asked for."""
    torch.manual_seed(0)
    quiet = {f"{place}_dropout": 0.0 for place in ("word", "embedding", "encoder", "classifier")}
    sizes = {"embedding_size": 4, "hidden_size": 3, "attention_size": 5}
    return HANModule(VOCABULARY, CLASSES, **{**quiet, **sizes, "label_smoothing": 0.0, **options})


def make_batch(labels: Sequence[int] | None, seed: int = 0) -> Batch:
    """Return documents of one or two sentences of made-up words, one for each label."""
    random = np.random.default_rng(seed)
    count = 2 if labels is None else len(labels)
    documents = [
        [random.integers(0, VOCABULARY, random.integers(1, 6)).tolist() for _ in range(1 + i % 2)]
        for i in range(count)
    ]
    return Batch.from_lists(documents, labels)


BATCHES = [make_batch([0, 1, 2, 1, 0], 1), make_batch([2, 2], 2), make_batch([1], 3)]


def loader(batches: Sequence[Batch] = BATCHES) -> DataLoader[Batch]:
    """Return a plain loader of these batches."""
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]  # a list will do


def make_trainer(*callbacks: pl.Callback, epochs: int = 2, **options: Any) -> pl.Trainer:  # noqa: ANN401
    """Return a trainer that writes and shows nothing."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        **{**quiet, "accelerator": "cpu", "enable_checkpointing": False, **options},
        max_epochs=epochs,
        callbacks=list(callbacks),
    )


def probabilities(module: HANModule, batches: Sequence[Batch] = BATCHES) -> torch.Tensor:
    """Return the probabilities of all documents, in float64."""
    module.eval()
    with torch.no_grad():
        found = torch.cat([module(batch).logits.double().softmax(1) for batch in batches])
    module.train()
    return found


def targets(batches: Sequence[Batch] = BATCHES) -> torch.Tensor:
    """Return the classes of all documents."""
    return torch.cat([batch.labels for batch in batches if batch.labels is not None])


class Rates(pl.Callback):
    """Record the learning rate of every group, before every update."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


class TestArguments:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("label_smoothing", 1.0),
            ("label_smoothing", -0.1),
            ("consistency", -1.0),
            ("learning_rate", 0.0),
            ("embedding_learning_rate", -1.0),
            ("sentence_dropout", 1.0),
            ("hidden_size", 0),
            ("word_dropout", 1.0),
        ],
    )
    def test_what_is_out_of_range_is_refused(self, option: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"`{option}` must be"):
            make_module(**{option: value})

    def test_hyper_parameters_are_plain_values(self) -> None:
        for value in make_module().hparams.values():
            assert value is None or type(value) in (bool, int, float, str)


class TestTrainingStep:
    def test_the_loss_is_the_mean_negative_log_probability_of_the_true_class(self) -> None:
        module = make_module()
        module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        loss = module.training_step(BATCHES[0], 0)
        true = probabilities(module, BATCHES[:1])[range(5), targets(BATCHES[:1])]
        assert loss.item() == pytest.approx(-true.log().mean().item(), abs=1e-6)

    def test_smoothing_spreads_a_share_of_the_target(self) -> None:
        module = make_module(label_smoothing=0.3)
        module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        logs = probabilities(module, BATCHES[:1]).log()
        smooth = torch.full_like(logs, 0.3 / CLASSES)
        smooth[range(5), targets(BATCHES[:1])] += 0.7
        expected = -(smooth * logs).sum(1).mean().item()
        assert module.training_step(BATCHES[0], 0).item() == pytest.approx(expected, abs=1e-6)

    def test_consistency_adds_the_divergence_of_two_readings(self) -> None:
        module = make_module(sentence_dropout=0.0, classifier_dropout=0.5, consistency=2.0)
        module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        torch.manual_seed(7)
        readings = [module(BATCHES[0]).logits.softmax(1).detach().numpy() for _ in range(2)]
        assert abs(readings[0] - readings[1]).max() > 0.01
        rows = (range(5), targets(BATCHES[:1]))
        cross_entropy = -np.mean([np.log(p[rows]) for p in readings])
        there, back = entropy(*readings, axis=1), entropy(*readings[::-1], axis=1)
        expected = cross_entropy + 2 * (there + back).mean() / 2
        torch.manual_seed(7)
        assert module.training_step(BATCHES[0], 0).item() == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(("consistency", "readings"), [(0.0, 1), (0.1, 2)])
    def test_without_consistency_a_batch_is_read_once(
        self, consistency: float, readings: int
    ) -> None:
        module = make_module(consistency=consistency)
        module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        read: list[Batch] = []
        module.network.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        module.training_step(BATCHES[0], 0)
        assert len(read) == readings

    def test_documents_without_labels_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no labels"):
            make_module().training_step(make_batch(None), 0)


class TestFigures:
    @pytest.fixture
    def module(self) -> HANModule:
        """Return a network that predicts more than one class."""
        module = make_module()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=1.5)
        return module

    def test_validation_figures_are_means_over_documents(self, module: HANModule) -> None:
        (figures,) = make_trainer().validate(module, loader(), verbose=False)
        found, true = probabilities(module), targets()
        loss = -found[range(len(true)), true].log().mean().item()
        predicted = found.argmax(1)
        assert len(predicted.unique()) > 1
        assert figures["val_loss"] == pytest.approx(loss, abs=1e-6)
        assert figures["val_accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=1e-6)
        macro = f1_score(true, predicted, average="macro")
        assert figures["val_macro_f1"] == pytest.approx(macro, abs=1e-6)

    @pytest.mark.parametrize("labels", [[0, 1, 2, 2, 1, 0, 0], [0, 0, 0, 1], [2]])
    def test_logged_figures_are_the_final_ones(self, module: HANModule, labels: list[int]) -> None:
        batches = [make_batch(labels, 5), make_batch(labels[:1], 6)]
        (logged,) = make_trainer().test(module, loader(batches), verbose=False)
        final = module.test_figures
        assert final["documents"] == len(labels) + 1
        for figure in ("loss", "accuracy", "macro_f1"):
            assert logged[f"test_{figure}"] == pytest.approx(final[figure], abs=1e-6)

    def test_final_figures_are_those_of_scikit_learn(self, module: HANModule) -> None:
        make_trainer().test(module, loader(), verbose=False)
        final, found, true = module.test_figures, probabilities(module), targets()
        predicted = found.argmax(1)
        assert final["accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
        per_class = f1_score(true, predicted, labels=range(CLASSES), average=None)
        assert [row["f1"] for row in final["per_class"].values()] == pytest.approx(per_class)
        assert list(final["per_class"]) == ["0", "1", "2"]
        assert final["words_per_second"] * final["seconds"] == pytest.approx(
            sum(len(batch.tokens) for batch in BATCHES)
        )

    def test_a_class_that_does_not_occur_counts_as_zero_in_both(self) -> None:
        module = make_module()
        with torch.no_grad():
            module.network.classifier.bias.copy_(torch.tensor([99.0, 0.0, -99.0]))
        (logged,) = make_trainer().test(module, loader([make_batch([0, 0, 1])]), verbose=False)
        assert logged["test_macro_f1"] == pytest.approx(0.8 / 3, abs=1e-6)
        assert module.test_figures["macro_f1"] == pytest.approx(0.8 / 3, abs=1e-6)

    def test_a_second_test_forgets_the_first(self, module: HANModule) -> None:
        trainer = make_trainer()
        trainer.test(module, loader(), verbose=False)
        first = module.test_figures
        trainer.test(module, loader(), verbose=False)
        assert module.test_figures["documents"] == first["documents"] == 8
        assert module.test_figures["confusion_matrix"] == first["confusion_matrix"]

    def test_predictions_are_probabilities_in_order(self, module: HANModule) -> None:
        batches: Any = make_trainer().predict(module, loader())
        assert torch.allclose(torch.cat(batches).double(), probabilities(module), atol=1e-6)


class TestFit:
    def test_it_trains_without_our_data_module(self) -> None:
        module = make_module(learning_rate=0.05)
        before = -probabilities(module)[range(8), targets()].log().mean()
        make_trainer(epochs=12).fit(module, loader(), loader())
        after = -probabilities(module)[range(8), targets()].log().mean()
        assert after < before / 2

    def test_a_checkpoint_brings_the_network_back(self, tmp_path: Path) -> None:
        module = make_module(optimizer="sgd", schedule="constant")
        trainer = make_trainer(epochs=1)
        trainer.fit(module, loader())
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        again = HANModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
        assert again.hparams == module.hparams
        assert torch.equal(probabilities(again), probabilities(module))

    def test_sgd_has_momentum_and_adamw_is_the_default(self) -> None:
        trainer = make_trainer(epochs=1)
        trainer.fit(make_module(optimizer="sgd", momentum=0.8), loader())
        assert type(trainer.optimizers[0]) is SGD
        assert {group["momentum"] for group in trainer.optimizers[0].param_groups} == {0.8}
        trainer = make_trainer(epochs=1)
        trainer.fit(make_module(), loader())
        assert type(trainer.optimizers[0]) is RowwiseAdamW

    def test_matrices_alone_decay(self) -> None:
        module = make_module(weight_decay=0.25)
        trainer = make_trainer(epochs=1)
        trainer.fit(module, loader())
        decayed = {
            id(parameter): group["weight_decay"]
            for group in trainer.optimizers[0].param_groups
            for parameter in group["params"]
        }
        found = {name: decayed[id(p)] for name, p in module.network.named_parameters()}
        free = {name for name, decay in found.items() if decay == 0}
        assert free == {
            name
            for name in found
            if "bias" in name or "context" in name or name == "embedding.weight"
        }
        assert {found[name] for name in found.keys() - free} == {0.25}
        assert any("context" in name for name in free)

    def test_word_vectors_have_their_own_rate(self) -> None:
        rates = Rates()
        module = make_module(
            learning_rate=0.1, embedding_learning_rate=0.7, schedule="constant", optimizer="sgd"
        )
        make_trainer(rates).fit(module, loader())
        assert rates.seen == [[0.1, 0.1, 0.7]] * 6

    def test_word_vectors_stay_where_their_rate_is_zero(self) -> None:
        module = make_module(embedding_learning_rate=0.0, weight_decay=0.5)
        before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
        make_trainer().fit(module, loader())
        for name, parameter in module.network.named_parameters():
            assert torch.equal(parameter, before[name]) == (name == "embedding.weight"), name

    @pytest.mark.parametrize("epochs", [1, 2, 4, 9])
    def test_one_cycle_is_that_of_torch(self, epochs: int) -> None:
        rates = Rates()
        module = make_module(learning_rate=0.1, embedding_learning_rate=0.7)
        make_trainer(rates, epochs=epochs).fit(module, loader())
        optimizer = SGD([{"params": [p]} for p in torch.zeros(3, 1)])
        peaks = [0.1, 0.1, 0.7]
        oracle = OneCycleLR(
            optimizer, peaks, total_steps=3 * epochs, pct_start=0.2, cycle_momentum=False
        )
        assert len(rates.seen) == 3 * epochs
        for seen in rates.seen:
            assert seen == pytest.approx(oracle.get_last_lr(), rel=1e-9)
            optimizer.step()
            if seen is not rates.seen[-1]:
                oracle.step()

    def test_one_cycle_can_have_a_warm_up_of_one_step(self) -> None:
        rates = Rates()
        make_trainer(rates, epochs=5).fit(make_module(learning_rate=0.1), loader(BATCHES[:1]))
        first = [seen[0] for seen in rates.seen]
        assert first[0] == 0.1
        assert first == sorted(first, reverse=True)
        assert all(math.isfinite(rate) for rate in first)

    def test_one_cycle_can_be_over_before_it_begins(self) -> None:
        module = make_module()
        make_trainer(max_steps=0).fit(module, loader())
        assert module.global_step == 0

    def test_one_cycle_without_an_end_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"--trainer\.max_epochs"):
            make_trainer(epochs=-1).fit(make_module(), loader())

    def test_constant_needs_no_end(self) -> None:
        module = make_module(schedule="constant")
        make_trainer(epochs=-1, max_steps=4).fit(module, loader())
        assert module.global_step == 4


class TestClipping:
    """Of sparse gradients, which Lightning cannot clip: as torch clips the same ones, dense."""

    @pytest.mark.parametrize("algorithm", ["norm", "value"])
    @pytest.mark.parametrize("largest", [1e-3, 0.05, 1e3])
    @pytest.mark.parametrize("batches", [BATCHES[:1], BATCHES])  # gradients of several are summed
    def test_equals_torch(self, algorithm: str, largest: float, batches: list[Batch]) -> None:
        module = make_module(schedule="constant")
        module.trainer = make_trainer(gradient_clip_val=largest, gradient_clip_algorithm=algorithm)
        optimizer = module.configure_optimizers()["optimizer"]
        embedding = module.network.embedding
        assert embedding.sparse
        grads = []
        for sparse in (True, False):
            module.zero_grad()
            embedding.sparse = sparse
            for batch in batches:
                module(batch).logits.square().sum().backward()
            if sparse:
                module.configure_gradient_clipping(optimizer, largest, algorithm)
            elif algorithm == "norm":
                nn.utils.clip_grad_norm_(module.parameters(), largest)
            else:
                nn.utils.clip_grad_value_(module.parameters(), largest)
            grads.append([p.grad.to_dense() for p in module.parameters() if p.grad is not None])
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_what_is_no_number_is_not_hidden(self) -> None:
        module = make_module(schedule="constant")
        module.trainer = make_trainer(gradient_clip_val=1.0)
        optimizer = module.configure_optimizers()["optimizer"]
        (module(BATCHES[0]).logits.sum() * torch.nan).backward()
        module.configure_gradient_clipping(optimizer, 1.0, "norm")
        assert all(
            p.grad is not None and p.grad.to_dense().isnan().any() for p in module.parameters()
        )

    def test_several_batches_before_a_step(self) -> None:
        trainer = make_trainer(accumulate_grad_batches=3, gradient_clip_val=1.0)
        module = make_module(sentence_dropout=0.0)
        before = module.network.embedding.weight.detach().clone()
        trainer.fit(module, loader())
        used = torch.cat([batch.tokens for batch in BATCHES]).unique()
        changed = (module.network.embedding.weight != before).any(1).nonzero().squeeze(1)
        assert changed.tolist() == used.tolist()


class Vectors(pl.LightningDataModule):
    """Batches with pretrained vectors."""

    def __init__(self, matrix: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        super().__init__()
        self.embedding_matrix = matrix

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return one batch."""
        return loader(BATCHES[:1])


class Documents(pl.LightningDataModule):
    """Batches of what is said to be so many documents."""

    def __init__(self, documents: int) -> None:
        super().__init__()
        self.recipe = recipe_for(documents, CLASSES)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return three batches."""
        return loader()


class TestOptions:
    @pytest.mark.parametrize(
        ("data", "like"),
        [
            ({"train_dataloaders": loader()}, 0),
            ({"datamodule": Documents(300)}, 300),
            ({"datamodule": Documents(10**6)}, 10**6),
        ],
    )
    def test_what_is_none_follows_from_the_documents(self, data: Any, like: int) -> None:  # noqa: ANN401
        expected, rates = recipe_for(like, CLASSES), Rates()
        module = make_module(schedule="constant")
        read: list[Batch] = []
        module.network.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        make_trainer(rates, epochs=1).fit(module, **data)
        assert rates.seen == [[expected.learning_rate] * 3] * 3
        assert len(read) == 3 * (2 if expected.consistency else 1)
        assert module.options == {
            **module.hparams,
            "consistency": expected.consistency,
            "learning_rate": expected.learning_rate,
            "embedding_learning_rate": expected.learning_rate,
        }

    def test_what_is_given_stays(self) -> None:
        given = {"consistency": 0.0, "learning_rate": 0.3, "embedding_learning_rate": 0.0}
        module = make_module(**given)
        make_trainer(epochs=1).fit(module, datamodule=Documents(300))
        assert given.items() <= module.options.items()


class TestSetup:
    def test_pretrained_vectors_arrive_in_the_network(self) -> None:
        matrix = np.random.default_rng(0).normal(size=(VOCABULARY, 4)).astype(np.float32)
        module = make_module(embedding_learning_rate=0.0)
        make_trainer(epochs=1).fit(module, datamodule=Vectors(matrix))
        assert np.array_equal(module.network.embedding.weight.detach().numpy(), matrix)

    def test_vectors_of_another_shape_are_refused(self) -> None:
        matrix = np.zeros((VOCABULARY, 5), np.float32)
        with pytest.raises(ValueError, match="are 12 x 5, the network's 12 x 4"):
            make_trainer(epochs=1).fit(make_module(), datamodule=Vectors(matrix))
