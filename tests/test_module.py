from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from han.attention import Weighting
from han.batching import Batch
from han.calibration import fit_temperature
from han.model import GROUPS, Draws
from han.module import HANModule
from han.optimization import RowwiseAdamW
from han.recipe import recipe_for
from han.training import load_weights
from han.transformer import Blocks
from tests.varieties import VARIETIES

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
    """Return one tiny network, with nothing random in training unless asked for."""
    torch.manual_seed(0)
    quiet = {f"{place}_dropout": 0.0 for place in ("word", "embedding", "encoder", "classifier")}
    quiet |= {"sentence_dropout": 0.0, "label_smoothing": 0.0}
    sizes = {"members": 1, "embedding_size": 4, "hidden_size": 3, "attention_size": 5}
    return HANModule(VOCABULARY, CLASSES, **{**quiet, **sizes, **options})


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
            ("members", 0),
            ("members", -1),
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
        groups = {"word_attention": Weighting("dot"), "transformer": Blocks(layers=2)}
        hparams = dict(make_module(**groups).hparams)
        assert hparams["word_attention"] == {
            "score": "dot",
            "normalization": "softmax",
            "heads": 1,
        }
        of_groups = [hparams.pop(group) for group in GROUPS]
        for value in chain(hparams.values(), *(group.values() for group in of_groups)):
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

    def test_members_losses_are_added_up(self) -> None:
        module = make_module(members=3)
        logged: dict[str, float] = {}
        module.log = lambda name, value, **_: logged.update({name: value.item()})  # type: ignore[method-assign,assignment]
        losses = [
            functional.cross_entropy(member(BATCHES[0]).logits, targets(BATCHES[:1])).item()
            for member in module.network.members
        ]
        assert len(set(losses)) == 3
        assert module.training_step(BATCHES[0], 0).item() == pytest.approx(sum(losses), abs=1e-6)
        assert logged["train_loss"] == pytest.approx(sum(losses) / 3, abs=1e-6)

    def test_sentences_are_left_out_for_each_member_by_itself(self) -> None:
        module = make_module(members=2, sentence_dropout=0.5)
        module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        read: list[list[int]] = []
        for member in module.network.members:
            member.register_forward_pre_hook(
                lambda _, inputs: read.append(inputs[0].tokens.tolist())
            )
        batch = make_batch([0, 1] * 20)
        module.training_step(batch, 0)
        first, second = read
        assert first != second
        assert max(len(first), len(second)) < len(batch.tokens)

    def test_documents_without_labels_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no labels"):
            make_module().training_step(make_batch(None), 0)


class TestHardAttention:
    def test_draws_learn_where_the_class_stands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of each document's words one tells the class: word 1 or word 2, somewhere."""
        monkeypatch.setattr("han.module.REWARD_SHARE", 1.0)  # there is one draw a document
        generator = np.random.default_rng(0)
        labels = generator.integers(0, 2, 64)
        documents = []
        for label in labels:
            words = generator.integers(3, VOCABULARY, 6)
            words[generator.integers(6)] = 1 + label
            documents.append([words.tolist()])
        batch = Batch.from_lists(documents, labels=labels.tolist())
        hard = Weighting(normalization="hard_reinforce")
        module = make_module(word_attention=hard, hidden_size=8, attention_size=8)
        module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        assert module.usual_worth.tolist() == pytest.approx([-math.log(CLASSES)])
        for _ in range(120):
            optimizer.zero_grad()
            module.training_step(batch, 0).backward()
            optimizer.step()
        output = module.eval()(batch)
        assert (output.logits.argmax(1).numpy() == labels).mean() > 0.9
        assert module.usual_worth.item() > -0.3
        looked_at = output.word_attention.bool()
        told = (batch.tokens == 1) | (batch.tokens == 2)
        assert (looked_at & told).sum() / 64 > 0.5  # of six words; neighbours' states know of it

    def test_what_a_draw_is_worth_is_that_of_the_paper(self) -> None:
        """Xu et al. 2015, eqs. 10-12: -0.1 (log p - b) d log q - 0.01 dH, b a running mean."""
        module = make_module(
            members=2, sentence_attention=Weighting(normalization="hard_reinforce")
        )
        module.usual_worth.copy_(torch.tensor([-1.0, -2.0]))
        logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
        log_probability = torch.tensor([-0.5, -1.5], requires_grad=True)
        entropy = torch.tensor([0.6, 0.7], requires_grad=True)
        draws = Draws(log_probability, entropy)
        module._worth_of_draws(1, logits, draws, torch.tensor([0, 0])).backward()
        worth = logits.detach().log_softmax(1)[:, 0]
        assert log_probability.grad is not None
        torch.testing.assert_close(log_probability.grad, -0.1 * (worth + 2) / 2)
        assert entropy.grad is not None
        torch.testing.assert_close(entropy.grad, torch.full((2,), -0.01 / 2))
        assert logits.grad is None
        expected = 0.9 * -2.0 + 0.1 * worth.mean()
        torch.testing.assert_close(module.usual_worth, torch.tensor([-1.0, expected.item()]))

    def test_networks_without_it_keep_nothing_of_it(self) -> None:
        assert not any("usual_worth" in name for name in make_module().state_dict())


