"""Run the model in threads: a few jobs at a time, each for a limited time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from han.predictor import Predictor

THREADS = 4
"""How many jobs run at the same time, so that a long one does not hold up the short ones."""

WAITING = 252
"""How many more may wait for that; a job beyond them is refused at once."""


class Jobs:
    """Work with a model on behalf of requests.

    A thread cannot be stopped from outside. So each time that a part of the network is called in
    one, it looks whether anybody still waits for the result, and stops where nobody does.

    Args:
        predictor: The model.
        seconds: How long a job may take, with the time that it waits for its turn.
    """

    def __init__(self, predictor: Predictor, seconds: float) -> None:
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(THREADS, "han-serve")
        self._open: dict[Future[bytes], threading.Event] = {}
        self._here = threading.local()
        self._hooks = [
            module.register_forward_pre_hook(lambda *_: self._check())
            for module in predictor.bundle.network.modules()
        ]

    async def run(
        self, work: Callable[[], bytes], gone: Callable[[], Awaitable[object]]
    ) -> bytes | None:
        """Return what `work` returns, computed in a thread.

        Args:
            work: What to compute.
            gone: What it returns ends when the one who asked no longer waits.

        Returns:
            The result; None where the one who asked has gone.

        Raises:
            HTTPException: 503 where too many wait already, 504 where the time is over.
        """
        if len(self._open) >= THREADS + WAITING:
            raise HTTPException(
                503, "There is more to do than this server can; try again.", {"Retry-After": "1"}
            )
        unwanted = threading.Event()
        future = self._threads.submit(self._work, work, unwanted)
        self._open[future] = unwanted
        # A job that goes on after its answer was due still counts, until it has really ended.
        future.add_done_callback(lambda future: self._open.pop(future))
        result = asyncio.wrap_future(future)
        left = asyncio.ensure_future(gone())
        try:
            await asyncio.wait(
                (result, left), timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if result.done():
                return result.result()
            if left.done():
                return None
        finally:
            unwanted.set()
            result.cancel()
            left.cancel()
        raise HTTPException(
            504,
            f"This takes longer than {self._seconds:g} seconds; send less text at a time, or ask "
            "for cheaper methods.",
        )

    def close(self, seconds: float) -> bool:
        """Stop all jobs, wait for them for some seconds, and say whether all have ended."""
        jobs = dict(self._open)
        for unwanted in jobs.values():
            unwanted.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        ended = not wait(jobs, timeout=seconds).not_done
        for hook in self._hooks:
            hook.remove()
        return ended

    def _work(self, work: Callable[[], bytes], unwanted: threading.Event) -> bytes:
        self._here.unwanted = unwanted
        try:
            return work()
        except _UnwantedError:
            return b""  # which nobody will see
        finally:
            self._here.unwanted = None

    def _check(self) -> None:
        unwanted: threading.Event | None = getattr(self._here, "unwanted", None)
        if unwanted is not None and unwanted.is_set():
            raise _UnwantedError


class _UnwantedError(Exception):
    """Nobody waits for this job any more."""
