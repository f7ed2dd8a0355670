"""Loops that are compiled when the package is installed; everything works without them, slower.

The same sources are compiled for each generation of processors, and the best that this one runs is
loaded. Where there was no compiler, or none of them runs, `library` is None, and who would call it
computes the same in another way.

The environment variable HAN_NATIVE chooses: the name of a build, or `off`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TypeAlias


class Thread(ctypes.Structure):
    """Which of the threads is calling, as in native/vectors.h."""

    _fields_ = (
        ("number", ctypes.c_int64),
        ("of", ctypes.c_int64),
        ("taken", ctypes.POINTER(ctypes.c_int64)),
    )


Argument: TypeAlias = ctypes.c_int64 | ctypes.c_double | ctypes.c_void_p

BUILDS = ("x86_64_v4", "x86_64_v3", "baseline")  # the best first
NO_MEMORY = "No memory is left for the compiled loops."
INTERFACE = 2  # of the functions; as in processor.cpp, so that no outdated build is called


def load(name: str) -> ctypes.CDLL | None:
    """Return the build of this name, or None if it was not compiled or does not run here."""
    # A checkout in front of the installed package has no builds of its own: the package's will do.
    installed = (os.path.join(folder, *__name__.split(".")) for folder in sys.path)
    found = PathFinder.find_spec(f"{__name__}.{name}", [*__path__, *installed])
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
    except OSError:  # compiled for another kind of machine
        return None
    return library if library.han_runs_here(ctypes.c_int64(INTERFACE)) else None


def choose(wanted: str | None) -> tuple[str, ctypes.CDLL | None]:
    """Return the name of the build to use, and the build; `off` and None if there is none.

    Args:
        wanted: The name of a build, `off`, or None for the best that runs here.

    Raises:
        ValueError: The build that is wanted is unknown, was not compiled or does not run here.
    """
    if wanted == "off":
        return "off", None
    if wanted is not None:
        if wanted not in BUILDS:
            raise ValueError(f"HAN_NATIVE is {wanted!r}; give one of {', '.join(BUILDS)} or off.")
        if (library := load(wanted)) is None:
            raise ValueError(
                f"HAN_NATIVE is {wanted!r}, which was not compiled when han was installed, or does "
                "not run on this processor; unset it."
            )
        return wanted, library
    for name in BUILDS:
        if (library := load(name)) is not None:
            return name, library
    return "off", None


build, library = choose(os.environ.get("HAN_NATIVE"))


def description() -> str:
    """Return in a few words what the loops run on."""
    return "plain torch, no compiled loops" if library is None else f"loops compiled for {build}"


def has_bfloat16() -> bool:
    """Return whether the loops can multiply in bfloat16: compiled so, on a processor that can."""
    return library is not None and bool(library.han_has_bfloat16())


def call_in_threads(function: Callable[..., int], threads: int, *arguments: Argument) -> int:
    """Call a function of the library on several threads, each of which does its share.

    Args:
        function: It takes the arguments, then the `Thread` that it is on.
        threads: The number of threads.
        arguments: Numbers and pointers.

    Returns:
        What the first thread's call returned: 0, or less where it refused the arguments.

    Raises:
        MemoryError: A thread got no memory.
    """
    taken = ctypes.c_int64(0)
    results = [0] * threads

    def work(number: int) -> None:
        results[number] = function(*arguments, Thread(number, threads, ctypes.pointer(taken)))

    if threads == 1:
        work(0)
    else:
        _run_on_threads(work, threads)
    if max(results) > 0:
        raise MemoryError(NO_MEMORY)
    return results[0]


def _run_on_threads(work: Callable[[int], None], threads: int) -> None:
    """Call `work` with 0, 1, ... on as many threads, and wait for all of them."""
    parallel = None if _forked else _openmp()
    if parallel is None:
        started = [_pool(threads).submit(work, number) for number in range(1, threads)]
        work(0)
        for thread in started:
            thread.result()
        return
    numbers = iter(range(threads))
    errors: list[BaseException] = []

    def on_thread(_: object) -> None:
        try:
            work(next(numbers))
        except BaseException as error:  # C, which called this, knows no exceptions
            errors.append(error)

    parallel(_CALLBACK(on_thread), None, threads, 0)
    if errors:
        raise errors[0]
    for number in numbers:  # it may have had fewer threads to give
        work(number)


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> Callable[..., None] | None:
    """Return GNU OpenMP's call to run a function on several threads, if torch has brought it along.

    Threads of another kind would be in the way of torch's, which wait for a while for more work, at
    full speed, after each of its operations.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        _, slash, path = line.partition("/")
        if "libgomp" in Path(path).name and "torch" in path:
            return getattr(ctypes.CDLL(slash + path), "GOMP_parallel", None)
    return None


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="han")


_forked = False


def _after_fork() -> None:
    """Start anew: a fork has none of its parent's threads, and OpenMP does not notice."""
    global _forked
    _forked = True
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def keep_freed_memory() -> None:
    """Let the process keep what a batch frees, for the next batch.

    The C library gives large pieces back to the system, which clears them page by page when they
    are asked for again: a tenth of a step. Affects the whole process; without effect where the C
    library is not glibc or the user has set the variables by which glibc is told the same.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # as in malloc.h
        mallopt(mmap_threshold, 1 << 28)
        mallopt(trim_threshold, 1 << 29)