class TestFigures:
    @pytest.fixture
    def module(self) -> HANModule:
        """Return networks that together predict more than one class."""
        module = make_module(members=2)
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

    def test_validation_loss_is_that_of_the_mean_logits(self, module: HANModule) -> None:
        (figures,) = make_trainer().validate(module, loader(BATCHES[:1]), verbose=False)
        with torch.no_grad():
            first, second = (member(BATCHES[0]).logits for member in module.network.members)
        true = targets(BATCHES[:1])
        loss = functional.cross_entropy((first + second) / 2, true).item()
        assert figures["val_loss"] == pytest.approx(loss, abs=1e-6)
        mean = sum(functional.cross_entropy(logits, true).item() for logits in (first, second)) / 2
        assert abs(mean - loss) > 0.01
        (logged,) = make_trainer().test(module, loader(BATCHES[:1]), verbose=False)
        assert logged["test_loss"] == pytest.approx(loss, abs=1e-6)

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
            module.network.members[0].classifier.bias.copy_(torch.tensor([99.0, 0.0, -99.0]))
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


class TestCalibration:
    @pytest.fixture
    def module(self) -> HANModule:
        """Return networks that were validated while they trained."""
        module = make_module(members=2)
        make_trainer().fit(module, loader(), loader())
        return module

    def test_the_temperature_is_that_of_the_validation_documents(self, module: HANModule) -> None:
        assert module.calibration is not None
        logits = probabilities(module).log()
        expected = fit_temperature(logits.numpy(), targets().numpy())
        assert module.network.temperature == pytest.approx(expected, rel=1e-4)
        assert module.network.temperature == module.calibration["temperature"] != 1
        assert module.calibration["documents"] == 8
        after = (logits / expected).softmax(1)
        batches: Any = make_trainer().predict(module, loader())
        assert torch.allclose(torch.cat(batches), after, atol=1e-4)
        nll = module.calibration["nll"]
        assert nll["after"] == pytest.approx(functional.nll_loss(after.log(), targets()).item())
        assert nll["after"] < nll["before"]

    def test_test_figures_are_of_calibrated_probabilities(self, module: HANModule) -> None:
        (logged,) = make_trainer().test(module, loader(BATCHES[:2]), verbose=False)
        found = module.test_figures["calibration"]
        assert found["temperature"] == module.network.temperature
        assert found["documents"] == 7
        assert logged["test_loss"] == pytest.approx(found["nll"]["after"], abs=1e-6)

    def test_a_checkpoint_keeps_it(self, module: HANModule, tmp_path: Path) -> None:
        module.trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
        again = HANModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
        assert again.calibration == module.calibration
        assert again.network.temperature == module.network.temperature

    def test_validation_by_itself_leaves_it(self) -> None:
        module = make_module()
        make_trainer().validate(module, loader(), verbose=False)
        make_trainer().test(module, loader(), verbose=False)
        assert module.calibration is None
        assert module.network.temperature == 1
        assert "calibration" not in module.test_figures

    def test_without_validation_documents_there_is_none(self) -> None:
        module = make_module()
        make_trainer().fit(module, loader())
        assert (module.calibration, module.network.temperature) == (None, 1)


