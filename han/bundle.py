"""The model directory: everything that turns text into labels and weights, without a pickle.

`config.json` (the network's arguments, labels, versions, figures), `model.safetensors` (the
weights), `tokenizer.json` (the vocabulary) and `README.md` (the model card). Loading executes
nothing that the directory says: no pickle, and no class is named in it.
"""

from __future__ import annotations

import hashlib
import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import safetensors.torch
import torch
from safetensors import SafetensorError

from han.atomic import atomic_directory
from han.explanation import ModelReference
from han.metrics import FIGURES
from han.model import GROUPS, Ensemble, HierarchicalAttentionNetwork
from han.task import THRESHOLD
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary

DISTRIBUTION = "han-classifier"
FORMAT, *EARLIER = "han.model/4", "han.model/3", "han.model/2", "han.model/1"
# Options that older models lack.
_ADDED = {"members", "hierarchical", *GROUPS, "word_encoder", "sentence_encoder", "task"}
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"


@dataclass(frozen=True)
class Bundle:
    """A trained ensemble of networks with all that it needs to read text.

    Args:
        network: The ensemble.
        vocabulary: The words it knows, and the tokenizer that finds them.
        labels: The name of each class.
        facts: What the model card tells: `data` (counts of the training data), `metrics` (figures
            of the test split), `training` (options), `calibration` (figures of the validation
            documents, see `HANModule.calibration`), each a JSON object; any may be missing.
        reference: Digest of the weights and the version, which explanations carry.
        thresholds: From which probability on a document has each label, where it may have several;
            a half where none are given.
    """

    network: Ensemble
    vocabulary: Vocabulary
    labels: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    reference: ModelReference | None = None
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        options = self.network.options
        if options["vocabulary_size"] != len(self.vocabulary):
            raise ValueError(
                f"The network knows {options['vocabulary_size']} words, but its vocabulary has "
                f"{len(self.vocabulary)}."
            )
        if options["num_classes"] != len(self.labels):
            raise ValueError(
                f"The network has {options['num_classes']} classes, but there are "
                f"{len(self.labels)} labels."
            )
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("A label occurs twice; give each class its own.")
        if options["task"] == "multilabel":
            given = self.thresholds or (THRESHOLD,) * len(self.labels)
            if len(given) != len(self.labels) or not all(0 <= one <= 1 for one in given):
                raise ValueError(
                    f"`thresholds` must be a probability for each of {len(self.labels)} labels."
                )
            object.__setattr__(self, "thresholds", tuple(given))

    def save(self, directory: str | Path) -> None:
        """Write the model directory, whole or not at all.

        Args:
            directory: The directory to write; a model directory there is replaced.

        Raises:
            FileExistsError: Something else is there.
            OSError: The directory cannot be written.
        """
        directory = Path(directory)
        replaceable = directory.is_dir() and (
            (directory / CONFIG).is_file() or not any(directory.iterdir())
        )
        if directory.exists() and not replaceable:
            raise FileExistsError(f"{directory} holds something else; name a new directory.")
        weights = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.network.state_dict().items()
        }
        config = {
            "format": FORMAT,
            "versions": {name: version(name) for name in (DISTRIBUTION, "torch", "tokenizers")},
            "network": self.network.options,
            "tokenizer": self.vocabulary.tokenizer.options(),
            "labels": list(self.labels),
            "temperature": self.network.temperature,
            **({} if self.thresholds is None else {"thresholds": list(self.thresholds)}),
            **self.facts,
        }
        with atomic_directory(directory) as beside:
            # Not `save_file`, whose files only their owner may read.
            (beside / WEIGHTS).write_bytes(safetensors.torch.save(weights))
            text = json.dumps(config, ensure_ascii=False, indent=2, allow_nan=False)
            (beside / CONFIG).write_text(text + "\n", encoding="utf-8")
            (beside / TOKENIZER).write_text(self.vocabulary.to_json(), encoding="utf-8")
            (beside / CARD).write_text(_card(config), encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> Bundle:
        """Read a model directory.

        Args:
            directory: A model directory, the run directory that holds one as `model/`, or a
                folder of numbered run directories, of which the latest with a model is taken.

        Raises:
            FileNotFoundError: There is no model.
            ValueError: A file of the model directory is damaged, or they do not fit each other.
        """
        directory = find_model(directory)
        config = _read_config(directory)
        content = _read(directory, WEIGHTS)
        try:
            weights = safetensors.torch.load(content)
            if not all(weight.sum(dtype=torch.float64).isfinite() for weight in weights.values()):
                raise ValueError("a weight is not a finite number.")
        except (SafetensorError, ValueError, RuntimeError) as error:
            raise _misfit(directory, error) from error
        try:
            tokenizer = Tokenizer(**_arguments(config, "tokenizer", _parameters(Tokenizer)))
            types = {"members": int, **_parameters(HierarchicalAttentionNetwork)}
            options = {"members": 1, **_arguments(config, "network", types)}
            if (members := _count_members(weights)) != options["members"]:  # before it takes memory
                raise ValueError(
                    f"`network.members` is {options['members']!r:.40}, but {WEIGHTS} holds the "
                    f"weights of {members}."
                )
            with torch.random.fork_rng(devices=()):  # what it starts from is replaced below
                network = Ensemble(**options)
            network.temperature = _temperature(config)
            labels = _labels(config)
        except ValueError as error:
            raise ValueError(f"{directory / CONFIG}: {error} {_ADVICE}") from error
        except (TypeError, RuntimeError) as error:  # what torch raises for absurd sizes
            raise ValueError(
                f"{directory / CONFIG}: no network can have the sizes in `network`. {_ADVICE}"
            ) from error
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise _misfit(directory, error) from error
        try:
            vocabulary = Vocabulary.from_json(_read(directory, TOKENIZER).decode(), tokenizer)
        except ValueError as error:
            raise ValueError(f"{directory / TOKENIZER}: {error}") from error
        facts: dict[str, Any] = {
            name: config[name]
            for name in ("data", "metrics", "training", "calibration")
            if name in config
        }
        reference = ModelReference(hashlib.sha256(content).hexdigest(), version(DISTRIBUTION))
        try:
            return cls(network.eval(), vocabulary, labels, facts, reference, _thresholds(config))
        except ValueError as error:
            raise ValueError(f"{directory}: {error} {_ADVICE}") from error


def find_model(path: str | Path) -> Path:
    """Return the model directory that `path` is or holds (see `Bundle.load`).

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model directory.")
    runs = [run for run in path.glob("*") if run.name.isdecimal()]
    runs.sort(key=lambda run: int(run.name), reverse=True)
    for candidate in (path, path / "model", *(run / "model" for run in runs)):
        if (candidate / CONFIG).is_file():
            return candidate
    raise FileNotFoundError(
        f"{path} is no model directory: neither it nor a run inside it holds a `{CONFIG}`. "
        f"`han fit` writes one as `model/` in its run directory."
    )


_ADVICE = "Copy the model directory again, whole, or train again."


def _read(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{directory / name} is missing. {_ADVICE}") from None


def _misfit(directory: Path, error: Exception) -> ValueError:
    reason = textwrap.shorten(str(error), 300, placeholder=" ...")  # torch lists them all
    return ValueError(
        f"{directory / WEIGHTS} is damaged or does not fit {CONFIG}: {reason} {_ADVICE}"
    )


def _count_members(weights: Mapping[str, torch.Tensor]) -> int:
    """Return how many networks these are the weights of; before ensembles it was one."""
    parts = [name.split(".") for name in weights]
    return len({rest[0] for first, *rest in parts if first == "members" and rest}) or 1


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        config = json.loads(_read(directory, CONFIG))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. {_ADVICE}") from error
    found = config.get("format") if isinstance(config, dict) else None
    if found not in (FORMAT, *EARLIER):
        raise ValueError(
            f"{path} has the format {found!r:.40}; this version of han reads {FORMAT!r}: "
            "train again, or install the version that wrote it."
        )
    network = config.get("network")
    if found in EARLIER and isinstance(network, dict) and network.pop("uniform_attention", False):
        raise ValueError(
            f"{path}: `uniform_attention` networks of earlier versions cannot be read; train again "
            "with `normalization: uniform` for `word_attention` and `sentence_attention`."
        )
    return dict(config)


def _parameters(made: type) -> dict[str, Any]:
    """Return the types of the arguments of a class's constructor."""
    types = get_type_hints(made.__init__)  # type: ignore[misc]  # a class is its own constructor
    types.pop("return")
    return types


def _arguments(config: Mapping[str, Any], key: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `key` holds: all that there are types of, each of its own.

    A group of them, which has a dataclass for its type, is an object of its own.
    """
    given = config.get(key.rpartition(".")[2])
    if not isinstance(given, dict) or given.keys() | (_ADDED & types.keys()) != types.keys():
        raise ValueError(f"`{key}` must be an object of {', '.join(types)}.")
    for name, value in given.items():
        hint = types[name]
        if isinstance(hint, type) and is_dataclass(hint):
            _arguments(given, f"{key}.{name}", _parameters(hint))
        elif not _fits(value, hint):
            raise ValueError(f"`{key}.{name}` cannot be {value!r:.40}.")
    return given


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401
    """Tell whether a JSON value is of a type."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    number = int | float if hint is float else hint
    return isinstance(value, number) and (number is bool or not isinstance(value, bool))


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    labels = config.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("`labels` must be an array of strings.")
    return tuple(labels)


def _temperature(config: Mapping[str, Any]) -> float:
    temperature = config.get("temperature", 1.0)  # earlier formats have none
    if not _fits(temperature, float) or not 0 < temperature < math.inf:
        raise ValueError(f"`temperature` must be a number above 0, not {temperature!r:.40}.")
    return float(temperature)


def _thresholds(config: Mapping[str, Any]) -> tuple[float, ...] | None:
    given = config.get("thresholds")
    if given is None:
        return None
    if not isinstance(given, list) or not all(type(one) in (int, float) for one in given):
        raise ValueError("`thresholds` must be an array of numbers.")
    return tuple(map(float, given))


_CARD = """\
# Hierarchical attention network: {{ labels | length }} \
{{ "labels" if network.task == "multilabel" else "classes" }}

{% if network.task == "multilabel" %}Gives documents any number of labels of {% else -%}
Classifies documents as {% endif %}{% for label in labels[:20] %}`{{ label | code }}`\
{{ ", " if not loop.last }}{% endfor %}{% if labels | length > 20 %}, …{% endif %}, \
{% if network.task == "ordinal" %}in this order, {% endif -%}
and shows which sentences and words it looked at.

```python
import han

model = han.load("path/to/this/directory")
model.classify("A document.")
model.explain("A document.")
```

| | |
|---|---|
| networks, of which it is the mean | {{ network.members }} |
| words known | {{ network.vocabulary_size }} |
| embedding, GRU per direction, context | \
{{ network.embedding_size }}, {{ network.hidden_size }}, {{ network.attention_size }} |
{%- for level in ["word", "sentence"] %}
{%- set attention = network[level ~ "_attention"] %}
| {{ level }}s: encoder, score, normalization, heads | {{ network[level ~ "_encoder"] }}, \
{{ attention.score }}, {{ attention.normalization }}, {{ attention.heads }} |
{%- endfor %}
| language of the sentence splitter | `{{ tokenizer.language | code }}` |
{%- if not tokenizer.hierarchical %}
| sentences a document | one, all its words |
{%- endif %}
{%- for name, version in versions.items() %}
| {{ name }} | {{ version }} |
{%- endfor %}
{% if data %}
## Data

| split | documents | sentences | words |
|---|---|---|---|
{%- for name, split in data.items() %}
| {{ name }} | {{ split.documents }} | {{ split.sentences }} | {{ split.words }} |
{%- endfor %}
{% if training.refit is true %}
Trained on train and validation together, after a training on train alone had told for how long.
{% endif %}
{%- endif %}
{%- if metrics %}
## Figures on the test split

Accuracy {{ "%.4f" | format(metrics.accuracy) }}, \
macro-F1 {{ "%.4f" | format(metrics.macro_f1) }}, \
{%- for key, name in more.items() if key in metrics %} \
{{ name }} {{ "%.4f" | format(metrics[key]) }}, \
{%- endfor %} \
cross-entropy {{ "%.4f" | format(metrics.loss) }} nats, on {{ metrics.documents }} documents.

| class | precision | recall | F1 | documents |
|---|---|---|---|---|
{%- for label, row in metrics.per_class.items() %}
| `{{ label | code }}` | {{ "%.3f" | format(row.precision) }} | {{ "%.3f" | format(row.recall) }} \
| {{ "%.3f" | format(row.f1) }} | {{ row.documents }} |
{%- endfor %}
{% endif %}
{%- if calibration %}
{%- set tested = metrics.calibration if metrics and metrics.calibration is defined else None %}
{%- set figures = tested or calibration %}
{%- set split = "test" if tested else "validation" %}
## How sure it is

Logits are divided by the temperature {{ "%.4f" | format(temperature) }} before they become \
probabilities, fitted on {{ calibration.documents }} validation documents\
{{ ", which the networks had not been trained on by then" if training.refit is true }} \
(Guo et al. 2017).

| | expected calibration error | cross-entropy, nats |
|---|---|---|
{%- for name, on in [("validation", calibration), ("test", tested)] if on %}
| {{ name }}, without temperature | {{ "%.4f" | format(on.ece.before) }} | \
{{ "%.4f" | format(on.nll.before) }} |
| {{ name }} | {{ "%.4f" | format(on.ece.after) }} | {{ "%.4f" | format(on.nll.after) }} |
{%- endfor %}

With `han classify --min_confidence`, documents of which no class is so likely get no label. \
On the {{ figures.documents }} {{ split }} documents:

| least confidence | documents with a label | accuracy of those |
|---|---|---|
{%- for row in figures.coverage %}
| {{ row.min_confidence }} | {{ "%.1f" | format(100 * row.coverage) }} % | \
{{ "%.4f" | format(row.accuracy) if row.accuracy is not none }} |
{%- endfor %}
{% endif %}
## Limits

Attention says where the network looked, not which class that spoke for. The labels and the texts \
that it learned from bound what it knows: measure it on your own documents before you rely on it.
"""


def _code(text: str) -> str:
    """Return `text` fit for an inline code span in a Markdown table."""
    text = " ".join(text.split()).replace("`", "'").replace("|", "¦")
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text) or " "


def _card(config: Mapping[str, Any]) -> str:
    """Write the model card from the content of `config.json`."""
    import jinja2  # here, because loading a model has no use for it

    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined)
    environment.filters["code"] = _code
    more = {key: FIGURES[key] for key in FIGURES if key not in ("accuracy", "macro_f1")}
    known = {
        "data": None, "metrics": None, "training": {}, "calibration": None, "more": more, **config
    }  # fmt: skip
    return environment.from_string(_CARD).render(known) + "\n"
