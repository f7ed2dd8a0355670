"""`han serve`: a page on this machine that classifies and explains what is typed."""

from __future__ import annotations

import argparse
import math
import os
import sys
import threading
import webbrowser
from ipaddress import ip_address
from pathlib import Path

from han.cli import printable


def serve(command: argparse.Namespace) -> None:
    """Serve a model's page and API until the user interrupts.

    Raises:
        ValueError: An option has no meaning.
        OSError: There is no model, or the port cannot be had.
        KeyboardInterrupt: The user has interrupted.
    """
    from han.server.app import create_app
    from han.server.jobs import Jobs
    from han.server.listening import bind, configure, listen

    if command.max_body < 1:
        raise ValueError(f"`--max_body` must be at least 1, got {command.max_body}.")
    if not 0 < command.timeout < math.inf:
        raise ValueError(f"`--timeout` must be more than 0, got {command.timeout}.")
    with bind(command.host, command.port) as listener:
        address, port = listener.getsockname()[:2]
        if not ip_address(address).is_loopback:
            sys.stderr.write(
                f"han: whoever reaches {printable(command.host)} can use this server; it knows no "
                "passwords and encrypts nothing.\n"
            )
        from han.predictor import load

        predictor = load(command.model)
        jobs = Jobs(predictor, command.timeout)
        app = create_app(
            predictor,
            jobs,
            title=printable(_name(Path(command.model).resolve())),
            hosts=(command.host, address),
            max_body=command.max_body,
            body_seconds=command.timeout,
        )

        def announce() -> None:
            url = _url(address, port)
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()
            sys.stderr.write("Ctrl-C ends it.\n")
            if not command.no_browser and _has_screen():
                # It may take its time, in which the server is to answer already.
                threading.Thread(
                    target=webbrowser.open, args=(url,), name="browser", daemon=True
                ).start()

        try:
            # For the body to come and for the answer to be computed, and a little for the rest.
            listen(configure(app, 2 * command.timeout + 10), listener, announce)
        finally:
            if not jobs.close(0.3):
                # Python would wait for the threads, and nothing is left to be done.
                sys.stderr.write("han: interrupted\n")
                sys.stderr.flush()
                os._exit(130)


def _name(path: Path) -> str:
    """Return what a person calls a model: the folder's name, with that of its runs if a number."""
    path = path.parent if path.name == "model" else path
    return f"{path.parent.name}/{path.name}" if path.name.isdecimal() else path.name


def _url(address: str, port: int) -> str:
    """Return where a browser on this machine finds the page."""
    place = ip_address(address)
    if place.is_unspecified:
        place = ip_address("127.0.0.1" if place.version == 4 else "::1")
    return f"http://{place}:{port}/" if place.version == 4 else f"http://[{place}]:{port}/"


def _has_screen() -> bool:
    """Say whether a browser would open a window, and not take over the terminal."""
    if not sys.stdout.isatty():
        return False
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