class TestFit:
    def test_it_trains_without_our_data_module(self) -> None:
        module = make_module(learning_rate=0.05)
        before = -probabilities(module)[range(8), targets()].log().mean()
        make_trainer(epochs=12).fit(module, loader(), loader())
        after = -probabilities(module)[range(8), targets()].log().mean()
        assert after < before / 2

    @pytest.mark.parametrize("rate", [1e30, float("inf")])
    def test_it_ends_where_the_loss_is_no_number(self, rate: float) -> None:
        module = make_module(learning_rate=rate, schedule="constant")
        with pytest.raises(
            ValueError, match=r"diverged, the loss of .* in epoch 1 is not a finite"
        ):
            make_trainer().fit(module, loader(), loader())

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
        module = make_module(members=2, weight_decay=0.25)
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
            name for name in found if "bias" in name or "context" in name or "embedding" in name
        }
        assert {found[name] for name in found.keys() - free} == {0.25}
        assert any("context" in name for name in free)

    @pytest.mark.parametrize("options", VARIETIES.values(), ids=VARIETIES)
    def test_every_weight_has_one_rate_a_transformers_a_seventh(
        self, options: dict[str, Any]
    ) -> None:
        small = {"hidden_size": 5, "learning_rate": 0.07, "schedule": "constant"}
        module = make_module(**small, **options)
        groups = module.configure_optimizers()["optimizer"].param_groups
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        assert sum(len(group["params"]) for group in groups) == len(rates)
        found = {name: rates[id(p)] for name, p in module.network.named_parameters()}
        network = module.network.members[0]
        slow = tuple(
            f"members.0.{level}_encoder.reader."
            for level in ("word", "sentence")
            if network.options[f"{level}_encoder"] == "transformer"
        )
        for name, rate in found.items():
            assert rate == pytest.approx(0.01 if slow and name.startswith(slow) else 0.07), name

    def test_word_vectors_have_their_own_rate(self) -> None:
        rates = Rates()
        module = make_module(
            learning_rate=0.1, embedding_learning_rate=0.7, schedule="constant", optimizer="sgd"
        )
        make_trainer(rates).fit(module, loader())
        assert rates.seen == [[0.1, 0.1, 0.7]] * 6

    def test_word_vectors_stay_where_their_rate_is_zero(self) -> None:
        module = make_module(members=2, embedding_learning_rate=0.0, weight_decay=0.5)
        before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
        make_trainer().fit(module, loader())
        for name, parameter in module.network.named_parameters():
            assert torch.equal(parameter, before[name]) == ("embedding" in name), name

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

    def test_cosine_warms_up_and_falls_to_nothing(self) -> None:
        rates = Rates()
        module = make_module(learning_rate=0.3, schedule="cosine")
        make_trainer(rates, epochs=10).fit(module, loader())  # of three steps
        found = [seen[0] for seen in rates.seen]
        assert found[:4] == pytest.approx([0.1, 0.2, 0.3, 0.3])
        assert found[3:] == pytest.approx(
            [0.15 * (1 + math.cos(math.pi * step / 26)) for step in range(27)]
        )

    def test_plateau_halves_the_rates_after_two_epochs_without_a_better_loss(self) -> None:
        rates = Rates()
        module = make_module(learning_rate=0.1, embedding_learning_rate=0.7, schedule="plateau")
        losses = torch.tensor([3.0, 2.0, 2.0, 2.5, 1.0, 1.5, 1.5, 1.5])
        module.val_loss.compute = lambda: losses[module.current_epoch]  # type: ignore[method-assign]
        make_trainer(rates, epochs=8, num_sanity_val_steps=0).fit(module, loader(), loader())
        first = [seen[0] for seen in rates.seen[::3]]
        assert first == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025])
        assert rates.seen[-1][-1] == pytest.approx(0.7 / 4)

    def test_constant_needs_no_end(self) -> None:
        module = make_module(schedule="constant")
        make_trainer(epochs=-1, max_steps=4).fit(module, loader())
        assert module.global_step == 4


