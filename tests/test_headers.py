"""What responses tell browsers, and what they don't tell anybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Scope

from collab.headers import SAFE, SafeHeaders
from tests import servers
from tests.applications import EXAMPLE
from tests.applications import running as embedded
from tests.pages import ensure_demo
from tests.peers import Raw
from tests.peers import Response as Heard

STACK = re.compile(
    r"traceback|uvicorn|starlette|websockets|httptools|python|\.py\b|\d+\.\d+\.\d+",
    re.IGNORECASE,
)
"""What would say what a server is made of."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    ensure_demo()
    with servers.running(tmp_path_factory.mktemp("headers")) as server:
        yield server


def ask(port: int, path: str, method: str = "GET") -> Heard:
    """What a browser hears that only wants to see what is there."""
    with Raw(port) as raw:
        return raw.ask(path, method=method, without=["Upgrade", "Connection"])


def is_safe(heard: Heard) -> bool:
    """Whether a response has the headers that all have which are no page, once."""
    values = {name: [v for n, v in heard.headers if n == name.lower()] for name in SAFE}
    return values == {name: [value] for name, value in SAFE.items()}


def is_reticent(heard: Heard) -> bool:
    """Whether a response doesn't say what the server is made of."""
    told = [f"{name}: {value}" for name, value in heard.headers if name != "date"]
    if heard.get("content-type") == "text/plain; charset=utf-8":
        told.append(heard.body.decode())
    assert heard.get("server") is None
    return not STACK.search("\n".join(told))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/livez", 200),
        ("/readyz", 200),
        ("/nowhere", 404),
        ("/assets/nowhere.js", 404),
        ("/ws", 426),
        ("/ws/d", 426),
        ("/api/sync/push", 405),
        ("/api/sync/<script>alert(1)<%2Fscript>", 404),
        ("/metrics", 404),
        ("/admin", 404),
        ("/docs", 404),
        ("/openapi.json", 404),
        ("/debug", 404),
    ],
)
def test_a_response_that_is_no_page_is_nothing_to_a_browser(
    server: servers.Server, path: str, status: int
) -> None:
    heard = ask(server.port, path)
    assert heard.status == status
    assert is_safe(heard)
    assert is_reticent(heard)


@pytest.mark.parametrize("path", ["/", "/livez", "/api/sync/push", "/ws/d", "/nowhere"])
def test_so_is_a_refused_method(server: servers.Server, path: str) -> None:
    heard = ask(server.port, path, "DELETE")
    assert heard.status == 405
    assert is_safe(heard)
    assert is_reticent(heard)


@pytest.mark.parametrize(
    "path",
    [
        "/%00",
        "/index.html%00.js",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fapp.py",
        "/assets/%2e%2e%5c%2e%2e%5capp.py",
        "/%252e%252e%252fapp.py",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/%0d%0aSet-Cookie:%20a=b",
        "/%ff%fe",
        "/%E2%80%AE",
        "/" + "x" * 5000,
        "/x/" * 1000,
    ],
)
def test_no_path_leads_out_of_the_page(server: servers.Server, path: str) -> None:
    heard = ask(server.port, path)
    assert heard.status == 404
    assert heard.body == b"Not Found"
    assert heard.get("set-cookie") is None
    assert is_safe(heard)


@pytest.mark.parametrize(
    "said",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /\x1b[2J HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_with_care_too(
    server: servers.Server, said: bytes
) -> None:
    with Raw(server.port) as raw:
        raw.send(said)
        heard = raw.read_response()
        assert raw.read_all() == b""
    assert heard.status == 400
    assert is_safe(heard)
    assert is_reticent(heard)


def test_so_is_a_handshake_that_is_none(server: servers.Server) -> None:
    for name, value in [
        ("Sec-WebSocket-Key", "<script>"),
        ("Sec-WebSocket-Version", "7"),
        ("Sec-WebSocket-Protocol", "a b"),
        ("Connection", "close"),
    ]:
        with Raw(server.port) as raw:
            heard = raw.ask("/ws/d", (name, value), without=[name])
        assert heard.status in (400, 426), name
        assert is_safe(heard)
        assert is_reticent(heard)
        assert value.encode() not in heard.body
    for path, statuses in [
        ("/elsewhere", [404]),
        ("/ws/a%00b", [400]),
        ("/ws/" + "x" * 10_000, [400, 414]),
    ]:
        with Raw(server.port) as raw:
            heard = raw.ask(path)
        assert heard.status in statuses
        assert b"bytes" not in heard.body
        assert is_safe(heard)
        assert is_reticent(heard)


def test_a_websocket_says_as_little(server: servers.Server) -> None:
    with Raw(server.port) as raw:
        assert is_reticent(raw.open("/ws/d"))


def test_the_page_runs_nothing_but_its_own_files(server: servers.Server) -> None:
    page = ask(server.port, "/")
    script = re.search(rb'src="\.(/assets/[^"]+\.js)"', page.body)
    assert script is not None
    for heard in (page, ask(server.port, script[1].decode())):
        assert heard.status == 200
        assert is_reticent(heard)
        policy = heard.get("content-security-policy") or ""
        assert policy.count("script-src") == 1
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == rules["connect-src"] == "'self'"
        assert rules["trusted-types"] == rules["base-uri"] == "'none'"
        assert rules["require-trusted-types-for"] == "'script'"
        assert rules["frame-ancestors"] == "'self'"
        assert heard.get("x-content-type-options") == "nosniff"
        assert heard.get("cross-origin-opener-policy") == "same-origin"
    assert b"<script>" not in page.body


def test_in_an_application_it_is_so_for_what_is_ours(tmp_path: Path) -> None:
    with embedded("main:app", EXAMPLE, tmp_path, "/collab") as server:
        for path, status in [("/collab/livez", 200), ("/collab/nowhere", 404)]:
            heard = ask(server.port, path)
            assert heard.status == status
            assert is_safe(heard)
        with Raw(server.port) as raw:
            heard = raw.ask("/collab/ws/a%00b")
        assert heard.status == 400
        assert is_safe(heard)


async def test_an_error_that_nobody_expected_is_none_of_a_visitors_business() -> None:
    async def fail(request: Request) -> Response:
        raise RuntimeError("SEKRET in /srv/app.py")

    async def choose(request: Request) -> Response:
        return PlainTextResponse("", headers={"Referrer-Policy": "origin"})

    routes = [Route("/fail", fail), Route("/choose", choose)]
    application = SafeHeaders(Starlette(routes=routes))
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    def scope(path: str) -> Scope:
        return {"type": "http", "method": "GET", "path": path, "headers": []}

    with pytest.raises(RuntimeError):  # The server that runs it logs it.
        await application(scope("/fail"), receive, send)
    assert sent[0]["status"] == 500
    assert sent[1]["body"] == b"Internal Server Error"
    headers = Headers(raw=sent[0]["headers"])
    assert {name: headers[name] for name in SAFE} == SAFE
    await application(scope("/choose"), receive, send)
    assert Headers(raw=sent[2]["headers"]).getlist("Referrer-Policy") == ["origin"]
