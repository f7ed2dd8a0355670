"""The web application: the page, and the HTTP API that it stands on."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from han.records import json_line
from han.report.html import encode_document
from han.server.description import describe
from han.server.jobs import Jobs
from han.server.messages import (
    CLASSIFY,
    EXPLAIN,
    MAX_EXPLAINED,
    MAX_OCCLUDED,
    OneToClassify,
    OneToExplain,
    ToClassify,
    ToExplain,
    read,
)
from han.server.page import render_page

if TYPE_CHECKING:
    from han.explanation import Explanation
    from han.predictor import Predictor

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
JSON = "application/json"
MAX_SCORED = 20
"""How many classes' scores the page gets: all where there are no more, or else the likeliest."""

DRAINED = 100_000_000
"""How many bytes too many are read all the same, so that the sender comes to read the answer."""

_CLOSE = {"Connection": "close"}
_PHRASES = {  # of the library, in the words of this server
    "Not Found": "There is nothing at this path; see /openapi.json.",
    "Method Not Allowed": "This path does not take this method; see /openapi.json.",
}
_HOST = re.compile(r"([^:@/\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?")
POLICY = "default-src 'none'; frame-ancestors 'none'"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def create_app(
    predictor: Predictor,
    jobs: Jobs,
    *,
    title: str = "han",
    hosts: Iterable[str] = (),
    max_body: int = 1_000_000,
    body_seconds: float = 10.0,
) -> ASGIApp:
    """Return the page and the API of one model as an ASGI application.

    It keeps no text longer than it takes to answer, logs none, and answers no other site's page.

    Args:
        predictor: The model.
        jobs: What runs it.
        title: What the page calls it.
        hosts: The addresses and names that the server listens on, besides those of the loopback.
        max_body: The longest body of a request, in bytes.
        body_seconds: How long a body may take to come.
    """
    api = _Api(predictor, jobs, max_body, body_seconds)
    description = json.dumps(describe(predictor, max_body)).encode()
    page, page_policy = render_page(predictor, title)
    app = Starlette(
        routes=[
            Route("/classify", api.classify, methods=["POST"]),
            Route("/explain", api.explain, methods=["POST"]),
            Route("/draw", api.draw, methods=["POST"]),
            Route("/health", _always(b'{"status": "ok"}', JSON)),
            Route("/openapi.json", _always(description, JSON)),
            Route("/", _always(page.encode(), "text/html; charset=utf-8", page_policy)),
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return _Guard(app, LOOPBACK | {host.lower() for host in hosts})


class _Api:
    """The endpoints; see `create_app` for the arguments."""

    def __init__(
        self, predictor: Predictor, jobs: Jobs, max_body: int, body_seconds: float
    ) -> None:
        self._predictor = predictor
        self._jobs = jobs
        self._max_body = max_body
        self._body_seconds = body_seconds

    async def classify(self, request: Request) -> Response:
        asked = read(CLASSIFY, await self._body(request))
        return await self._answer(
            request,
            lambda: _records(
                asked,
                (
                    one.to_record()
                    for one in self._predictor.classify(
                        _texts(asked), min_confidence=asked.min_confidence
                    )
                ),
            ),
        )

    async def explain(self, request: Request) -> Response:
        asked = await self._to_explain(request)
        return await self._answer(
            request, lambda: _records(asked, (one.to_dict() for one in self._explanations(asked)))
        )

    async def draw(self, request: Request) -> Response:
        asked = await self._to_explain(request)
        return await self._answer(
            request,
            lambda: _records(
                asked,
                (encode_document(one, scored=MAX_SCORED) for one in self._explanations(asked)),
            ),
        )

    async def _to_explain(self, request: Request) -> ToExplain:
        asked = read(EXPLAIN, await self._body(request))
        longest = MAX_OCCLUDED if "occlusion" in asked.methods else MAX_EXPLAINED
        if (length := sum(map(len, _texts(asked)))) > longest:
            raise HTTPException(
                413,
                f"{length:,} characters are too many to explain at once by these methods: up to "
                f"{longest:,} are. The command `han explain` has no such limit.",
            )
        return asked

    def _explanations(self, asked: ToExplain) -> list[Explanation]:
        return self._predictor.explain(_texts(asked), asked.methods)

    async def _body(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            HTTPException: 415 where it is not said to be plain JSON, 413 where it is too long, 408
                where it comes too slowly, 400 where it breaks off.
        """
        kind, _, parameters = request.headers.get("content-type", "").partition(";")
        charset = parameters.strip().lower().replace('"', "")
        if kind.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
            raise HTTPException(415, "Send `Content-Type: application/json`.")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "Send the body without `Content-Encoding`.")
        body, length = bytearray(), 0
        try:
            async with asyncio.timeout(self._body_seconds):
                async for chunk in request.stream():
                    length += len(chunk)
                    if length <= self._max_body:
                        body += chunk
                    elif length > self._max_body + DRAINED:
                        break
        except TimeoutError:
            raise HTTPException(
                408, f"The body did not come within {self._body_seconds:g} seconds.", _CLOSE
            ) from None
        except ClientDisconnect:
            raise HTTPException(400, "The body breaks off.") from None
        if length > self._max_body:
            raise HTTPException(
                413, f"The body is too long; it may have {self._max_body:,} bytes.", _CLOSE
            )
        return bytes(body)

    async def _answer(self, request: Request, work: Callable[[], str]) -> Response:
        result = await self._jobs.run(lambda: work().encode(), request.receive)
        return _json(result or b"")  # where there is none, nobody is there to read it


def _texts(asked: ToClassify | ToExplain) -> list[str]:
    return [asked.text] if isinstance(asked, OneToClassify | OneToExplain) else asked.texts


def _records(asked: ToClassify | ToExplain, records: Iterable[Mapping[str, object]]) -> str:
    """Return one record where one text was given, an array where it was many."""
    lines = map(json_line, records)
    return (
        next(lines) if isinstance(asked, OneToClassify | OneToExplain) else f"[{','.join(lines)}]"
    )


def _always(content: bytes, kind: str, policy: str = POLICY) -> Callable[[Request], Response]:
    headers = {"Content-Security-Policy": policy}
    return lambda _: Response(content, headers=headers, media_type=kind)


def _json(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content, status, headers, JSON)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json(json_line({"error": message}).encode(), status, headers)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(
        error.status_code,
        _PHRASES.get(error.detail, error.detail),
        error.headers,
    )


def _failed(_: Request, __: Exception) -> Response:
    return _error(500, "This is a fault of the server; its terminal says more.")


def _is_unspecified(host: str) -> bool:
    """Say whether a host is the address that stands for all of the machine's."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


class _Guard:
    """Answers this machine's own page and programs, but no other site's page.

    A page of another site can make the browser send requests here. What gives it away is `Origin`
    or `Sec-Fetch-Site`, or, where its own name was made to lead here (DNS rebinding), `Host`.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts
        self._any_address = any(map(_is_unspecified, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._app
        if (why := self._objection(Headers(scope=scope), scope)) is not None:
            app = _error(403, why, _CLOSE)
        try:
            await app(scope, receive, send_with_headers)
        except Exception as error:  # the request has been answered
            # Not the message: it could quote the text.
            where = "".join(traceback.format_tb(error.__traceback__))
            sys.stderr.write(f"han: {type(error).__name__} in the server:\n{where}")

    def _objection(self, headers: Headers, scope: Scope) -> str | None:
        """Say why a request is refused; None where it is not."""
        host = headers.get("host", "")
        if not self._is_own(host):
            return "This name is not the server's; use http://localhost or the address."
        if headers.get("origin", f"http://{host}").lower() != f"http://{host}".lower():
            return "Pages of other sites may not use this server."
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            is_link = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
            if not (is_link and scope["path"] == "/"):
                return "Pages of other sites may not use this server."
        return None

    def _is_own(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower()
        if name in self._hosts:
            return True
        try:
            return self._any_address and bool(ip_address(name))
        except ValueError:
            return False
