"""The local page and its HTTP API: in this process, over sockets, and as the command."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn, get_args

import httpx2
import jsonschema
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

import han.cli.serving
from han.cli import main
from han.explanation import METHODS, SCHEMA_FILE
from han.predictor import Predictor
from han.report.html import encode_document
from han.server import connections, jobs, listening, messages
from han.server.app import create_app
from han.server.description import describe
from han.server.jobs import Jobs
from han.server.listening import bind, configure
from tests.tiny import TEXTS, make_bundle, save_model

ADDRESS = "http://127.0.0.1:8000"
SECRET = "zebra"
RECORD = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(make_bundle())


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> TestClient:
    return make_client(predictor)


def make_client(
    predictor: Predictor, *, host: str = "127.0.0.1", title: str = "", max_body: int = 1_000_000
) -> TestClient:
    jobs = Jobs(predictor, 60)
    app = create_app(predictor, jobs, hosts=(host,), title=title, max_body=max_body)
    return TestClient(app, ADDRESS)


def assert_refused(response: httpx2.Response, status: int) -> str:
    """Check that an answer is one clear error in JSON, and return it."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    [(name, message)] = response.json().items()
    assert name == "error"
    assert message.endswith(".")
    assert "\n" not in message
    assert SECRET not in message
    return str(message)


class TestClassify:
    def test_text_gives_the_record_of_its_prediction(
        self, client: TestClient, predictor: Predictor
    ) -> None:
        for text in (*TEXTS, "", "Köln \0 🎉"):
            response = client.post("/classify", json={"text": text})
            assert response.status_code == 200
            assert response.json() == predictor.classify(text).to_record()

    def test_texts_give_an_array_in_their_order(
        self, client: TestClient, predictor: Predictor
    ) -> None:
        response = client.post("/classify", json={"texts": TEXTS})
        assert response.json() == [one.to_record() for one in predictor.classify(TEXTS)]

    def test_a_text_below_the_least_confidence_has_no_label(self, client: TestClient) -> None:
        [plain] = client.post("/classify", json={"texts": TEXTS[:1]}).json()
        asked = {"text": TEXTS[0], "min_confidence": 1}
        assert client.post("/classify", json=asked).json() == {**plain, "label": None}
        refused = client.post("/classify", json=asked | {"min_confidence": 1.01})
        assert "`min_confidence`" in assert_refused(refused, 422)
        assert_refused(client.post("/explain", json=asked), 422)

    def test_no_texts_give_an_empty_array(self, client: TestClient) -> None:
        assert client.post("/classify", json={"texts": []}).json() == []

    def test_many_at_once_get_what_each_gets_alone(
        self, client: TestClient, predictor: Predictor
    ) -> None:
        texts = [" ".join(TEXTS[: n % 3 + 1]) + f" {n}" for n in range(48)]
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(lambda text: ask_one(client, text), texts))
        for text, answer in zip(texts, answers, strict=True):
            assert answer["probability"] == pytest.approx(predictor.classify(text).probability)


def ask_one(client: TestClient, text: str) -> dict[str, Any]:
    return client.post("/classify", json={"text": text}).json()


class TestExplain:
    @pytest.mark.parametrize("methods", [["attention"], ["gradient", "occlusion"], list(METHODS)])
    def test_record_is_that_of_the_explanation(
        self, client: TestClient, predictor: Predictor, methods: list[str]
    ) -> None:
        for text in (*TEXTS, ""):
            record = client.post("/explain", json={"text": text, "methods": methods}).json()
            assert record == predictor.explain(text, methods).to_dict()
            jsonschema.validate(record, RECORD)

    def test_texts_give_an_array_in_their_order(
        self, client: TestClient, predictor: Predictor
    ) -> None:
        methods = ("attention", "attention_gradient")  # what is given where none are asked for
        response = client.post("/explain", json={"texts": TEXTS})
        assert response.json() == [one.to_dict() for one in predictor.explain(TEXTS, methods)]

    @pytest.mark.parametrize(
        ("methods", "longest"),
        [(["gradient"], messages.MAX_EXPLAINED), (["occlusion"], messages.MAX_OCCLUDED)],
    )
    def test_more_text_than_can_be_explained_is_refused(
        self, client: TestClient, methods: list[str], longest: int
    ) -> None:
        texts = ["a" * (longest - 1), "ab"]
        response = client.post("/explain", json={"texts": texts, "methods": methods})
        assert f"{longest:,}" in assert_refused(response, 413)

    def test_methods_are_those_of_the_package(self) -> None:
        assert get_args(messages.Method) == METHODS


