"""Tables of the README, from the runs' own records.

    python -m tests.benchmarks.results --runs FOLDER [--readme README.md]

First the figures of the runs in FOLDER (of `tests.benchmarks.accuracy` or `.ablation`) are written
to `results.json` beside this file, under the experiment's name; then every block between the lines
`<!-- results NAME -->` and `<!-- /results -->` of the README is written from `results.json`. A test
asserts that the README holds what `results.json` says. Without --runs the README is written alone.

Figures of the same corpus and variant are replaced, others stay, so that a table can be filled
corpus by corpus. Where the defaults have changed, run all that they change anew.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from han.atomic import atomic_file
from han.cli.recording import CONFIG
from han.cli.training import BASELINE
from han.documents.hub import SCHEME
from tests.benchmarks.experiment import Experiment, Run, figures, record, reporting

RESULTS = Path(__file__).with_name("results.json")
BLOCK = re.compile(r"(<!-- results ([\w-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)
FILES = ("--data.train", "--data.validation", "--data.test", "--data.vectors", "--config")
OWN = ("--run_dir", "--data.cache_dir")  # with their values
IDENTITY = {  # what an entry of each list is known by
    "variants": ("group", "name"),
    "corpora": ("name",),
    "cells": ("corpus", "group", "variant"),
}
# What may differ between runs of the same variant on corpora without options of their own.
DIFFERING = ("seed_everything", "name", "baseline", "data.train", "data.split_column")


def collect(folder: Path) -> dict[str, Any]:
    """Return the figures of the finished runs of an experiment: JSON values.

    Raises:
        ValueError: None is finished, or runs of one variant had different options, as when the
            defaults have changed since.
        FileNotFoundError: The folder holds no experiment.
    """
    # Not every command that filled the folder need have begun with the same variant and seed.
    experiment = replace(Experiment.load(folder), baseline=False)
    runs = list(experiment.runs(folder))
    finished = [run for run in runs if run.finished]
    if not finished:
        raise ValueError(f"{folder}: no run is finished.")
    if len(finished) < len(runs):
        sys.stderr.write(f"{len(runs) - len(finished)} of {len(runs)} runs are not finished\n")
    _require_same_options(finished)
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    corpora: dict[str, dict[str, Any]] = {}
    for run in finished:
        about = record(run)
        corpus = corpora.setdefault(
            run.corpus.name,
            {"name": run.corpus.name, "documents": about["documents"], "classes": about["classes"]},
        )
        if (run.directory / BASELINE).is_file() and "baseline" not in corpus:
            corpus["baseline"] = _baseline(run)
        cell = cells.setdefault(
            (run.corpus.name, run.variant.name, run.variant.group),
            {
                "corpus": run.corpus.name,
                "variant": run.variant.name,
                "group": run.variant.group,
                "command": shown([*_invocation(run), *about["command"][1:]]),
                "circumstances": [],
                "runs": [],
            },
        )
        of_run = {key: about[key] for key in ("hardware", "versions")}
        if of_run not in cell["circumstances"]:
            cell["circumstances"].append(of_run)
        cell["runs"].append(
            {
                "seed": run.seed,
                "fold": run.fold,
                **{key: round(value, 6) for key, value in figures(run).items()},
                "epochs": about["epochs"],
                "seconds": round(about["seconds"]["training"], 2),
            }
        )
    return {
        "layout": experiment.layout,
        "split": experiment.split,
        "seeds": list(experiment.seeds),
        "folds": experiment.folds,
        "variants": [
            {"name": one.name, "group": one.group, "options": shown(one.options)}
            for one in experiment.variants
        ],
        "corpora": list(corpora.values()),
        "cells": list(cells.values()),
    }


def joined(before: Mapping[str, Any], new: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the figures of an experiment as they were before, with new ones in their places.

    Args:
        before: What `collect` returned.
        new: What it returned for another folder.
        name: The experiment's name, for messages.

    Raises:
        ValueError: They are not of one experiment.
    """
    if differing := [key for key in ("layout", "split", "folds") if before[key] != new[key]]:
        raise ValueError(
            f"The figures of `{name}` have another {' and '.join(differing)} than these runs: "
            "delete them from the file first."
        )
    options = {(one["group"], one["name"]): one["options"] for one in before["variants"]}
    for one in new["variants"]:
        found = options.get((one["group"], one["name"]), one["options"])
        if found != one["options"]:
            raise ValueError(
                f"The figures of `{name}` have {one['name']!r} with `{found}`, these runs with "
                f"`{one['options']}`: delete them from the file first, or give it another name."
            )
    lists = {}
    for of, keys in IDENTITY.items():
        entries: dict[tuple[str, ...], dict[str, Any]] = {}
        for one in (*before[of], *new[of]):
            entry = entries.setdefault(tuple(one[key] for key in keys), {})
            entry.update(one)  # a corpus keeps its linear models where none were trained again
        lists[of] = [*entries.values()]
    return {**new, **lists, "seeds": sorted({*before["seeds"], *new["seeds"]})}


