"""HTTP connections that nobody can hold open for long."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from han.records import json_line

MAX_CONNECTIONS = 512
"""How many connections there may be at the same time; one more is closed at once."""

HEAD_SECONDS = 10.0
"""How long the head of a request may take to come."""

SENDING_SECONDS = 30.0
"""How long an answer may take to be sent."""


class Connection(H11Protocol):
    """uvicorn's connection with time limits, and with JSON where a request is malformed.

    By itself uvicorn waits for ever for a request whose head does not end, and for a client that
    does not take its answer.
    """

    answer_seconds = 60.0
    """How long a request may take once its head is there."""

    _alarm: asyncio.TimerHandle | None = None
    _awaited: object = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of a request."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if not self._refused:
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """Have the answer sent, and wait for another request or go on with one that is there."""
        super().on_response_complete()
        if self._is_answering():
            self._watch()
        else:
            self._wait(None, SENDING_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        if self._alarm is not None:
            self._alarm.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Say in the API's way that a request is malformed, if there is still a way to say it."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        content = json_line({"error": "This is no valid HTTP request."}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            ("Connection", "close"),
        ]
        self._refused = True
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        # The other end closes when it has read this. To close first could take the answer from it.
        self.transport.write_eof()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """Start the time of what is awaited now, the rest of a head or an answer, if it is new."""
        if self._is_answering():
            if self._awaited is not self.cycle:
                self._wait(self.cycle, self.answer_seconds)
        elif self._awaited != "head":
            self._wait("head", HEAD_SECONDS)

    def _wait(self, awaited: object, seconds: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._awaited = awaited
        self._alarm = self.loop.call_later(seconds, self.transport.abort)