class TestDraw:
    def test_document_is_what_the_report_draws(
        self, client: TestClient, predictor: Predictor
    ) -> None:
        response = client.post("/draw", json={"text": TEXTS[0], "methods": list(METHODS)})
        assert response.json() == encode_document(predictor.explain(TEXTS[0], METHODS))

    @pytest.mark.parametrize(("num_classes", "expected"), [(20, 20), (25, 20)])
    def test_scores_are_those_of_all_classes_or_of_the_twenty_likeliest(
        self, num_classes: int, expected: int
    ) -> None:
        predictor = Predictor(make_bundle([f"c{i}" for i in range(num_classes)]))
        client = make_client(predictor)
        request = {"text": TEXTS[0], "methods": ["attention", "gradient"]}
        record = client.post("/draw", json=request).json()
        explanation = predictor.explain(TEXTS[0], ["attention", "gradient"])
        likeliest = sorted(range(num_classes), key=lambda i: -explanation.probabilities[i])
        assert record["scored"] == likeliest[:expected]
        assert len(record["scores"][0][3]) == expected


class TestDescription:
    def test_labels_of_the_model_are_named(self, client: TestClient) -> None:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        assert schemas["Prediction"]["properties"]["label"]["enum"] == ["bad", "good", None]

    def test_explanation_is_the_schema_of_the_package(self, client: TestClient) -> None:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        assert schemas["Explanation"]["properties"].keys() == RECORD["properties"].keys()
        assert schemas["word"] == json.loads(
            json.dumps(RECORD["$defs"]["word"]).replace("#/$defs/", "#/components/schemas/")
        )

    def test_a_document_may_have_several_labels(self) -> None:
        made = Predictor(make_bundle(options={"task": "multilabel"}))
        (record,) = (one.to_record() for one in made.classify(TEXTS[:1]))
        schema = describe(made, 1)["components"]["schemas"]["Prediction"]
        jsonschema.validate(record, json.loads(json.dumps(schema)))
        assert "labels" in schema["required"]
        assert "label" not in schema["properties"]

    def test_server_does_what_it_describes(self, tmp_path: Path) -> None:
        with running(save_model(tmp_path / "model")) as (_, url):
            command = [sys.executable, "-W", "ignore", "-m", "schemathesis.cli", "run"]
            options = "--checks=all --mode=all --max-examples=30 --seed=1 --no-color"
            result = subprocess.run(
                [*command, f"{url}openapi.json", *options.split(), "--generation-database=none"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )
        assert result.returncode == 0, result.stdout
        assert "4 selected / 4 total" in result.stdout


class TestRefusals:
    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "127.0.0.1.evil.example",
            "evil.example:8000",
            "127.0.0.1@evil.example",
            "evil.example@127.0.0.1",
            "localhost.",
            "10.0.0.1",
            "[::",
            "[::2]",
            "127.0.0.1/",
            ":8000",
            "",
        ],
    )
    def test_other_names_for_this_machine_are_refused(self, client: TestClient, host: str) -> None:
        for path in ("/", "/openapi.json", "/classify"):
            assert_refused(client.get(path, headers={"Host": host}), 403)

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
    def test_own_names_are_answered(self, client: TestClient, host: str) -> None:
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert client.post("/classify", json={"text": ""}, headers=headers).status_code == 200

    def test_host_that_was_asked_for_is_answered(self, predictor: Predictor) -> None:
        named = make_client(predictor, host="Box.example")
        assert named.get("/health", headers={"Host": "box.example:8000"}).status_code == 200
        assert_refused(named.get("/health", headers={"Host": "10.0.0.1"}), 403)

    @pytest.mark.parametrize("any_address", ["0.0.0.0", "::"])
    def test_any_address_but_no_name_is_answered_where_all_are_listened_on(
        self, predictor: Predictor, any_address: str
    ) -> None:
        client = make_client(predictor, host=any_address)
        for host in ("10.0.0.1:8000", "[2001:db8::1]:8000", "localhost"):
            assert client.get("/health", headers={"Host": host}).status_code == 200
        assert_refused(client.get("/health", headers={"Host": "evil.example"}), 403)

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:8001"},
            {"Origin": "http://localhost:8000"},
            {"Origin": "https://127.0.0.1:8000"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        ],
    )
    def test_pages_of_other_sites_are_refused(
        self, client: TestClient, headers: dict[str, str]
    ) -> None:
        response = client.post("/classify", json={"text": SECRET}, headers=headers)
        assert_refused(response, 403)
        assert_refused(client.get("/openapi.json", headers=headers), 403)

    def test_link_on_another_site_leads_to_the_page(self, client: TestClient) -> None:
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert client.get("/", headers=headers).status_code == 200
        assert_refused(client.get("/", headers={**headers, "Sec-Fetch-Mode": "no-cors"}), 403)

    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
    def test_other_methods_are_refused(self, client: TestClient, method: str) -> None:
        response = client.request(method, "/explain")
        assert_refused(response, 405)
        assert response.headers["allow"] == "POST"

    @pytest.mark.parametrize("path", ["/x", "/classify/", "/..%2fpyproject.toml", "/%00"])
    def test_other_paths_are_refused(self, client: TestClient, path: str) -> None:
        assert_refused(client.get(path), 404)

    def test_every_answer_shuts_others_out(self, client: TestClient) -> None:
        for response in (
            client.get("/"),
            client.get("/x"),
            client.get("/health", headers={"Host": "evil.example"}),
            client.options("/classify", headers={"Access-Control-Request-Method": "POST"}),
            client.post("/classify", json={"text": TEXTS[0]}),
        ):
            headers = response.headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert headers["x-frame-options"] == "DENY"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert not [name for name in headers if name.startswith("access-control")]


