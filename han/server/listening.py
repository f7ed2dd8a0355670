"""Listen on a port, and serve until the user has enough."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from han.server.connections import Connection


def bind(host: str, port: int) -> socket.socket:
    """Take a port of this machine; nothing listens on it yet.

    Args:
        host: The address, or a name of it.
        port: The port; 0 takes a free one.

    Raises:
        ValueError: There is no such port.
        OSError: The port is taken, or the address is none of this machine's.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"`--port` must be from 0 to 65535, got {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise OSError(f"There is no host {host!r}; leave `--host` out for 127.0.0.1.") from error
    listener = socket.socket(family, kind, protocol)
    if os.name == "posix":
        # Else the port of a server that has just ended stays taken for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"Port {port} is in use; choose another with `--port`, or 0 for any that is free."
            ) from error
        raise OSError(f"Cannot listen on {host}, port {port}: {error.strerror}.") from error
    return listener


def configure(app: ASGIApp, answer_seconds: float) -> uvicorn.Config:
    """Return how uvicorn serves an application: quietly, and no connection for long.

    Args:
        app: What answers.
        answer_seconds: How long it may take to.
    """
    limits = {"answer_seconds": answer_seconds}
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=type("TimedConnection", (Connection,), limits),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=0,
    )


def listen(config: uvicorn.Config, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Answer requests until the process is interrupted.

    Args:
        config: From `configure`.
        listener: The port to answer on, from `bind`.
        ready: Called once when requests are taken.

    Raises:
        KeyboardInterrupt: The user has interrupted.
    """
    _Server(config, ready).run(sockets=[listener])
    # It ends by a signal alone, and sends that again to whom it was for before: to nobody where the
    # process was started with interrupts ignored, as a shell starts what runs in the background.
    raise KeyboardInterrupt


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
