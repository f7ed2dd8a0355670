from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
import safetensors.torch
import torch

import han.bundle
from han.bundle import Bundle, find_model
from han.predictor import Predictor
from han.tokenization import Tokenizer
from tests.tiny import TEXTS, make_bundle, save_model
from tests.varieties import VARIETIES

FIGURES: dict[str, Any] = {"accuracy": 0.5, "macro_f1": 0.4, "loss": 0.7, "documents": 2}
HOSTILE = [
    "`code`",
    "a|b",
    "# title\n## another",
    "</code><script>alert(1)</script>",
    "[link](javascript:alert(1))",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "\x1b[31mred\x00",
    "\u202egnp",
    "=1+1",
    "",
    " ",
    "좋음 🎉",
]


def change_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


def make_earlier(directory: Path) -> Bundle:
    """Write a model as it was before there were ensembles; return one with the same weights."""
    bundle = make_bundle(members=1)
    bundle.save(directory)
    change_config(directory, lambda config: config.update(format="han.model/1"))
    change_config(directory, lambda config: config["network"].pop("members"))
    path = directory / "model.safetensors"
    weights = safetensors.torch.load(path.read_bytes())
    assert all(name.startswith("members.0.") for name in weights)
    earlier = {
        name.removeprefix("members.0.").replace("_encoder.reader.", "_encoder.gru."): weight
        for name, weight in weights.items()
    }
    assert {"embedding.weight", "word_encoder.gru.weight_hh_l0"} < earlier.keys()
    path.write_bytes(safetensors.torch.save(earlier))
    return bundle


class TestBundle:
    def test_labels_that_do_not_fit_are_refused(self) -> None:
        bundle = make_bundle()
        with pytest.raises(ValueError, match="2 classes, but there are 3 labels"):
            Bundle(bundle.network, bundle.vocabulary, ("a", "b", "c"))

    def test_repeated_label_is_refused(self) -> None:
        with pytest.raises(ValueError, match="twice"):
            make_bundle(["a", "a"])

    def test_vocabulary_that_does_not_fit_is_refused(self) -> None:
        bundle = make_bundle()
        shorter = type(bundle.vocabulary)(bundle.vocabulary.words[:3], Tokenizer())
        with pytest.raises(ValueError, match="its vocabulary has 3"):
            Bundle(bundle.network, shorter, bundle.labels)