BODIES = {
    "nothing": (b"", 400),
    "no JSON": (b"text=zebra", 400),
    "cut off": (b'{"text": "zebra"', 400),
    "more after it": (b'{"text": "zebra"} x', 400),
    "byte order mark": (b'\xef\xbb\xbf{"text": "zebra"}', 400),
    "UTF-16": ('{"text": "zebra"}'.encode("utf-16"), 400),
    "bytes that are no UTF-8": (b'{"text": "zebra \xff"}', 400),
    "surrogate in UTF-8": (b'{"text": "zebra \xed\xa0\x80"}', 400),
    "lone surrogate": (b'{"text": "zebra \\ud800"}', 400),
    "null byte": (b'{"text": "zebra \0"}', 400),
    "bare null bytes": (b"\0" * 100, 400),
    "deep arrays": (b"[" * 500_000, 400),
    "deep objects": (b'{"text":' * 100_000, 400),
    "long number": (b'{"text": ' + b"1" * 100_000 + b"}", 400),
    "array": (b'["zebra"]', 422),
    "string": (b'"zebra"', 422),
    "null": (b"null", 422),
    "NaN": (b'{"text": NaN}', 422),
    "infinity": (b'{"texts": [-Infinity]}', 422),
    "empty object": (b"{}", 422),
    "number for a text": (b'{"text": 1}', 422),
    "null for a text": (b'{"text": null}', 422),
    "array for a text": (b'{"text": ["zebra"]}', 422),
    "text for texts": (b'{"texts": "zebra"}', 422),
    "number among texts": (b'{"texts": ["zebra", 1]}', 422),
    "text and texts": (b'{"text": "zebra", "texts": ["zebra"]}', 422),
    "something more": (b'{"text": "zebra", "x\\n": 1}', 422),
    "too many texts": (json.dumps({"texts": [""] * (messages.MAX_DOCUMENTS + 1)}).encode(), 422),
}


