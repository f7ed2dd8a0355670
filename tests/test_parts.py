from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import han.parts
from han.parts import MANIFEST, Part, PartFolder, cut, read


def write(path: Path, count: int, group: int = 1000, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = range(first, first + count)
    table = pa.table({"text": [f"text {row}" for row in rows], "n": pa.array(rows, pa.int64())})
    pq.write_table(table, path, row_group_size=group)
    return path


def numbers(parts: list[Part]) -> list[int]:
    return [n for part in parts for batch in read(part, ["n"]) for n in batch["n"].to_pylist()]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make parts of 100 rows, read 7 at a time."""
    monkeypatch.setattr(han.parts, "PART_ROWS", 100)
    monkeypatch.setattr(han.parts, "_ROWS_AT_ONCE", 7)


@pytest.mark.usefixtures("small")
class TestCut:
    @pytest.mark.parametrize("group", [1, 30, 100, 130, 1000])
    def test_parts_hold_each_row_once_in_order(self, tmp_path: Path, group: int) -> None:
        _, parts, _ = cut(write(tmp_path / "a.parquet", 530, group), "text")
        assert [(part.number, part.count) for part in parts] == [(i, 6) for i in range(6)]
        assert numbers(parts) == list(range(530))
        assert numbers(parts[2:3]) == list(range(200, 300))

    def test_a_folder_is_read_in_the_order_of_names(self, tmp_path: Path) -> None:
        for name, first in (("b", 150), ("a", 0), ("c/a", 300), (".hidden", 900)):
            write(tmp_path / f"{name}.parquet", 150, first=first)
        (tmp_path / "_SUCCESS").touch()
        _, parts, identity = cut(tmp_path, "text")
        assert numbers(parts) == list(range(450))
        assert [one["file"] for one in identity] == ["a.parquet", "b.parquet", "c/a.parquet"]
        assert [part.name for part in parts[:2]] == [
            f"part-0000{i}-of-00006.parquet" for i in (0, 1)
        ]

    def test_long_texts_make_small_parts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(han.parts, "PART_BYTES", 100)
        _, parts, _ = cut(write(tmp_path / "a.parquet", 60), "text")
        assert numbers(parts) == list(range(60))
        assert max(part.last - part.first for part in parts) < 12

    def test_a_row_group_is_not_read_too_often(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(han.parts, "PARTS_OF_A_GROUP", 2)
        _, parts, _ = cut(write(tmp_path / "a.parquet", 1000), "text")
        assert [(part.first, part.last) for part in parts] == [(0, 500), (500, 1000)]

    def test_an_empty_file_has_no_parts(self, tmp_path: Path) -> None:
        assert cut(write(tmp_path / "a.parquet", 0), "text")[1] == []

    def test_what_identifies_the_input_changes_with_it(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", 10)
        before = cut(path, "text")[2]
        assert cut(path, "text")[2] == before
        write(path, 10, first=1)
        os.utime(path, ns=(0, int(before[0]["modified"])))
        assert cut(path, "text")[2] != before

    def test_other_columns_are_refused_unless_nobody_needs_them(self, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet", 10)
        pq.write_table(pa.table({"text": ["x"], "n": ["y"]}), tmp_path / "b.parquet")
        with pytest.raises(ValueError, match=r"b\.parquet: the column 'n' is string, in .*int64;"):
            cut(tmp_path, "text")
        assert len(cut(tmp_path, "text", ["text"])[1]) == 2

    def test_unfit_sources_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere: no such"):
            cut(tmp_path / "nowhere", "text")
        with pytest.raises(ValueError, match=r"no \.parquet file in this folder"):
            cut(tmp_path, "text")
        (tmp_path / "a.csv").write_text("text\n")
        with pytest.raises(ValueError, match=r"a\.csv: only Parquet"):
            cut(tmp_path / "a.csv", "text")
        (tmp_path / "a.parquet").write_bytes(b"PAR1 is not enough")
        with pytest.raises(ValueError, match=r"a\.parquet: not a whole Parquet file"):
            cut(tmp_path, "text")

    def test_a_file_that_changed_since_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", 10)
        _, parts, _ = cut(path, "text")
        write(path, 11)
        with pytest.raises(ValueError, match=r"a\.parquet: the file has changed"):
            numbers(parts)


SCHEMA = pa.schema({"n": pa.int64()})


def tables(*values: int) -> Iterator[pa.Table]:
    for value in values:
        yield pa.table({"n": [value]}, SCHEMA)


def make_part(rows: int = 2) -> Part:
    return Part(0, 1, "a.parquet", 0, rows, 1, 1)


class TestPartFolder:
    def test_a_result_is_found_with_what_was_skipped(self, tmp_path: Path) -> None:
        folder = PartFolder(tmp_path / "new/out", {"model": "a"})
        with folder.claim():
            assert folder.facts(make_part(5)) is None
            assert folder.write(make_part(5), SCHEMA, tables(4, 2), {"bad": 3}) == 2
        assert folder.facts(make_part(5)) == (2, {"bad": 3})
        assert pq.read_table(folder.path)["n"].to_pylist() == [4, 2]

    def test_results_that_are_not_whole_or_of_another_command_do_not_count(
        self, tmp_path: Path
    ) -> None:
        folder = PartFolder(tmp_path, {"model": "a"})
        folder.write(make_part(), SCHEMA, tables(4, 2), {})
        assert folder.facts(make_part(3)) is None
        assert PartFolder(tmp_path, {"model": "b"}).facts(make_part()) is None
        path = tmp_path / make_part().name
        path.write_bytes(path.read_bytes()[:-5])
        assert folder.facts(make_part()) is None

    def test_an_interrupted_write_leaves_nothing(self, tmp_path: Path) -> None:
        def broken() -> Iterator[pa.Table]:
            yield from tables(1)
            raise ValueError("bad row")

        with pytest.raises(ValueError, match="bad row"):
            PartFolder(tmp_path, {}).write(make_part(), SCHEMA, broken(), {})
        assert list(tmp_path.iterdir()) == []

    def test_what_a_killed_process_left_is_removed(self, tmp_path: Path) -> None:
        debris = tmp_path / ".part-00000-of-00001.parquet.x7"
        debris.touch()
        assert PartFolder(tmp_path, {}).count_attempts(make_part()) == 1
        with PartFolder(tmp_path, {}).claim():
            assert not debris.exists()

    def test_the_same_command_may_come_again(self, tmp_path: Path) -> None:
        for _ in range(2):
            with PartFolder(tmp_path, {"model": "é", "options": {"methods": ("a",)}}).claim():
                pass
        assert json.loads((tmp_path / MANIFEST).read_text("utf-8"))["model"] == "é"

    def test_another_command_is_refused(self, tmp_path: Path) -> None:
        with PartFolder(tmp_path, {"model": "a"}).claim():
            pass
        other = PartFolder(tmp_path, {"model": "b"})
        with pytest.raises(ValueError, match="holds results of another model"), other.claim():
            pass
        (tmp_path / MANIFEST).write_text("{")
        with pytest.raises(ValueError, match="damaged"), other.claim():
            pass

    def test_other_files_are_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.docx").touch()
        folder = PartFolder(tmp_path, {})
        with pytest.raises(ValueError, match=r"holds other files \(thesis\.docx\)"), folder.claim():
            pass
        folder = PartFolder(tmp_path / "thesis.docx", {})
        with pytest.raises(ValueError, match="is no folder"), folder.claim():
            pass

    def test_two_processes_cannot_write_at_once(self, tmp_path: Path) -> None:
        with PartFolder(tmp_path, {}).claim():
            second = PartFolder(tmp_path, {})
            with pytest.raises(ValueError, match="another process"), second.claim():
                pass