class TestSave:
    def test_directory_holds_four_files(self, tmp_path: Path) -> None:
        names = {path.name for path in save_model(tmp_path / "m").iterdir()}
        assert names == {"config.json", "model.safetensors", "tokenizer.json", "README.md"}

    @pytest.mark.parametrize(
        "tokenizer",
        [
            Tokenizer("de", lowercase=False, max_sentences=3),
            Tokenizer(hierarchical=False, max_words_per_sentence=9),
        ],
        ids=["hierarchical", "flat"],
    )
    def test_model_loaded_again_predicts_the_same(
        self, tmp_path: Path, tokenizer: Tokenizer
    ) -> None:
        bundle = make_bundle(tokenizer=tokenizer)
        bundle.save(tmp_path / "m")
        loaded = Bundle.load(tmp_path / "m")
        assert loaded.labels == bundle.labels
        assert loaded.vocabulary.words == bundle.vocabulary.words
        assert loaded.vocabulary.tokenizer == bundle.vocabulary.tokenizer
        texts = [*TEXTS, "Unheard words. The soup!"]
        assert Predictor(loaded).classify(texts) == Predictor(bundle).classify(texts)

    @pytest.mark.parametrize("members", [1, 2, 5])
    def test_every_member_comes_back(self, tmp_path: Path, members: int) -> None:
        network = make_bundle(members=members).network
        make_bundle(members=members).save(tmp_path / "m")
        loaded = Bundle.load(tmp_path / "m").network
        assert loaded.options == network.options
        assert loaded.options["members"] == len(loaded.members) == members
        expected = network.state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        for name, weight in loaded.state_dict().items():
            assert torch.equal(weight, expected[name]), name
        config = json.loads((tmp_path / "m" / "config.json").read_text())
        assert config["format"] == "han.model/4"
        card = (tmp_path / "m" / "README.md").read_text()
        assert f"| networks, of which it is the mean | {members} |" in card

    @pytest.mark.parametrize("options", VARIETIES.values(), ids=VARIETIES)
    def test_every_variety_comes_back(self, tmp_path: Path, options: dict[str, Any]) -> None:
        bundle = make_bundle(options=options)
        bundle.save(tmp_path / "m")
        loaded = Bundle.load(tmp_path / "m")
        assert loaded.network.options == bundle.network.options
        texts = [*TEXTS, "Unheard words. The soup!", ""]
        assert Predictor(loaded).classify(texts) == Predictor(bundle).classify(texts)

    def test_the_temperature_comes_back(self, tmp_path: Path) -> None:
        bundle = make_bundle()
        bundle.network.temperature = 0.7431982
        bundle.save(tmp_path / "m")
        loaded = Bundle.load(tmp_path / "m")
        assert loaded.network.temperature == 0.7431982
        assert Predictor(loaded).classify(TEXTS) == Predictor(bundle).classify(TEXTS)

    def test_facts_come_back(self, tmp_path: Path) -> None:
        make_bundle(training={"lr": 0.1}).save(tmp_path / "m")
        assert Bundle.load(tmp_path / "m").facts == {"training": {"lr": 0.1}}

    def test_saving_twice_writes_the_same_bytes(self, tmp_path: Path) -> None:
        first, second = save_model(tmp_path / "a"), save_model(tmp_path / "b")
        for path in first.iterdir():
            assert path.read_bytes() == (second / path.name).read_bytes()

    def test_all_files_have_the_usual_permissions(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        mask = os.umask(0)
        os.umask(mask)
        assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o666 & ~mask}

    def test_old_model_is_replaced(self, tmp_path: Path) -> None:
        save_model(tmp_path / "m")
        save_model(tmp_path / "m", ["x", "y", "z"])
        assert Bundle.load(tmp_path / "m").labels == ("x", "y", "z")
        assert [path.name for path in tmp_path.iterdir()] == ["m"]

    def test_failure_keeps_the_old_model_and_leaves_nothing_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_model(tmp_path / "m")

        def fail(config: object) -> str:
            raise OSError("No space left on device")

        monkeypatch.setattr(han.bundle, "_card", fail)
        with pytest.raises(OSError, match="No space"):
            save_model(tmp_path / "m", ["x", "y", "z"])
        assert Bundle.load(tmp_path / "m").labels == ("bad", "good")
        assert [path.name for path in tmp_path.iterdir()] == ["m"]

    def test_empty_directory_is_filled(self, tmp_path: Path) -> None:
        assert Bundle.load(save_model(tmp_path)).labels == ("bad", "good")

    def test_directory_of_other_files_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(FileExistsError, match="something else"):
            save_model(tmp_path)
        assert (tmp_path / "thesis.tex").read_text() == "years of work"


