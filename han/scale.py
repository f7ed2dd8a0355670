"""Classify and explain more than one machine holds: the predictor as a stage of Ray Data.

`Classifier` is the stage, for a pipeline of one's own; `classify_parts` runs it over Parquet files,
so that a run that was killed goes on where it stopped. The latter imports Ray (the extra `ray`).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from han.bundle import CONFIG, TOKENIZER, WEIGHTS, Bundle, find_model
from han.documents import Document
from han.documents.rows import (
    RowError,
    as_label,
    as_labels,
    as_name,
    as_text,
    check_header,
    encodable,
)
from han.documents.tables import arrow_row
from han.parts import Part, PartFolder, read
from han.predictor import BLOCK_CHARACTERS, BLOCK_DOCUMENTS, Predictor, check_methods
from han.records import check_columns

if TYPE_CHECKING:
    import pyarrow as pa

EXPLANATION, TRUE = "explanation", "true"
ATTEMPTS = 3  # Ray starts a worker that died anew, and gives it its part again, without end
OBJECT_STORE = 100 << 20  # bytes; no document goes through it, and Ray takes no less than 75 MiB


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows become documents, and records.

    Args:
        text_column: Column of the text, which the output leaves out.
        id_column: Column of the id, which the output calls `id`; used where present.
        label_column: Column of the document's own label, which the output calls `true`; used where
            present.
        keep_columns: Further columns of the input that the output has; None for all.
        methods: Ways to explain, of `han.explanation.METHODS`. Where there are some the output has
            the column `explanation`, the record of `han explain` as JSON.
    """

    text_column: str = "text"
    id_column: str = "id"
    label_column: str = "label"
    keep_columns: tuple[str, ...] | None = None
    methods: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the options, JSON values: arguments of `Classifier`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def kept(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the further columns of the output: the name of each, by that of the input."""
        own = (self.text_column, self.id_column)
        kept = [one for one in columns if one not in own]
        if self.keep_columns is not None:
            kept = list(self.keep_columns)
        return {name: TRUE if name == self.label_column else name for name in kept}

    def schema(
        self,
        columns: pa.Schema,
        labels: Sequence[str],
        *,
        where: str = "the batch",
        named: bool,
        several: bool = False,
    ) -> pa.Schema:
        """Return the columns of the output.

        Args:
            columns: Those of the input.
            labels: The classes.
            where: What the input is called in messages.
            named: Whether rows without an id get one.
            several: Whether documents may have several labels.

        Raises:
            ValueError: A column is missing, is no text, or would be in the output twice.
        """
        import pyarrow as pa

        required = {self.text_column: "text_column"}
        required |= dict.fromkeys(self.keep_columns or (), "keep_columns")
        check_header(columns.names, where, required)
        found = text = columns.field(self.text_column).type
        if pa.types.is_dictionary(text):
            text = text.value_type
        if text not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
            raise ValueError(
                f"{where}: `{self.text_column}` is {found}, not a string; set `text_column` to a "
                "column of texts."
            )
        kept = self.kept(columns.names)
        made = [*kept.values(), *[EXPLANATION] * bool(self.methods)]
        check_columns(made, labels, several=several)
        types = {"id": pa.string()} if named or self.id_column in columns.names else {}
        types |= {new: columns.field(name).type for name, new in kept.items()}
        if several:
            types["labels"] = pa.list_(pa.string())
        else:
            types |= {"label": pa.string(), "probability": pa.float64()}
        types |= {f"p_{label}": pa.float64() for label in labels}
        types |= {"truncated": pa.bool_(), "empty": pa.bool_()}
        types |= {EXPLANATION: pa.string()} if self.methods else {}
        return pa.schema(types)


class Classifier:
    """A stage of Ray Data that classifies: tables of texts in, tables of prediction records out.

    ```python
    ray.data.read_parquet("reviews").map_batches(
        han.scale.Classifier, fn_constructor_args=["runs/reviews"], batch_size=2048, concurrency=2
    ).write_parquet("predictions")
    ```

    It needs no Ray by itself: an instance is a function of a table. The output has the columns `id`
    (where the input has one), the input's other columns but the text, `label`, `probability`,
    `p_<label>` for each class, `truncated` and `empty`. Where documents may have several labels,
    the list `labels` stands for `label` and `probability`.

    Args:
        model: A model directory, or the run directory that holds one.
        text_column: As in `Reading`, and so the next four.
        id_column: See there.
        label_column: See there.
        keep_columns: See there.
        methods: See there.
        on_bad_row: `"error"` stops at a row that cannot be used; `"skip"` leaves it out.
        threads: Threads of torch; None leaves them as they are, which in a worker of Ray are its
            `num_cpus`.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: The model directory is damaged, or there is no such method.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        text_column: str = "text",
        id_column: str = "id",
        label_column: str = "label",
        keep_columns: Sequence[str] | None = None,
        methods: Sequence[str] = (),
        on_bad_row: Literal["error", "skip"] = "error",
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._reading = Reading(
            text_column,
            id_column,
            label_column,
            None if keep_columns is None else tuple(keep_columns),
            check_methods(methods) if methods else (),
        )
        self._on_bad_row = on_bad_row
        bundle = Bundle.load(model)
        if torch.cuda.is_available():  # the one that Ray gave this worker
            bundle.network.cuda()
        self._predictor = Predictor(bundle)

    def __call__(self, batch: pa.Table | Mapping[str, Any]) -> pa.Table:
        """Classify the rows of a table, or of arrays by their columns' names.

        Raises:
            ValueError: A column is missing or would be in the output twice, or a row is bad.
        """
        import pyarrow as pa

        table = batch if isinstance(batch, pa.Table) else pa.table(dict(batch))
        bundle = self._predictor.bundle
        several = bundle.thresholds is not None
        schema = self._reading.schema(table.schema, bundle.labels, named=False, several=several)
        return self.classify(table, schema, Counter())

    def classify(
        self,
        table: pa.Table,
        schema: pa.Schema,
        skipped: Counter[str],
        *,
        place: str = "row ",
        name: str = "",
        first: int = 0,
    ) -> pa.Table:
        """Classify the rows of a table.

        Args:
            table: The rows.
            schema: The columns of the output, as `Reading.schema` makes them.
            skipped: Counts what is left out, by reason.
            place: What the place of a row begins with in messages, before its number.
            name: The same in the ids of rows without one.
            first: Number of the first row, from 0; in messages and ids they count from 1.

        Raises:
            ValueError: A row is bad.
        """
        import pyarrow as pa

        several = self._predictor.bundle.thresholds is not None
        true = partial(as_labels, separator=None) if several else as_label
        documents, good = [], []
        for index, row in enumerate(self._rows(table)):
            number = first + index + 1
            try:
                if isinstance(row, RowError):
                    raise row
                documents.append(
                    Document(
                        as_name(row, self._reading.id_column) or f"{name}{number}",
                        as_text(row, self._reading.text_column),
                        true(row, self._reading.label_column),
                    )
                )
                good.append(index)
            except RowError as bad:
                if self._on_bad_row == "error":
                    raise ValueError(
                        f"{place}{number}: {bad}, or set `on_bad_row` to skip."
                    ) from None
                skipped[bad.reason] += 1
        if len(good) < len(table):
            table = table.take(pa.array(good, pa.int64()))
        kept = {new: table[old] for old, new in self._reading.kept(table.schema.names).items()}
        others = pa.schema([field for field in schema if field.name not in kept])
        made = pa.Table.from_pylist(self._records(documents), others)
        columns = {**kept, **dict(zip(made.schema.names, made.columns, strict=True))}
        return pa.table([columns[name] for name in schema.names], schema)

    def _rows(self, table: pa.Table) -> Iterator[Mapping[str, object] | RowError]:
        """Yield the columns of each row that a document is made of."""
        own = (self._reading.text_column, self._reading.id_column, self._reading.label_column)
        for batch in table.select([one for one in own if one in table.schema.names]).to_batches():
            for index in range(batch.num_rows):
                yield arrow_row(batch, index)

    def _records(self, documents: Sequence[Document]) -> list[dict[str, Any]]:
        """Return a record for each document, with a key for each column that may be made here."""
        if not self._reading.methods:
            found = self._predictor.classify_documents(documents)
            return [
                {
                    "id": one.id,
                    "labels": one.labels,
                    "label": one.label,
                    "probability": one.probability,
                    **{f"p_{label}": value for label, value in one.probabilities.items()},
                    "truncated": one.truncated,
                    "empty": one.empty,
                }
                for one in found
            ]
        return [
            {
                "id": one.id,
                "labels": one.predicted_labels,
                "label": one.predicted,
                "probability": max(one.probabilities),
                **{
                    f"p_{label}": value
                    for label, value in zip(one.labels, one.probabilities, strict=True)
                },
                "truncated": bool(one.truncated),
                "empty": one.empty,
                EXPLANATION: one.to_json(),
            }
            for one in self._predictor.explain_documents(documents, self._reading.methods)
        ]


class PartClassifier:
    """A worker: it reads parts, classifies and writes them, and holds one block of one at a time.

    Args:
        folder: Where to write; its manifest names the model's digest `model`.
        schema: The columns of the output.
        columns: The columns of the input to read.
        model: A model directory that the worker can read.
        options: The options of `Classifier`.
    """

    def __init__(
        self,
        folder: PartFolder,
        schema: pa.Schema,
        columns: Sequence[str],
        model: str,
        options: Mapping[str, Any],
    ) -> None:
        import pyarrow as pa

        # Arrow's own allocator keeps more and more of what is freed.
        pa.set_memory_pool(pa.system_memory_pool())
        self._folder = folder
        self._schema = schema
        self._columns = columns
        self._model = model
        self._options = options

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Do one part; what is wrong with it is returned, for one clear line of the command."""
        part = Part(**row)
        if self._folder.count_attempts(part) >= ATTEMPTS:
            where = f"{part.path}: rows {part.first + 1} to {part.last}"
            return {"rows": 0, "error": f"{where}: {ATTEMPTS} workers died over them."}
        try:
            rows = self._write(part)
        except OSError as error:
            known = error.filename is not None and error.strerror is not None
            return {"rows": 0, "error": f"{error.filename}: {error.strerror}" * known or str(error)}
        except ValueError as error:
            return {"rows": 0, "error": str(error)}
        return {"rows": rows, "error": ""}

    @cached_property
    def _classifier(self) -> Classifier:
        if identify_model(self._model) != self._folder.manifest["model"]:
            raise ValueError(
                f"{self._model}: the model has changed since the command began; begin anew, with "
                "another folder for `--output`."
            )
        return Classifier(self._model, **self._options)

    def _write(self, part: Part) -> int:
        skipped: Counter[str] = Counter()
        return self._folder.write(part, self._schema, self._tables(part, skipped), skipped)

    def _tables(self, part: Part, skipped: Counter[str]) -> Iterator[pa.Table]:
        first = part.first
        for table in _in_blocks(read(part, self._columns)):
            yield self._classifier.classify(
                table,
                self._schema,
                skipped,
                place=f"{part.path}:",
                name=f"{encodable(os.path.basename(part.path))}:",
                first=first,
            )
            first += table.num_rows
            _give_memory_back()


def classify_parts(
    folder: PartFolder,
    parts: Sequence[Part],
    schema: pa.Schema,
    columns: Sequence[str],
    model: str,
    options: Mapping[str, Any],
    *,
    workers: int | None = None,
    num_cpus: int = 1,
    num_gpus: float = 0,
) -> Iterator[int]:
    """Classify parts on workers of Ray: of the cluster at `RAY_ADDRESS`, or else of this machine.

    Args:
        folder: Where to write.
        parts: The parts.
        schema: The columns of the output.
        columns: The columns of the input to read.
        model: A model directory that every worker can read.
        options: The options of `Classifier`.
        workers: How many; by default one for each GPU, or without `num_gpus` each processor.
        num_cpus: Processors, and so threads, of each.
        num_gpus: GPUs of each.

    Yields:
        The number of rows written, of each part as it is done.

    Raises:
        ImportError: Ray is missing.
        ValueError: A part cannot be read, or Ray has no room for the workers.
        OSError: There is no cluster at `RAY_ADDRESS`.
    """
    require_ray()
    with _ray(workers, num_cpus, num_gpus) as workers:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        results = ray.data.from_items(
            [asdict(part) for part in parts], override_num_blocks=len(parts)
        ).map(
            PartClassifier,
            fn_constructor_args=[folder, schema, columns, model, options],
            # One part at a time, the next given when it is done: none waits while a worker is idle.
            compute=ActorPoolStrategy(
                size=min(workers, len(parts)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
        try:
            for result in results.iter_rows():
                if result["error"]:
                    raise ValueError(result["error"])
                yield result["rows"]
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"Ray could not go on ({reason}); the same command goes on with what is missing."
            ) from error


def identify_model(model: str | Path) -> str:
    """Return a digest of all that decides what a model makes of a text.

    Raises:
        FileNotFoundError: There is no model.
    """
    directory = find_model(model)
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        digest.update(hashlib.sha256((directory / name).read_bytes()).digest())
    return digest.hexdigest()


def require_ray() -> None:
    """Raise an `ImportError` that says what to install where Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise ImportError(
            'Several workers need the `ray` package: pip install "han-classifier[ray]".'
        )


@contextmanager
def _ray(workers: int | None, num_cpus: int, num_gpus: float) -> Iterator[int]:
    """Join the cluster, or start Ray on this machine until the block ends; yield the workers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of what it writes here itself
    import ray

    options: dict[str, Any] = {"address": os.environ.get("RAY_ADDRESS", "local")}
    if options["address"] == "local":
        options |= {
            "num_cpus": workers and workers * num_cpus,  # None: those that there are
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
    else:
        _check_address(options["address"])
    with _without_standard_error():  # on which it tells its log level
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    try:
        there = ray.cluster_resources()
        room = int(there.get("CPU", 0) // num_cpus)
        if num_gpus:
            room = min(room, int(there.get("GPU", 0) // num_gpus))
        if room < (workers or 1):
            raise ValueError(
                f"Ray has {there.get('CPU', 0):g} processors and {there.get('GPU', 0):g} GPUs, "
                f"room for {room} workers; give fewer `workers`, or less to each."
            )
        yield workers or room
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse a cluster that does not answer: Ray would wait for it, many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise OSError(
                f"No cluster of Ray answers at RAY_ADDRESS {address} ({error.strerror or error})."
            ) from error


@contextmanager
def _without_standard_error() -> Iterator[None]:
    """Drop what compiled code writes to standard error until the block ends; exceptions stay."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _give_memory_back() -> None:
    """Return to the system what was freed: between pieces still in use, glibc keeps ever more."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _in_blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Gather batches into tables as large as the predictor's blocks."""
    import pyarrow as pa

    block: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        block.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= BLOCK_DOCUMENTS or size >= BLOCK_CHARACTERS:
            yield pa.Table.from_batches(block)
            block, rows, size = [], 0, 0
    if block:
        yield pa.Table.from_batches(block)
