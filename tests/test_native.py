from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from han import native

LOADABLE = [name for name in native.BUILDS if native.load(name) is not None]


class TestChoose:
    def test_the_best_that_runs_here_by_default(self) -> None:
        name, library = native.choose(None)
        assert name == (LOADABLE[0] if LOADABLE else "off")
        assert (library is None) == (not LOADABLE)

    @pytest.mark.parametrize("name", LOADABLE)
    def test_one_by_name(self, name: str) -> None:
        assert native.choose(name)[0] == name

    def test_off(self) -> None:
        assert native.choose("off") == ("off", None)

    def test_an_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=r"HAN_NATIVE is 'gpu'; give one of x86_64_v4, .* off"):
            native.choose("gpu")

    @pytest.mark.parametrize("found", ["nothing", "text"])
    def test_a_build_that_is_missing_or_damaged(
        self, found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / f"baseline{'.so' if found == 'text' else '.txt'}").write_text("no library")
        monkeypatch.setattr(native, "__path__", [str(tmp_path)])
        monkeypatch.setattr(sys, "path", [])
        assert native.load("baseline") is None
        assert native.choose(None) == ("off", None)
        with pytest.raises(ValueError, match="'baseline', which was not compiled"):
            native.choose("baseline")

    @pytest.mark.skipif(not LOADABLE, reason="not compiled")
    def test_a_checkout_takes_the_builds_of_the_installed_package(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(sys, "path", [str(Path(native.__path__[0]).parents[1]), *sys.path])
        monkeypatch.setattr(native, "__path__", [str(tmp_path)])
        assert native.choose(None)[0] == LOADABLE[0]

    def test_an_outdated_build_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
        assert native.choose(None) == ("off", None)

    def test_the_variable_is_obeyed(self) -> None:
        code = "from han import native; print(native.build, native.library)"
        environment = {**os.environ, "HAN_NATIVE": "off"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "off None\n"


def test_without_a_library_there_is_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", None)
    assert not native.has_bfloat16()


class TestCallInThreads:
    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_every_thread_does_its_share(self, threads: int) -> None:
        calls = []

        def function(number: ctypes.c_int64, thread: native.Thread) -> int:
            calls.append((number.value, thread.number, thread.of))
            thread.taken.contents.value += 1
            return 0

        native.call_in_threads(function, threads, ctypes.c_int64(7))
        assert sorted(calls) == [(7, number, threads) for number in range(threads)]

    @pytest.mark.parametrize("fails", [0, 2])
    def test_a_thread_without_memory(self, fails: int) -> None:
        with pytest.raises(MemoryError, match="No memory is left"):
            native.call_in_threads(lambda thread: int(thread.number == fails), 3)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_fork_starts_threads_of_its_own(self) -> None:
        native.call_in_threads(lambda thread: 0, 2)
        child = os.fork()
        if child == 0:
            native.call_in_threads(lambda thread: 0, 2)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


class TestKeepFreedMemory:
    def test_leaves_a_user_s_own_settings_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
        monkeypatch.setattr(ctypes, "CDLL", None)
        native.keep_freed_memory.__wrapped__()  # does not even look for the C library