class TestCard:
    def test_card_tells_data_and_figures(self, tmp_path: Path) -> None:
        data = {"train": {"documents": 3, "sentences": 5, "words": 31}}
        row = {"precision": 0.25, "recall": 0.5, "f1": 1 / 3, "documents": 2}
        figures = FIGURES | {"per_class": {"bad": row, "good": row}}
        make_bundle(data=data, metrics=figures).save(tmp_path / "m")
        card = (tmp_path / "m" / "README.md").read_text()
        assert "| train | 3 | 5 | 31 |" in card
        assert "| `bad` | 0.250 | 0.500 | 0.333 | 2 |" in card
        assert "Accuracy 0.5000" in card

    @pytest.mark.parametrize("tested", [False, True])
    def test_card_tells_how_sure_the_model_is(self, tmp_path: Path, tested: bool) -> None:
        rows = [
            {"min_confidence": 0.9, "coverage": 0.756, "accuracy": 0.9321},
            {"min_confidence": 0.99, "coverage": 0.0, "accuracy": None},
        ]
        figures: dict[str, Any] = {
            "temperature": 0.8,
            "documents": 42,
            "ece": {"before": 0.1234, "after": 0.0321},
            "nll": {"before": 0.5, "after": 0.4},
            "coverage": rows,
        }
        facts: dict[str, Any] = {"calibration": figures, "training": {"refit": True}}
        if tested:
            of_test = figures | {"documents": 77, "ece": {"before": 0.2, "after": 0.1}}
            facts["metrics"] = FIGURES | {"per_class": {}, "calibration": of_test}
        bundle = make_bundle(**facts)
        bundle.network.temperature = 0.8
        bundle.save(tmp_path / "m")
        card = (tmp_path / "m" / "README.md").read_text()
        assert "temperature 0.8000" in card
        assert "fitted on 42 validation documents, which the networks had not been trained" in card
        assert "| validation, without temperature | 0.1234 | 0.5000 |" in card
        assert "| validation | 0.0321 | 0.4000 |" in card
        assert ("| test | 0.1000 | 0.4000 |" in card) is tested
        assert f"On the {'77 test' if tested else '42 validation'} documents:" in card
        assert "| 0.9 | 75.6 % | 0.9321 |\n| 0.99 | 0.0 % |  |\n" in card

    def test_card_claims_nothing_without_validation_documents(self, tmp_path: Path) -> None:
        assert "calibration" not in (save_model(tmp_path / "m") / "README.md").read_text()

    @pytest.mark.parametrize(
        ("training", "told"), [({"refit": True}, True), ({"refit": False}, False), ({}, False)]
    )
    def test_card_tells_that_validation_documents_were_trained_on(
        self, tmp_path: Path, training: dict[str, bool], told: bool
    ) -> None:
        data = {"train": {"documents": 3, "sentences": 5, "words": 31}}
        make_bundle(data=data, training=training).save(tmp_path / "m")
        card = (tmp_path / "m" / "README.md").read_text()
        assert ("Trained on train and validation together" in card) is told

    def test_card_tells_that_a_document_is_one_sentence(self, tmp_path: Path) -> None:
        for hierarchical in (True, False):
            make_bundle(tokenizer=Tokenizer(hierarchical=hierarchical)).save(tmp_path / "m")
            card = (tmp_path / "m" / "README.md").read_text()
            table = card[card.index("| words known") : card.index("\n## ")].splitlines()
            assert [line for line in table if line.count("|") != 3] == []
            assert ("| sentences a document | one, all its words |" in table) != hierarchical

    def test_hostile_labels_stay_in_their_code_spans(self, tmp_path: Path) -> None:
        row = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "documents": 1}
        make_bundle(HOSTILE, metrics=FIGURES | {"per_class": dict.fromkeys(HOSTILE, row)}).save(
            tmp_path / "m"
        )
        card = (tmp_path / "m" / "README.md").read_text()
        rows = [line for line in card.splitlines() if line.endswith("| 0.500 | 1 |")]
        assert len(rows) == len(HOSTILE)
        for line in rows:
            assert re.fullmatch(r"\| `[^`|]+` \| 0\.500 \| 0\.500 \| 0\.500 \| 1 \|", line)
        assert all(one.isprintable() for one in card.replace("\n", ""))
        outside = re.sub(r"```.*?```|`[^`\n]+`", "", card, flags=re.DOTALL)
        assert "script" not in outside
        assert [line for line in outside.splitlines() if line.startswith("#")] == [
            f"# Hierarchical attention network: {len(HOSTILE)} classes",
            "## Figures on the test split",
            "## Limits",
        ]

    def test_loading_does_not_read_the_card(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        (directory / "README.md").unlink()
        assert Bundle.load(directory).labels == ("bad", "good")


NOT_CONFIGS = [b"", b'{"format": ', b"[" * 100_000, b'{"labels": "caf\xe9"}', b"[1, 2]", b"null"]

Config = dict[str, Any]
CHANGES: dict[str, Callable[[Config], object]] = {
    "another format": lambda config: config.update(format="han.model/5"),
    "a temperature of 0": lambda config: config.update(temperature=0),
    "a temperature without end": lambda config: config.update(temperature=float("inf")),
    "no number for a temperature": lambda config: config.update(temperature=float("nan")),
    "true for a temperature": lambda config: config.update(temperature=True),
    "text for a temperature": lambda config: config.update(temperature="1.0"),
    "no format": lambda config: config.pop("format"),
    "no network": lambda config: config.pop("network"),
    "a class for the network": lambda config: config.update(network="os.system"),
    "a class in the network": lambda config: config["network"].update(class_path="os.system"),
    "a size missing": lambda config: config["network"].pop("hidden_size"),
    "text for a size": lambda config: config["network"].update(hidden_size="5"),
    "no members": lambda config: config["network"].update(members=0),
    "fewer than no members": lambda config: config["network"].update(members=-1),
    "fewer members than have weights": lambda config: config["network"].update(members=1),
    "more members than have weights": lambda config: config["network"].update(members=3),
    "more members than fit in memory": lambda config: config["network"].update(members=10**9),
    "more members than any number": lambda config: config["network"].update(members=10**4000),
    "text for members": lambda config: config["network"].update(members="2"),
    "a fraction for members": lambda config: config["network"].update(members=2.0),
    "true for members": lambda config: config["network"].update(members=True),
    "members missing": lambda config: config["network"].pop("members"),
    "true for a size": lambda config: config["network"].update(hidden_size=True),
    "a size of 0": lambda config: config["network"].update(hidden_size=0),
    "more than fits in memory": lambda config: config["network"].update(vocabulary_size=10**15),
    "more than fits in a number": lambda config: config["network"].update(vocabulary_size=10**30),
    "a number for yes or no": lambda config: config["tokenizer"].update(hierarchical=0),
    "a fraction for a limit": lambda config: config["tokenizer"].update(max_sentences=2.5),
    "an unknown language": lambda config: config["tokenizer"].update(language="tlh"),
    "no tokenizer": lambda config: config.update(tokenizer=None),
    "no labels": lambda config: config.pop("labels"),
    "labels in one string": lambda config: config.update(labels="ab"),
    "a number for a label": lambda config: config.update(labels=["bad", 1]),
}


class TestLoad:
    @pytest.mark.parametrize("content", NOT_CONFIGS)
    def test_config_that_is_none_is_one_clear_error(self, tmp_path: Path, content: bytes) -> None:
        directory = save_model(tmp_path / "m")
        (directory / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json.* train again") as caught:
            Bundle.load(directory)
        assert type(caught.value) is ValueError

    def test_model_of_before_an_option_is_read_with_its_default(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        for name in ("word_attention", "sentence_encoder", "transformer"):
            change_config(directory, lambda config, name=name: config["network"].pop(name))
        change_config(directory, lambda config: config["tokenizer"].pop("hierarchical"))
        bundle = Bundle.load(directory)
        assert bundle.network.options == make_bundle().network.options
        assert bundle.vocabulary.tokenizer == Tokenizer()

    def test_model_of_before_temperatures_is_read_without_one(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        change_config(directory, lambda config: config.update(format="han.model/3"))
        change_config(directory, lambda config: config.pop("temperature"))
        assert Bundle.load(directory).network.temperature == 1

    def test_a_model_of_before_there_were_kinds_of_label_has_classes(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        change_config(directory, lambda config: config.update(format="han.model/3"))
        change_config(directory, lambda config: config["network"].pop("task"))
        bundle = Bundle.load(directory)
        assert bundle.network.options["task"] == "multiclass"
        assert bundle.thresholds is None

    def test_thresholds_come_back(self, tmp_path: Path) -> None:
        made = make_bundle(options={"task": "multilabel"})
        assert made.thresholds == (0.5, 0.5)
        replace(made, thresholds=(0.25, 0.5)).save(tmp_path / "m")
        assert Bundle.load(tmp_path / "m").thresholds == (0.25, 0.5)

    @pytest.mark.parametrize("given", [[0.5], [0.5, 2], [0.5, "a"], 0.5, [float("nan"), 0.5]])
    def test_thresholds_that_are_none_are_one_clear_error(
        self, tmp_path: Path, given: object
    ) -> None:
        make_bundle(options={"task": "multilabel"}).save(tmp_path / "m")
        change_config(tmp_path / "m", lambda config: config.update(thresholds=given))
        with pytest.raises(ValueError, match="`thresholds` must be"):
            Bundle.load(tmp_path / "m")

    def test_earlier_networks_of_uniform_attention_are_refused(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        change_config(directory, lambda config: config.update(format="han.model/2"))
        change_config(directory, lambda config: config["network"].update(uniform_attention=False))
        assert Bundle.load(directory).network.options == make_bundle().network.options
        change_config(directory, lambda config: config["network"].update(uniform_attention=True))
        with pytest.raises(ValueError, match="`uniform_attention` networks of earlier versions"):
            Bundle.load(directory)

    @pytest.mark.parametrize(
        ("group", "name", "value", "message"),
        [
            ("word_attention", "score", "dots", "`network.word_attention.score` cannot be 'dots'"),
            ("word_attention", "heads", True, "`network.word_attention.heads` cannot be True"),
            ("word_attention", "heads", 65, "`heads` must be from 1 to 64, got 65"),
            ("word_attention", "heads", 2, "does not fit config.json"),
            ("sentence_attention", "depth", 1, "`network.sentence_attention` must be an object of"),
            ("transformer", "dropout", "no", "`network.transformer.dropout` cannot be 'no'"),
            ("transformer", "layers", 0, "`transformer.layers` must be at least 1, got 0"),
        ],
    )
    def test_damaged_group_is_one_clear_error(
        self, tmp_path: Path, group: str, name: str, value: object, message: str
    ) -> None:
        directory = save_model(tmp_path / "m")
        change_config(directory, lambda config: config["network"][group].update({name: value}))
        with pytest.raises(ValueError, match=re.escape(message)):
            Bundle.load(directory)

    def test_model_of_before_ensembles_is_one_network(self, tmp_path: Path) -> None:
        expected = make_earlier(tmp_path / "m")
        loaded = Bundle.load(tmp_path / "m")
        assert loaded.network.options == expected.network.options
        texts = [*TEXTS, "Unheard words. The soup!", ""]
        assert Predictor(loaded).classify(texts) == Predictor(expected).classify(texts)
        loaded.save(tmp_path / "again")
        expected.save(tmp_path / "expected")
        for path in (tmp_path / "expected").iterdir():
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()

    @pytest.mark.parametrize("members", [0, 2, 10**9])
    def test_model_of_before_ensembles_cannot_have_several(
        self, tmp_path: Path, members: int
    ) -> None:
        make_earlier(tmp_path / "m")
        change_config(tmp_path / "m", lambda config: config["network"].update(members=members))
        message = f"`network.members` is {members}, but model.safetensors holds the weights of 1"
        with pytest.raises(ValueError, match=re.escape(message)):
            Bundle.load(tmp_path / "m")

    @pytest.mark.parametrize("name", ["members", "encoder_dropout"])
    def test_true_is_no_number_even_where_it_would_fit(self, tmp_path: Path, name: str) -> None:
        make_bundle(members=1).save(tmp_path / "m")
        change_config(tmp_path / "m", lambda config: config["network"].update({name: True}))
        with pytest.raises(ValueError, match=f"`network.{name}` cannot be True"):
            Bundle.load(tmp_path / "m")

    def test_members_without_weights_are_not_even_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = save_model(tmp_path / "m")
        change_config(directory, lambda config: config["network"].update(members=3))
        monkeypatch.setattr(han.bundle, "Ensemble", None)
        with pytest.raises(
            ValueError, match=r"is 3, but model\.safetensors holds the weights of 2"
        ):
            Bundle.load(directory)

    def test_weights_that_miss_one_of_a_member_are_refused(self, tmp_path: Path) -> None:
        path = save_model(tmp_path / "m") / "model.safetensors"
        weights = safetensors.torch.load(path.read_bytes())
        del weights["members.1.classifier.bias"]
        path.write_bytes(safetensors.torch.save(weights))
        with pytest.raises(ValueError, match=r"Missing key.*members\.1\.classifier\.bias"):
            Bundle.load(tmp_path / "m")

    @pytest.mark.parametrize("name", ["members", "members.", "members.2.bias", "membership", "."])
    def test_weights_of_a_strange_name_are_refused(self, tmp_path: Path, name: str) -> None:
        path = save_model(tmp_path / "m") / "model.safetensors"
        weights = safetensors.torch.load(path.read_bytes())
        path.write_bytes(safetensors.torch.save({**weights, name: torch.zeros(1)}))
        with pytest.raises(ValueError, match=r"(does not fit|but model\.safetensors holds)"):
            Bundle.load(tmp_path / "m")

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
    def test_wrong_config_is_one_clear_error(
        self, tmp_path: Path, change: Callable[[Config], object]
    ) -> None:
        directory = save_model(tmp_path / "m")
        change_config(directory, change)
        with pytest.raises(ValueError, match=r"config\.json.* train again") as caught:
            Bundle.load(directory)
        assert type(caught.value) is ValueError
        assert len(str(caught.value)) < 600
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("labels", [["a", "b", "c"], ["a", "a"], []])
    def test_labels_that_do_not_fit_are_named_with_the_directory(
        self, tmp_path: Path, labels: list[str]
    ) -> None:
        directory = save_model(tmp_path / "m")
        change_config(directory, lambda config: config.update(labels=labels))
        with pytest.raises(ValueError, match=re.escape(str(directory)) + ".* label"):
            Bundle.load(directory)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
    def test_missing_file_is_named(self, tmp_path: Path, name: str) -> None:
        directory = save_model(tmp_path / "m")
        (directory / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"{name} is missing. Copy"):
            Bundle.load(directory)

    @pytest.mark.parametrize("size", [0, 4, 100, -1])
    def test_truncated_weights_are_refused(self, tmp_path: Path, size: int) -> None:
        path = save_model(tmp_path / "m") / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            Bundle.load(tmp_path / "m")

    def test_weights_of_another_shape_are_refused(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        other = save_model(tmp_path / "other", ["a", "b", "c"])
        (directory / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        with pytest.raises(ValueError, match=r"does not fit config\.json.*classifier\.weight"):
            Bundle.load(directory)

    def test_weights_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        bundle = make_bundle()
        with torch.no_grad():
            bundle.network.members[1].classifier.bias[0] = torch.nan
        bundle.save(tmp_path / "m")
        with pytest.raises(ValueError, match="not a finite number"):
            Bundle.load(tmp_path / "m")

    def test_pickled_weights_are_refused_and_not_run(self, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(tmp_path / "owned"),)

        directory = save_model(tmp_path / "m")
        for content in (pickle.dumps(Payload()), pickle.dumps({"embedding.weight": Payload()})):
            (directory / "model.safetensors").write_bytes(content)
            with pytest.raises(ValueError, match="damaged"):
                Bundle.load(directory)
        assert not (tmp_path / "owned").exists()

    def test_loading_unpickles_and_renders_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbid(*args: object, **kwargs: object) -> object:
            raise AssertionError("called")

        directory = save_model(tmp_path / "m")
        monkeypatch.setattr(torch, "load", forbid)
        monkeypatch.setattr(pickle, "loads", forbid)
        monkeypatch.setattr(pickle, "Unpickler", forbid)
        monkeypatch.setattr(jinja2, "Environment", forbid)
        assert Bundle.load(directory).labels == ("bad", "good")

    @pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"model": {"vocab": {}}}'])
    def test_foreign_tokenizer_is_refused(self, tmp_path: Path, content: bytes) -> None:
        directory = save_model(tmp_path / "m")
        (directory / "tokenizer.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            Bundle.load(directory)

    def test_tokenizer_of_another_model_is_refused(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        other = make_bundle(tokenizer=Tokenizer(lowercase=False))
        (directory / "tokenizer.json").write_text(other.vocabulary.to_json())
        with pytest.raises(ValueError, match="lowercase"):
            Bundle.load(directory)

    def test_vocabulary_of_another_size_is_refused(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        words = make_bundle().vocabulary.words[:4]
        other = type(make_bundle().vocabulary)(words, Tokenizer())
        (directory / "tokenizer.json").write_text(other.to_json())
        with pytest.raises(ValueError, match=r"/m: .*its vocabulary has 4"):
            Bundle.load(directory)

    def test_facts_of_other_versions_are_left_alone(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        change_config(directory, lambda config: config.update(versions={"torch": "99"}, new=1))
        assert Bundle.load(directory).labels == ("bad", "good")

    def test_reference_is_the_digest_of_the_weights(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
        bundle = Bundle.load(directory)
        assert bundle.reference is not None
        assert bundle.reference.sha256 == digest
        assert Predictor(bundle).explain("Soup.").model.sha256 == digest

    def test_weights_in_half_precision_are_read(self, tmp_path: Path) -> None:
        directory = save_model(tmp_path / "m")
        path = directory / "model.safetensors"
        halves = {name: w.half() for name, w in safetensors.torch.load(path.read_bytes()).items()}
        path.write_bytes(safetensors.torch.save(halves))
        types = {weight.dtype for weight in Bundle.load(directory).network.parameters()}
        assert types == {torch.float32}


class TestFindModel:
    def test_model_directory_is_itself(self, tmp_path: Path) -> None:
        assert find_model(save_model(tmp_path / "m")) == tmp_path / "m"

    def test_run_directory_holds_one(self, tmp_path: Path) -> None:
        save_model(tmp_path / "run" / "model")
        assert find_model(str(tmp_path / "run")) == tmp_path / "run" / "model"

    def test_latest_numbered_run_with_a_model_is_taken(self, tmp_path: Path) -> None:
        for run in ("2", "9", "10"):
            save_model(tmp_path / run / "model")
        (tmp_path / "11" / "checkpoints").mkdir(parents=True)
        (tmp_path / "notes").mkdir()
        (tmp_path / "12").touch()
        assert find_model(tmp_path) == tmp_path / "10" / "model"

    def test_number_with_zeros_before_it_is_found(self, tmp_path: Path) -> None:
        save_model(tmp_path / "007" / "model")
        assert find_model(tmp_path) == tmp_path / "007" / "model"

    def test_nothing_there_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere: no such model directory"):
            find_model(tmp_path / "nowhere")

    def test_folder_or_file_without_a_model_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "data.csv").touch()
        for path in (tmp_path, tmp_path / "data.csv"):
            with pytest.raises(FileNotFoundError, match="is no model directory"):
                find_model(path)