class TestBodies:
    @pytest.mark.parametrize("path", ["/classify", "/explain", "/draw"])
    @pytest.mark.parametrize("body", BODIES)
    def test_malformed_bodies_are_refused(self, client: TestClient, body: str, path: str) -> None:
        content, status = BODIES[body]
        headers = {"Content-Type": "application/json"}
        assert_refused(client.post(path, content=content, headers=headers), status)

    @pytest.mark.parametrize("methods", ["attention", ["x"], [1], {}, 1, None])
    def test_unknown_methods_are_refused(self, client: TestClient, methods: object) -> None:
        response = client.post("/explain", json={"text": SECRET, "methods": methods})
        assert "`methods`" in assert_refused(response, 422)

    def test_fault_is_located(self, client: TestClient) -> None:
        response = client.post("/classify", json={"texts": ["", "", 1]})
        assert "`texts`[2]" in assert_refused(response, 422)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "application/json; charset=latin-1"},
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        ],
    )
    def test_only_plain_json_is_taken(self, client: TestClient, headers: dict[str, str]) -> None:
        # Another site's page can send all but this type without asking first.
        assert_refused(client.post("/classify", content=b'{"text": ""}', headers=headers), 415)

    @pytest.mark.parametrize("kind", ["Application/JSON", 'application/json; charset="UTF-8"'])
    def test_plain_json_has_many_spellings(self, client: TestClient, kind: str) -> None:
        response = client.post("/classify", content=b'{"text": ""}', headers={"Content-Type": kind})
        assert response.status_code == 200

    @pytest.mark.parametrize("in_chunks", [False, True])
    def test_length_is_limited(self, predictor: Predictor, in_chunks: bool) -> None:
        client = make_client(predictor, max_body=100)
        headers = {"Content-Type": "application/json"}
        for length, status in ((100, 200), (101, 413), (100_000, 413)):
            body = b'{"text": "' + b"a" * (length - 12) + b'"}'
            content = iter([body[:50], body[50:]]) if in_chunks else body
            response = client.post("/classify", content=content, headers=headers)
            assert response.status_code == status
            if status == 413:
                assert "100 bytes" in assert_refused(response, 413)

    @settings(deadline=None, max_examples=200)
    @given(
        body=st.binary()
        | st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda some: st.lists(some) | st.dictionaries(st.sampled_from(["text", "texts"]), some),
        ).map(lambda value: json.dumps(value).encode())
    )
    def test_any_body_has_a_clear_answer(self, client: TestClient, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        response = client.post("/explain", content=body, headers=headers)
        assert response.status_code in (200, 400, 422)
        assert ("error" in response.json()) == (response.status_code != 200)


class Busy:
    """Work that uses the model until it is stopped, or waits until it is told to go on."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.started = threading.Event()
        self.go_on = threading.Event()

    def use_the_model(self) -> bytes:
        self.started.set()
        while True:
            self._predictor.classify(TEXTS[0])

    def wait(self) -> bytes:
        self.started.set()
        assert self.go_on.wait(60)
        return b"done"


async def never() -> None:
    await asyncio.Event().wait()


class TestJobs:
    def test_work_that_takes_too_long_is_stopped(self, predictor: Predictor) -> None:
        jobs, busy = Jobs(predictor, 0.05), Busy(predictor)
        with pytest.raises(HTTPException, match=r"0\.05 seconds") as raised:
            asyncio.run(jobs.run(busy.use_the_model, never))
        assert raised.value.status_code == 504
        assert busy.started.is_set()
        assert jobs.close(60)

    def test_work_for_nobody_is_stopped(self, predictor: Predictor) -> None:
        jobs, busy = Jobs(predictor, 60), Busy(predictor)

        async def gone() -> None:
            await asyncio.to_thread(busy.started.wait)

        assert asyncio.run(jobs.run(busy.use_the_model, gone)) is None
        assert jobs.close(60)

    def test_closing_stops_what_runs(self, predictor: Predictor) -> None:
        jobs, busy = Jobs(predictor, 60), Busy(predictor)

        async def close_meanwhile() -> bool:
            task = asyncio.ensure_future(jobs.run(busy.use_the_model, never))
            await asyncio.to_thread(busy.started.wait)
            closed = await asyncio.to_thread(jobs.close, 60)
            await task
            return closed

        assert asyncio.run(close_meanwhile())

    def test_what_is_too_much_is_refused_at_once(
        self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "THREADS", 1)
        monkeypatch.setattr(jobs, "WAITING", 1)
        work, busy = Jobs(predictor, 60), Busy(predictor)

        async def ask_three() -> tuple[int, dict[str, str], list[bytes | None]]:
            tasks = [asyncio.ensure_future(work.run(busy.wait, never)) for _ in range(2)]
            await asyncio.to_thread(busy.started.wait)
            with pytest.raises(HTTPException) as raised:
                await work.run(busy.wait, never)
            busy.go_on.set()
            headers = dict(raised.value.headers or {})
            return raised.value.status_code, headers, await asyncio.gather(*tasks)

        assert asyncio.run(ask_three()) == (503, {"Retry-After": "1"}, [b"done", b"done"])
        assert asyncio.run(work.run(busy.wait, never)) == b"done"  # there is room again

    def test_work_that_waits_too_long_is_never_begun(
        self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "THREADS", 1)
        work, first, second = Jobs(predictor, 0.05), Busy(predictor), Busy(predictor)

        async def ask_two() -> list[bytes | BaseException | None]:
            tasks = [work.run(first.wait, never), work.run(second.wait, never)]
            return await asyncio.gather(*tasks, return_exceptions=True)

        for result in asyncio.run(ask_two()):
            assert isinstance(result, HTTPException)
        first.go_on.set()
        assert work.close(60)
        assert not second.started.is_set()


class TestFaults:
    def test_fault_is_answered_and_reported_without_the_text(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Broken(Predictor):
            def explain(self, *_: object) -> NoReturn:  # type: ignore[override]
                raise RuntimeError(f"this is no word: {SECRET}")

        client = make_client(Broken(make_bundle()))
        assert_refused(client.post("/explain", json={"text": SECRET}), 500)
        report = capsys.readouterr().err
        assert "RuntimeError" in report
        assert "in explain" in report
        assert SECRET not in report
        assert ask_one(client, TEXTS[0])["label"] in ("bad", "good")


class Page(HTMLParser):
    """The elements of a page, and what its styles and scripts contain."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"style": [], "script": [], "title": [], "bdi": []}
        self._tag = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._tag = tag

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag in self.inside:
            self.inside[self._tag].append(data)


class TestPage:
    def test_policy_lets_its_own_style_and_script_alone_run(self, client: TestClient) -> None:
        response = client.get("/")
        page, policy = Page(response.text), response.headers["content-security-policy"]
        [style] = page.inside["style"]
        facts, script = page.inside["script"]
        for source in (style, script):
            digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
        assert "connect-src 'self'" in policy
        for _, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            for name in ("src", "href", "action"):
                assert (attributes.get(name) or "/").startswith(("/", "data:"))
        assert json.loads(facts)["classes"] == ["bad", "good"]

    def test_names_are_never_markup(self) -> None:
        hostile = "</script></title><img src=x onerror=alert(1)>"
        predictor = Predictor(make_bundle(("'\"&", hostile)))
        page = Page(make_client(predictor, title=hostile).get("/").text)
        assert "img" not in [tag for tag, _ in page.elements]
        assert page.inside["title"] == [hostile]
        assert page.inside["bdi"] == [hostile]
        assert json.loads(page.inside["script"][0])["classes"] == ["'\"&", hostile]

    def test_page_is_built_as_the_reports_style_and_script_expect(self, client: TestClient) -> None:
        page = Page(client.get("/").text)
        assert "function createDocumentView(" in page.inside["script"][1]
        places = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
        places |= {
            f".{attributes['class']}" for _, attributes in page.elements if "class" in attributes
        }
        for place in ("#app", "#documents", ".browser", "#reader", "#views", ".keys", ".facts"):
            assert place in places
            assert re.search(rf"^{place} {{", page.inside["style"][0], re.MULTILINE)


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]


