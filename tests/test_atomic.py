from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from han.atomic import atomic_directory, atomic_file

posix_only = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


class TestAtomicFile:
    @pytest.mark.parametrize("old", [None, "old"])
    def test_file_appears_when_the_block_ends(self, tmp_path: Path, old: str | None) -> None:
        path = tmp_path / "a.txt"
        if old is not None:
            path.write_text(old)
        with atomic_file(path) as file:
            file.write("new é\r\n")
            assert (path.read_text() if path.exists() else None) == old
        assert path.read_bytes() == "new é\r\n".encode()
        assert list(tmp_path.iterdir()) == [path]

    def test_bytes_can_be_written(self, tmp_path: Path) -> None:
        with atomic_file(str(tmp_path / "a"), "wb") as file:
            file.write(b"\0\xff")
        assert (tmp_path / "a").read_bytes() == b"\0\xff"

    def test_missing_folders_are_made(self, tmp_path: Path) -> None:
        with atomic_file(tmp_path / "x/y/a.txt") as file:
            file.write("new")
        assert (tmp_path / "x/y/a.txt").read_text() == "new"

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_error_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(error), atomic_file(path) as file:  # noqa: PT012
            file.write("new")
            raise error
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_failed_flush_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        path = tmp_path / "a.txt"
        path.write_text("old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"), atomic_file(path) as file:
            file.write("new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    @posix_only
    def test_mode_is_that_of_a_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_text("x")
        with atomic_file(tmp_path / "a") as file:
            file.write("x")
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a")]
        assert modes[0] == modes[1]


class TestAtomicDirectory:
    @pytest.mark.parametrize("old", [False, True])
    def test_directory_appears_when_the_block_ends(self, tmp_path: Path, old: bool) -> None:
        path = tmp_path / "x/model"
        if old:
            (path / "below").mkdir(parents=True)
            (path / "old.txt").write_text("old")
        with atomic_directory(path) as beside:
            (beside / "sub").mkdir()
            (beside / "sub/new.txt").write_text("new")
            assert path.exists() == old
        assert (path / "sub/new.txt").read_text() == "new"
        assert [one.name for one in path.iterdir()] == ["sub"]
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_error_leaves_the_old_directory_and_nothing_else(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        path = tmp_path / "model"
        path.mkdir()
        (path / "old.txt").write_text("old")
        with pytest.raises(error), atomic_directory(path) as beside:  # noqa: PT012
            (beside / "new.txt").write_text("new")
            raise error
        assert [one.name for one in path.iterdir()] == ["old.txt"]
        assert list(tmp_path.iterdir()) == [path]

    def test_failed_move_brings_the_old_directory_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model"
        path.mkdir()
        (path / "old.txt").write_text("old")
        rename = os.rename

        def fail_for_the_new(source: str | Path, target: str | Path) -> None:
            if Path(target) == path and not (Path(source) / "old.txt").exists():
                raise OSError("cannot move")
            rename(source, target)

        monkeypatch.setattr(os, "rename", fail_for_the_new)
        with pytest.raises(OSError, match="cannot move"), atomic_directory(path) as beside:
            (beside / "new.txt").write_text("new")
        assert (path / "old.txt").read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    @posix_only
    def test_mode_is_that_of_a_new_directory(self, tmp_path: Path) -> None:
        (tmp_path / "plain").mkdir()
        with atomic_directory(tmp_path / "model"):
            pass
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "model")]
        assert modes[0] == modes[1]