def total_norm(member: nn.Module) -> torch.Tensor:
    """Return the norm of all gradients together, before they are clipped."""
    return nn.utils.get_total_norm(
        p.grad.to_dense() for p in member.parameters() if p.grad is not None
    )


class TestClipping:
    """Of each member's gradients, sparse or not: as torch clips the same ones, dense."""

    @pytest.mark.parametrize("algorithm", ["norm", "value"])
    @pytest.mark.parametrize("largest", [1e-3, 0.05, 1e3])
    @pytest.mark.parametrize("batches", [BATCHES[:1], BATCHES])  # gradients of several are summed
    def test_equals_torch(self, algorithm: str, largest: float, batches: list[Batch]) -> None:
        module = make_module(members=2, schedule="constant")
        module.trainer = make_trainer(gradient_clip_val=largest, gradient_clip_algorithm=algorithm)
        optimizer = module.configure_optimizers()["optimizer"]
        assert all(embedding.sparse for embedding in module.network.embeddings)
        grads: dict[str, list[torch.Tensor]] = {}
        norms: list[list[float]] = []
        for way in ("sparse", "dense", "torch"):
            module.zero_grad()
            for embedding in module.network.embeddings:
                embedding.sparse = way == "sparse"
            for batch in batches:
                first, second = (member(batch).logits for member in module.network.members)
                (first.square().sum() + 9 * second.square().sum()).backward()
            if way != "torch":
                module.configure_gradient_clipping(optimizer, largest, algorithm)
                norms.append(module.gradient_norms)
            else:
                norms.append([float(total_norm(member)) for member in module.network.members])
            for member in module.network.members if way == "torch" else ():
                if algorithm == "norm":
                    nn.utils.clip_grad_norm_(member.parameters(), largest)
                else:
                    nn.utils.clip_grad_value_(member.parameters(), largest)
            grads[way] = [p.grad.to_dense() for p in module.parameters() if p.grad is not None]
        for of_sparse, of_dense, theirs in zip(*grads.values(), strict=True):
            torch.testing.assert_close(of_sparse, theirs)
            torch.testing.assert_close(of_dense, theirs)
        assert norms[0] == pytest.approx(norms[2])
        assert norms[1] == pytest.approx(norms[2])

    def test_no_limit_clips_nothing(self) -> None:
        module = make_module(members=2, schedule="constant")
        optimizer = SGD(module.parameters(), 0.1)
        (1e6 * module(BATCHES[0]).logits.sum()).backward()
        before = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        for limit in (None, 0.0):
            module.configure_gradient_clipping(optimizer, limit, "norm")
        after = [p.grad for p in module.parameters() if p.grad is not None]
        assert len(after) == len(before) > 0
        assert all(map(torch.equal, before, after))
        assert module.gradient_norms == [total_norm(member) for member in module.network.members]

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
        module = make_module(members=2)
        before = [embedding.weight.detach().clone() for embedding in module.network.embeddings]
        trainer.fit(module, loader())
        used = torch.cat([batch.tokens for batch in BATCHES]).unique()
        for embedding, start in zip(module.network.embeddings, before, strict=True):
            changed = (embedding.weight != start).any(1).nonzero().squeeze(1)
            assert changed.tolist() == used.tolist()