def shown(command: Sequence[str]) -> str:
    """Return a command line without what belongs to the machine that it ran on."""
    words = [part for word in command for part in _parted(word)]
    kept: list[str] = []
    for before, word in zip(("", *words), words, strict=False):
        if before in FILES and not word.startswith(SCHEME):
            own = before == "--config" and not word.startswith(("/", ".."))
            word = word if own else Path(word).name
        if not {before, word} & set(OWN) and word != "--baseline":
            kept.append(word)
    return shlex.join(kept)


def _invocation(run: Run) -> list[str]:
    """Return what stands before the arguments of `han`."""
    module = run.variant.module
    return ["han"] if module == "han" else ["python", "-m", module]


def render(section: Mapping[str, Any]) -> str:
    """Return the Markdown of an experiment: table, circumstances, commands."""
    makers = {"corpora": _corpora, "differences": _differences, "grid": _grid}
    header, *rows = makers[section["layout"]](section)
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in (header, *rows)]
    lines.insert(1, f"|{'---|' * len(header)}")
    return "\n".join([*lines, "", *_notes(section), ""])


def write_readme(path: Path, sections: Mapping[str, Any]) -> None:
    """Write every block of results anew.

    Raises:
        ValueError: There is none, or one of an experiment that is not there.
    """
    text = path.read_text(encoding="utf-8")
    names = [found[2] for found in BLOCK.finditer(text)]
    if not names:
        raise ValueError(f"{path}: no line <!-- results NAME --> with <!-- /results --> after it.")
    if missing := [name for name in names if name not in sections]:
        raise ValueError(f"{path}: there are no results of {', '.join(missing)}.")
    with atomic_file(path) as file:
        file.write(
            BLOCK.sub(lambda found: f"{found[1]}{render(sections[found[2]])}{found[3]}", text)
        )


