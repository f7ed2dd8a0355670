"""The model directory: everything that turns text into labels and weights, without a pickle.

`config.json` (the network's arguments, labels, versions, figures), `model.safetensors` (the
weights), `tokenizer.json` (the vocabulary) and `README.md` (the model card). Loading executes
nothing that the directory says: no pickle, and no class is named in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import safetensors.torch
from safetensors import SafetensorError

from han.atomic import atomic_directory
from han.explanation import ModelReference
from han.model import HierarchicalAttentionNetwork
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary

DISTRIBUTION = "han-classifier"
FORMAT = "han.model/1"
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"


@dataclass(frozen=True)
class Bundle:
    """A trained network with all that it needs to read text.

    Args:
        network: The network.
        vocabulary: The words it knows, and the tokenizer that finds them.
        labels: The name of each class.
        facts: What the model card tells: `data` (counts of the training data), `metrics` (figures
            of the test split), `training` (options), each a JSON object; any may be missing.
        reference: Digest of the weights and the version, which explanations carry.
    """

    network: HierarchicalAttentionNetwork
    vocabulary: Vocabulary
    labels: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    reference: ModelReference | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        options = self.network.options
        if options["vocabulary_size"] != len(self.vocabulary):
            raise ValueError(
                f"The network knows {options['vocabulary_size']} words, its vocabulary has "
                f"{len(self.vocabulary)}."
            )
        if options["num_classes"] != len(self.labels):
            raise ValueError(
                f"The network has {options['num_classes']} classes, {len(self.labels)} labels are "
                f"given."
            )

    def save(self, directory: str | Path) -> None:
        """Write the model directory, whole or not at all.

        Args:
            directory: The directory to write or replace.

        Raises:
            OSError: The directory cannot be written.
        """
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
            **self.facts,
        }
        with atomic_directory(directory) as beside:
            safetensors.torch.save_file(weights, beside / WEIGHTS)
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
        config = _read_config(directory / CONFIG)
        try:
            tokenizer = Tokenizer(**config["tokenizer"])
            network = HierarchicalAttentionNetwork(**config["network"])
            labels = tuple(config["labels"])
            if not all(isinstance(label, str) for label in labels):
                raise TypeError("a label that is not a string")
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{directory / CONFIG} is not a model of this version: {error}."
            ) from None
        try:
            content = (directory / WEIGHTS).read_bytes()
            network.load_state_dict(safetensors.torch.load(content))
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{directory / WEIGHTS} does not fit {CONFIG} or is damaged: {reason}"
            ) from None
        try:
            vocabulary = Vocabulary.from_json(
                (directory / TOKENIZER).read_text(encoding="utf-8"), tokenizer
            )
        except ValueError as error:
            raise ValueError(f"{directory / TOKENIZER}: {error}") from None
        facts: dict[str, Any] = {
            name: config[name] for name in ("data", "metrics", "training") if name in config
        }
        reference = ModelReference(hashlib.sha256(content).hexdigest(), version(DISTRIBUTION))
        return cls(network.eval(), vocabulary, labels, facts, reference)


def find_model(path: str | Path) -> Path:
    """Return the model directory that `path` is or holds (see `Bundle.load`).

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model directory.")
    runs = sorted((int(run.name) for run in path.glob("*/") if run.name.isdecimal()), reverse=True)
    for candidate in (path, path / "model", *(path / str(run) / "model" for run in runs)):
        if (candidate / CONFIG).is_file():
            return candidate
    raise FileNotFoundError(
        f"{path} is no model directory: neither it nor a run inside it holds a `{CONFIG}`. "
        f"`han fit` writes one as `model/` in its run directory."
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from None
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} has the format {found!r}; this version of han reads {FORMAT!r}.")
    return dict(config)


_CARD = """\
# Hierarchical attention network: {{ labels | length }} classes

Classifies documents as {% for label in labels[:20] %}`{{ label | code }}`\
{{ ", " if not loop.last }}{% endfor %}{% if labels | length > 20 %}, …{% endif %}, \
and shows which sentences and words it looked at.

```python
import han

model = han.load("path/to/this/directory")
model.classify("A document.")
model.explain("A document.")
```

| | |
|---|---|
| words known | {{ network.vocabulary_size }} |
| embedding, GRU per direction, context | \
{{ network.embedding_size }}, {{ network.hidden_size }}, {{ network.attention_size }} |
| language of the sentence splitter | {{ tokenizer.language }} |
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
{% endif %}
{%- if metrics %}
## Figures on the test split

Accuracy {{ "%.4f" | format(metrics.accuracy) }}, \
macro-F1 {{ "%.4f" | format(metrics.macro_f1) }}, \
cross-entropy {{ "%.4f" | format(metrics.loss) }} nats, on {{ metrics.documents }} documents.

| class | precision | recall | F1 | documents |
|---|---|---|---|---|
{%- for label, row in metrics.per_class.items() %}
| `{{ label | code }}` | {{ "%.3f" | format(row.precision) }} | {{ "%.3f" | format(row.recall) }} \
| {{ "%.3f" | format(row.f1) }} | {{ row.documents }} |
{%- endfor %}
{% endif %}
## Limits

Attention says where the network looked, not which class that spoke for. The labels and the texts \
that it learned from bound what it knows: measure it on your own documents before you rely on it.
"""


def _code(text: str) -> str:
    """Return `text` fit for an inline code span in a Markdown table."""
    return " ".join(text.split()).replace("`", "'").replace("|", "¦")


def _card(config: Mapping[str, Any]) -> str:
    """Write the model card from the content of `config.json`."""
    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined)
    environment.filters["code"] = _code
    known = {"data": None, "metrics": None, **config}
    return environment.from_string(_CARD).render(known) + "\n"