def talk_to(app: ASGIApp, *talks: Talk, answer_seconds: float = 60) -> list[Any]:
    """Serve an application on this process's own socket, and hold some talks with it at once."""

    async def hold() -> list[Any]:
        config = configure(app, answer_seconds)
        config.load()
        state, loop = ServerState(), asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),
            "127.0.0.1",
            0,
        )
        async with server:
            address = server.sockets[0].getsockname()
            streams = [await asyncio.open_connection(*address) for _ in talks]
            try:
                return await asyncio.wait_for(
                    asyncio.gather(
                        *(talk(*stream) for talk, stream in zip(talks, streams, strict=True))
                    ),
                    60,
                )
            finally:
                for _, writer in streams:
                    writer.transport.abort()
                server.close()
                while state.connections:
                    await asyncio.sleep(0)

    return asyncio.run(hold())


def send(data: bytes) -> Talk:
    """Return a talk that sends `data` and returns all that comes back until the end."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(data)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b"reset"

    return talk


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path; of `/large` with more than a connection holds."""
    content = b"x" * 50_000_000 if scope["path"] == "/large" else scope["path"].encode()
    await Response(content)(scope, receive, send)


GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n"
CLOSE = b"Connection: close\r\n\r\n"


class TestConnections:
    @pytest.mark.parametrize("begun", [b"", b"G", GET % b"/a" + b"X: y\r\n"])
    def test_request_that_does_not_come_is_not_awaited(
        self, monkeypatch: pytest.MonkeyPatch, begun: bytes
    ) -> None:
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
        assert talk_to(echo, send(begun)) in ([b""], [b"reset"])

    @pytest.mark.parametrize(
        ("first", "then"),
        [(b"\r\n", GET % b"/second"), (b"Content-Length: 1000000\r\n\r\n", b"abc")],
        ids=["head", "body"],
    )
    def test_nothing_more_is_awaited_after_an_answer(
        self, monkeypatch: pytest.MonkeyPatch, first: bytes, then: bytes
    ) -> None:
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)

        async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
            writer.write(GET % b"/first" + first)
            answer = await reader.readuntil(b"/first")
            writer.write(then)
            return answer + await reader.read()

        [answer] = talk_to(echo, go_on)
        assert answer.endswith(b"/first")

    def test_answer_that_is_not_taken_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "SENDING_SECONDS", 0.05)
        lost = asyncio.Event()

        async def take_little(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
            writer.write(GET % b"/large" + CLOSE)
            await reader.readexactly(100)
            await lost.wait()
            return len(await reader.read())

        class Watched(connections.Connection):
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                lost.set()

        monkeypatch.setattr(listening, "Connection", Watched)
        assert talk_to(echo, take_little)[0] < 50_000_000

    def test_request_that_takes_too_long_is_dropped(self) -> None:
        async def hang(scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        assert talk_to(hang, send(GET % b"/" + CLOSE), answer_seconds=0.05) == [b""]

    def test_requests_that_come_together_are_answered_in_order(self) -> None:
        requests = b"".join(GET % path + b"\r\n" for path in (b"/a", b"/b")) + GET % b"/c" + CLOSE
        [answers] = talk_to(echo, send(requests))
        assert re.findall(rb"\r\n\r\n(/\w)", answers) == [b"/a", b"/b", b"/c"]

    def test_connections_are_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
        answers = talk_to(echo, *[send(b"")] * 2, send(GET % b"/c" + CLOSE))
        assert b"/c" not in answers[2]

    @pytest.mark.parametrize(
        "request_",
        [
            b"\0\1\2\r\n\r\n",
            b"\x16\x03\x01\x00\xa5\x01\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            GET % b"/\0" + CLOSE,
            GET % b"/" + b"Host: evil.example\r\n" + CLOSE,
            GET % b"/" + b"Content-Length: -5\r\n" + CLOSE,
            GET % b"/" + b"Content-Length: 1e3\r\n" + CLOSE,
            GET % b"/" + b"Content-Length: 1\r\nContent-Length: 2\r\n" + CLOSE,
            GET % b"/" + b"Content-Length : 5\r\n" + CLOSE,
            GET % b"/" + b"Transfer-Encoding: gzip, chunked\r\n" + CLOSE,
            GET % b"/" + b"X: " + b"y" * 200_000,
        ],
    )
    def test_what_is_no_request_is_refused(self, request_: bytes) -> None:
        [answer] = talk_to(echo, send(request_))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert list(json.loads(body)) == ["error"]

    def test_bad_chunk_is_refused(self, predictor: Predictor) -> None:
        app = create_app(predictor, Jobs(predictor, 60))
        [answer] = talk_to(app, send(post(b"ZZ\r\n", b"Transfer-Encoding: chunked\r\n")))
        assert answer.startswith(b"HTTP/1.1 400 ")

    def test_body_that_does_not_come_is_not_awaited(self, predictor: Predictor) -> None:
        app = create_app(predictor, Jobs(predictor, 60), body_seconds=0.05)
        [answer] = talk_to(app, send(post(b'{"text": "', b"Content-Length: 500\r\n")))
        assert answer.startswith(b"HTTP/1.1 408 ")

    def test_work_for_a_client_that_leaves_is_stopped(self) -> None:
        left, stopped = threading.Event(), threading.Event()

        class Slow(Predictor):
            def classify(self, texts: object, **_: object) -> NoReturn:  # type: ignore[override]
                left.set()
                try:
                    while True:
                        super().classify(str(texts))
                finally:
                    stopped.set()

        predictor = Slow(make_bundle())
        app = create_app(predictor, Jobs(predictor, 60))

        async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            writer.write(post(b'{"text": ""}', b"Content-Length: 12\r\n"))
            await asyncio.to_thread(left.wait, 60)
            writer.transport.abort()
            return await asyncio.to_thread(stopped.wait, 60)

        assert talk_to(app, leave) == [True]


def post(body: bytes, headers: bytes) -> bytes:
    head = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + headers + CLOSE + body


@contextmanager
def running(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `han serve` in a process of its own; yield it, and the address that it printed."""
    command = [sys.executable, "-m", "han", "serve", str(model), "--port=0", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@dataclass
class Place:
    """A folder with a model in it, and `han serve` in this process, which ends when it listens."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    apps: list[Any] = field(default_factory=list)

    def serve(self, *options: str, model: str | None = None) -> tuple[str, str]:
        """Return what the command writes to standard output and standard error."""
        model = model or str(save_model(self.folder / "model"))
        self.capsys.readouterr()
        assert main(["serve", model, *options]) == 0
        out, err = self.capsys.readouterr()
        return out, err

    def assert_fails(self, message: str, *options: str, model: str | None = None) -> None:
        """Check that the command fails with one line."""
        model = model or str(save_model(self.folder / "model"))
        self.capsys.readouterr()
        assert main(["serve", model, *options]) == 1
        out, err = self.capsys.readouterr()
        assert out == ""
        assert err.startswith("han: ")
        assert message in err
        assert err.count("\n") == 1

    def listen(self, config: uvicorn.Config, _: socket.socket, ready: Callable[[], None]) -> None:
        """Take the place of the function that serves for ever."""
        self.apps.append(config.app)
        ready()
        for thread in threading.enumerate():
            if thread.name == "browser":
                thread.join()


@pytest.fixture
def place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Place:
    made = Place(tmp_path, capsys)
    monkeypatch.setattr(listening, "listen", made.listen)
    return made


class TestServe:
    def test_server_answers_at_the_address_it_prints_until_it_is_interrupted(
        self, tmp_path: Path
    ) -> None:
        with running(save_model(tmp_path / "model")) as (process, url):
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
            with urllib.request.urlopen(url) as response:
                assert b"<textarea" in response.read()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}classify", b'{"text": "Soup."}', headers)
            with urllib.request.urlopen(request) as response:
                assert json.load(response)["label"] in ("bad", "good")
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "x.example"}))
            with socket.create_connection(("127.0.0.1", int(url.split(":")[-1].strip("/")))):
                process.send_signal(signal.SIGINT)  # an open connection does not hold it up
                assert process.wait(60) == 130
            assert process.stderr is not None
            assert process.stderr.read() == "Ctrl-C ends it.\nhan: interrupted\n"

    def test_in_the_background_it_is_interrupted_all_the_same(self, tmp_path: Path) -> None:
        model = save_model(tmp_path / "model")
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the process begins with
        try:
            with running(model) as (process, _):
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 130
        finally:
            signal.signal(signal.SIGINT, before)

    def test_port_in_use_is_one_line(self, place: Place) -> None:
        with bind("127.0.0.1", 0) as taken:
            taken.listen()
            port = taken.getsockname()[1]
            place.assert_fails(f"Port {port} is in use", f"--port={port}")

    @pytest.mark.parametrize(
        ("message", "option"),
        [
            ("`--port` must be from 0 to 65535, got 65536", "--port=65536"),
            ("`--port` must be from 0 to 65535, got -1", "--port=-1"),
            ("There is no host 'no such host'", "--host=no such host"),
            ("There is no host '\\udcff'", "--host=\udcff"),
            ("Cannot listen on 192.0.2.1", "--host=192.0.2.1"),
            ("`--max_body` must be at least 1", "--max_body=0"),
            ("`--timeout` must be more than 0", "--timeout=0"),
            ("`--timeout` must be more than 0", "--timeout=nan"),
            ("`--timeout` must be more than 0", "--timeout=inf"),
        ],
    )
    def test_bad_options_are_one_line(self, place: Place, message: str, option: str) -> None:
        place.assert_fails(message, "--port=0", option)

    def test_missing_model_is_one_line(self, place: Place) -> None:
        place.assert_fails("no/such", "--port=0", model="no/such")

    @pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
    def test_others_are_let_in_only_with_a_warning(self, place: Place, host: str) -> None:
        out, err = place.serve("--port=0", f"--host={host}")
        assert re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):\d+/\n", out)
        assert err.count("\n") == (2 if host == "0.0.0.0" else 1)
        assert ("passwords" in err) == (host == "0.0.0.0")

    @pytest.mark.parametrize(
        ("options", "terminal", "display", "opens"),
        [
            ((), True, ":0", True),
            ((), True, "", sys.platform in ("darwin", "win32")),
            ((), False, ":0", False),
            (("--no_browser",), True, ":0", False),
        ],
    )
    def test_browser_opens_where_there_is_somebody_to_look(
        self,
        place: Place,
        monkeypatch: pytest.MonkeyPatch,
        options: Sequence[str],
        terminal: bool,
        display: str,
        opens: bool,
    ) -> None:
        opened: list[str] = []
        monkeypatch.setattr(han.cli.serving.webbrowser, "open", opened.append)
        monkeypatch.setattr(han.cli.serving.sys.stdout, "isatty", lambda: terminal, raising=False)
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        out, _ = place.serve("--port=0", *options)
        assert opened == [out.strip()] * opens

    @pytest.mark.parametrize(
        ("folder", "name"),
        [("reviews", "reviews"), ("reviews/2", "reviews/2"), ("reviews/2/model", "reviews/2")],
    )
    def test_page_has_the_name_of_the_run(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, folder: str, name: str
    ) -> None:
        model = save_model(place.folder / folder)
        place.serve("--port=0", model=str(model))
        response = TestClient(place.apps[-1], ADDRESS).get("/")
        assert Page(response.text).inside["title"] == [name]