def print_table(folder: Path) -> None:
    """Print what the finished runs of a folder say."""
    sys.stdout.write(render(collect(folder)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the figures, then the README."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.results",
        description="Write the README's tables of results from the runs' own records.",
    )
    parser.add_argument(
        "--runs", type=Path, action="append", default=[], metavar="FOLDER", help="an experiment"
    )
    parser.add_argument("--readme", type=Path, metavar="FILE", help="whose blocks to write")
    parser.add_argument(
        "--json", type=Path, default=RESULTS, metavar="FILE", help="the figures (%(default)s)"
    )
    return reporting(partial(_run, parser.parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    sections: dict[str, Any] = {}
    if options.json.is_file():
        sections = json.loads(options.json.read_text(encoding="utf-8"))
    for folder in options.runs:
        name, new = Experiment.load(folder).name, collect(folder)
        sections[name] = joined(sections[name], new, name) if name in sections else new
    if options.runs:
        with atomic_file(options.json) as file:
            file.write(_dump(sections))
    if options.readme:
        write_readme(options.readme, sections)
    return 0


def _dump(content: object) -> str:
    """Return JSON in which each object without further ones in it is one line."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    return re.sub(r"\{[^{}\[\]]*\}", lambda found: re.sub(r"\n\s*", " ", found[0]), text) + "\n"


def _require_same_options(runs: Iterable[Run]) -> None:
    """Refuse to average runs of different networks."""
    first: dict[tuple[str | int | None, ...], tuple[Run, dict[str, Any]]] = {}
    for run in runs:
        content = yaml.safe_load((run.directory / CONFIG).read_text(encoding="utf-8"))
        options = {key: value for key, value in _flat(content) if key not in DIFFERING}
        variant = (run.variant.name, run.variant.group)
        corpus = run.corpus.name if run.corpus.options else ""
        # What followed from the documents is the same where the documents are.
        alike = {
            (*variant, corpus): options,
            (*variant, run.corpus.name, run.fold, "recipe"): {
                f"recipe.{key}": value for key, value in record(run).get("recipe", {}).items()
            },
        }
        for which, facts in alike.items():
            other, expected = first.setdefault(which, (run, facts))
            for key in {*facts, *expected}:
                if facts.get(key) != expected.get(key):
                    raise ValueError(
                        f"{other.directory} and {run.directory} are not of the same network: "
                        f"{key} is {expected.get(key)} and {facts.get(key)}. Delete the older, and "
                        "run again."
                    )


def _flat(config: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _baseline(run: Run) -> dict[str, dict[str, float]]:
    """Return the figures of each linear model on the split that counts."""
    content = json.loads((run.directory / BASELINE).read_text(encoding="utf-8"))
    return {
        name: {key: round(model[run.experiment.split][key], 6) for key in ("accuracy", "macro_f1")}
        for name, model in content["models"].items()
    }


def _parted(word: str) -> list[str]:
    """Return `--option=value` as two words."""
    name, equals, value = word.partition("=")
    return [name, value] if equals and name.startswith("--") else [word]


def _corpora(section: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a row for each corpus: linear models, then each variant."""
    names = [variant["name"] for variant in section["variants"]]
    yield ["corpus", "documents", "classes", "linear", *names, f"training, {names[0]}"]
    for corpus in section["corpora"]:
        cells = [_runs(section, corpus["name"], name) for name in names]
        of_linear = corpus.get("baseline", {}).values()
        linear = max(of_linear, key=lambda model: [*model.values()], default=None)
        means = [round(_mean(runs, "accuracy"), 3) if runs else -1.0 for runs in cells]
        means.insert(0, round(linear["accuracy"], 3) if linear else -1.0)
        texts = [f"{_share(linear['accuracy'])} / {_share(linear['macro_f1'])}" if linear else ""]
        for runs in cells:
            f1 = f" / {_share(_mean(runs, 'macro_f1'))}" if runs else ""
            texts.append(_accuracy(section, runs) + f1)
        yield [
            corpus["name"],
            f"{sum(corpus['documents'].values()):,}",
            str(corpus["classes"]),
            *(
                f"**{text}**" if text and mean == max(means) else text
                for text, mean in zip(texts, means, strict=True)
            ),
            _duration(_mean(cells[0], "seconds")) if cells[0] else "",
        ]


def _differences(section: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a row for each variant: how far its accuracy is from the first one's, in points."""
    names = [corpus["name"] for corpus in section["corpora"]]
    yield ["", "options", *names, "training time"]
    first = {name: _runs(section, name, section["variants"][0]["name"]) for name in names}
    for number, variant in enumerate(section["variants"]):
        runs = {name: _runs(section, name, variant["name"]) for name in names}
        texts, ratios = [], []
        for name in names:
            if number == 0:
                texts.append(_accuracy(section, runs[name]))
            elif pairs := _pairs(first[name], runs[name]):
                texts.append(_difference(pairs))
                seconds = [(before["seconds"], after["seconds"]) for before, after in pairs]
                ratios.append(sum(after for _, after in seconds) / sum(b for b, _ in seconds))
            else:
                texts.append("")
        time = f"{statistics.geometric_mean(ratios):.2f} ×" if ratios else "1 ×"
        options = f"`{variant['options']}`" if variant["options"] else ""
        yield [variant["name"], options, *texts, time]


def _grid(section: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a row for each variant's name: accuracy by corpus and group."""
    groups = [*dict.fromkeys(variant["group"] for variant in section["variants"])]
    columns = [(corpus["name"], group) for corpus in section["corpora"] for group in groups]
    yield ["", *(f"{corpus}, {group}" for corpus, group in columns)]
    for name in dict.fromkeys(variant["name"] for variant in section["variants"]):
        cells = [_runs(section, corpus, name, group) for corpus, group in columns]
        yield [name, *(_accuracy(section, runs) for runs in cells)]


def _notes(section: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines below the table."""
    seeds = ", ".join(map(str, section["seeds"]))
    one = len(section["seeds"]) == 1
    over = f"{'seed' if one else 'seeds'} {seeds}"
    split = section["split"]
    if section["folds"]:
        split = "held-out documents"
        over = f"{section['folds']} folds of the training and validation documents, {over}"
    parts = [f"Accuracy on {split}, {over}"]
    if not one or section["folds"]:
        parts.append("mean ± standard deviation")
    if section["layout"] == "corpora":
        parts[0] = f"Accuracy / macro-F1 on {section['split']}, {over}"
        parts.append(
            "linear: TF-IDF with a linear SVM or logistic regression, whichever is better on these "
            "documents (`han baseline`)"
        )
        parts.append("the best of each row is bold")
    if section["layout"] == "differences":
        parts.append("below the first row: points more or less, ± standard error of paired runs")
    yield f"{'; '.join(parts)}."
    yield from dict.fromkeys(
        _circumstances(**of_run) for cell in section["cells"] for of_run in cell["circumstances"]
    )
    if commands := list(_commands(section)):
        yield from ("", "```bash", *commands, "```")


def _circumstances(hardware: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    threads = hardware["threads"]
    where = f"{hardware['processor']}, {threads} thread{'s' if threads > 1 else ''}"
    if hardware["device"] != "cpu":
        where = f"{hardware['devices']} × {hardware['device']}, {where}"
    software = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{where}, {hardware['loops']}; {software}."


def _commands(section: Mapping[str, Any]) -> Iterator[str]:
    """Yield a command that repeats each row, where its options are not in the row itself."""
    if section["layout"] == "differences":
        return
    seen = set()
    for cell in section["cells"]:
        row = cell["corpus" if section["layout"] == "corpora" else "variant"]
        if row not in seen:
            seen.add(row)
            yield cell["command"]


def _runs(
    section: Mapping[str, Any], corpus: str, variant: str, group: str = ""
) -> list[dict[str, Any]]:
    """Return the runs of a cell; none where nothing is finished."""
    for cell in section["cells"]:
        if (cell["corpus"], cell["variant"], cell["group"]) == (corpus, variant, group):
            return list(cell["runs"])
    return []


def _pairs(
    first: Iterable[dict[str, Any]], second: Iterable[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the runs with the same seed and fold."""
    found = {(run["seed"], run["fold"]): run for run in second}
    return [
        (run, found[run["seed"], run["fold"]])
        for run in first
        if (run["seed"], run["fold"]) in found
    ]


def _difference(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    points = [100 * (after["accuracy"] - before["accuracy"]) for before, after in pairs]
    text = f"{statistics.mean(points):+.1f}".replace("-", "−")  # noqa: RUF001  # a minus sign
    if len(points) == 1:
        return text
    return f"{text} ± {statistics.stdev(points) / math.sqrt(len(points)):.1f}"


def _accuracy(section: Mapping[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """Return mean and standard deviation, with the number of runs where some are missing."""
    if not runs:
        return ""
    values = [run["accuracy"] for run in runs]
    text = _share(statistics.mean(values))
    if len(values) > 1:
        text += f" ± {_share(statistics.stdev(values))}"
    planned = len(section["seeds"]) * max(1, section["folds"])
    return text if len(values) == planned else f"{text} ({len(values)} of {planned} runs)"


def _mean(runs: Iterable[Mapping[str, Any]], key: str) -> float:
    return statistics.mean(float(run[key]) for run in runs)


def _share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