class TestMembers:
    @pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
    @pytest.mark.parametrize(
        ("largest", "algorithm"), [(None, None), (0.05, "norm"), (1e-3, "value")]
    )
    def test_each_trains_as_if_it_were_alone(
        self, optimizer: str, largest: float | None, algorithm: str | None
    ) -> None:
        def train(module: HANModule, largest: float | None = largest) -> HANModule:
            clipping = {"gradient_clip_val": largest, "gradient_clip_algorithm": algorithm}
            make_trainer(epochs=3, **clipping).fit(module, loader(), loader())
            return module

        options = {"optimizer": optimizer, "learning_rate": 0.03, "label_smoothing": 0.1}
        started = copy.deepcopy(make_module(members=3, **options).network.members)
        together = train(make_module(members=3, **options)).network.members
        for member, start in zip(together, started, strict=True):
            alone = make_module(**options)
            alone.network.members[0].load_state_dict(start.state_dict())
            unclipped = copy.deepcopy(alone)
            (expected,) = train(alone).network.members
            for name, parameter in member.named_parameters():
                assert torch.equal(parameter, expected.get_parameter(name)), name
                assert not torch.equal(parameter, start.get_parameter(name)), name
            if largest is not None:  # it did something
                (other,) = train(unclipped, None).network.members
                assert not torch.equal(other.classifier.weight, expected.classifier.weight)

    def test_their_word_vectors_have_the_rate_of_word_vectors(self) -> None:
        trainer, module = make_trainer(epochs=1), make_module(members=3)
        trainer.fit(module, loader())
        *others, of_words = trainer.optimizers[0].param_groups
        assert len(of_words["params"]) == 3
        for ours, embedding in zip(of_words["params"], module.network.embeddings, strict=True):
            assert ours is embedding.weight
        everything = [id(p) for group in (*others, of_words) for p in group["params"]]
        assert sorted(everything) == sorted(map(id, module.network.parameters()))

    def test_a_rate_of_zero_keeps_the_vectors_of_all(self) -> None:
        module = make_module(members=3, embedding_learning_rate=0.0)
        assert not any(embedding.weight.requires_grad for embedding in module.network.embeddings)

    def test_a_checkpoint_of_before_ensembles_is_one_member(self, tmp_path: Path) -> None:
        module = make_module()
        trainer = make_trainer(epochs=1)
        trainer.fit(module, loader())
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
        checkpoint["state_dict"] = {
            name.replace("network.members.0.", "network."): weight
            for name, weight in checkpoint["state_dict"].items()
        }
        assert "network.embedding.weight" in checkpoint["state_dict"]
        del checkpoint["hyper_parameters"]["members"]
        torch.save(checkpoint, tmp_path / "earlier.ckpt")
        again = make_module()
        with torch.no_grad():
            for parameter in again.parameters():
                parameter.zero_()
        load_weights(again, str(tmp_path / "earlier.ckpt"))
        assert torch.equal(probabilities(again), probabilities(module))
        given = {"members": 1, "weights_only": True}
        again = HANModule.load_from_checkpoint(tmp_path / "earlier.ckpt", **given)
        assert torch.equal(probabilities(again), probabilities(module))
        with pytest.raises(RuntimeError, match=r"Missing key.*network\.members\.1\."):
            load_weights(make_module(members=2), str(tmp_path / "earlier.ckpt"))


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
        make_trainer(rates, epochs=1).fit(module, **data)
        assert rates.seen == [[expected.learning_rate] * 3] * 3
        assert module.options == {
            **module.hparams,
            "learning_rate": expected.learning_rate,
            "embedding_learning_rate": expected.learning_rate,
        }

    def test_what_is_given_stays(self) -> None:
        given = {"learning_rate": 0.3, "embedding_learning_rate": 0.0}
        module = make_module(**given)
        make_trainer(epochs=1).fit(module, datamodule=Documents(300))
        assert given.items() <= module.options.items()


class TestSetup:
    def test_pretrained_vectors_arrive_in_the_network(self) -> None:
        matrix = np.random.default_rng(0).normal(size=(VOCABULARY, 4)).astype(np.float32)
        module = make_module(members=3, embedding_learning_rate=0.0)
        make_trainer(epochs=1).fit(module, datamodule=Vectors(matrix))
        for embedding in module.network.embeddings:
            assert np.array_equal(embedding.weight.detach().numpy(), matrix)

    def test_vectors_of_another_shape_are_refused(self) -> None:
        matrix = np.zeros((VOCABULARY, 5), np.float32)
        with pytest.raises(ValueError, match="are 12 x 5, the network's 12 x 4"):
            make_trainer(epochs=1).fit(make_module(), datamodule=Vectors(matrix))
