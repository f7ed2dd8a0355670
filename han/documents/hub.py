"""Rows of a data set of the Hugging Face hub, or of a local folder laid out like one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs

from han.documents.rows import SPLITS, LocatedRow, check_header

SCHEME = "hf://"


def hub_rows(
    source: str, required: Mapping[str, str], wanted: set[str], split_column: str | None
) -> Iterator[LocatedRow]:
    """Read the `wanted` columns; classes by their names.

    Args:
        source: The address, `hf://` and all.
        required: See `require_columns`.
        wanted: The columns to read.
        split_column: The column to put the data set's own split into, where there is none.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{source}: reading from the hub needs the `datasets` package: "
            'pip install "han-classifier[hub]".'
        ) from error
    address, _, query = source.removeprefix(SCHEME).partition("?")
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    config, part, revision = (options.pop(key, None) for key in ("config", "split", "revision"))
    if options:
        raise ValueError(
            f"{source}: {', '.join(options)} is not known; `config`, `split` and `revision` are."
        )
    try:
        loaded = datasets.load_dataset(address, config, split=part, revision=revision)
    except datasets.exceptions.DatasetsError as error:
        raise ValueError(f"{source}: cannot be loaded: {error}") from error
    parts = {part or "": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    for name, data in parts.items():
        split = SPLITS.get(name)
        if split is None and len(parts) > 1:
            continue
        location = f"{source}:{name}"
        check_header(data.column_names, location, required)
        data = data.select_columns([column for column in data.column_names if column in wanted])
        classes = {
            column: feature
            for column, feature in data.features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        lists = {  # of classes
            column: feature.feature
            for column, feature in data.features.items()
            if isinstance(getattr(feature, "feature", None), datasets.ClassLabel)
        }
        for number, row in enumerate(data, start=1):
            for column, feature in classes.items():
                index = row[column]
                row[column] = None if index is None or index < 0 else feature.int2str(index)
            for column, feature in lists.items():
                row[column] = row[column] and [feature.int2str(index) for index in row[column]]
            if split_column is not None:
                row.setdefault(split_column, split)
            yield f"{location}:{number}", row
