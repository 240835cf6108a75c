"""What a hostile web page can do in the browser of somebody who visits it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Route, sync_playwright

from tests import servers
from tests.pages import ARGUMENTS, PATIENCE, chromium

HOOK = """
from collab import Grant

async def by_cookie(attempt):
    if "session=ann" in attempt.headers.get("cookie", ""):
        return Grant("ann")
    return Grant("bot") if attempt.token == "secret" else None
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    rules = "--host-resolver-rules=MAP *.example.test 127.0.0.1"
    open_network = "--disable-features=LocalNetworkAccessChecks"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=[*ARGUMENTS, rules, open_network]
        )
        yield browser
        browser.close()


@pytest.fixture
def person(browser: Browser) -> Iterator[BrowserContext]:
    """Somebody with a browser, in which any page says whatever the test wants."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)

    def serve(route: Route) -> None:
        route.fulfill(content_type="text/html", body="<title>a page</title>")

    context.route("http://*.example.test/*", serve)
    yield context
    context.close()


def know(person: BrowserContext, domain: str) -> None:
    """Sign somebody in, as most cookies are set."""
    person.add_cookies(
        [
            {
                "name": "session",
                "value": "ann",
                "domain": domain,
                "path": "/",
                "sameSite": "Lax",
            }
        ]
    )


READ = """
(url) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  let opened = false;
  socket.onopen = () => { opened = true; socket.send(new Uint8Array([0, 0, 1, 0])); };
  socket.onmessage = ({ data }) => {
    const message = new Uint8Array(data);
    if (message[0] === 0 && message[1] === 1) resolve("read");
  };
  socket.onclose = ({ code }) => resolve(opened ? `closed ${code}` : "refused");
})
"""


def test_a_page_that_somebody_visits_cannot_act_as_they(
    person: BrowserContext, tmp_path: Path
) -> None:
    """Cross-site WebSocket hijacking, by a page that a browser takes for a friend: one
    on a subdomain of the same site, with which it sends cookies."""
    (tmp_path / "hook.py").write_text(HOOK)
    options = ["--authorize", "hook:by_cookie"]
    options += ["--allowed-origin", "http://app.example.test"]
    environment = {"PYTHONPATH": str(tmp_path)}
    with servers.running(tmp_path, *options, environment=environment) as server:
        know(person, "collab.example.test")
        url = f"ws://collab.example.test:{server.port}/ws/a"
        said = {}
        for name in ("app", "evil"):
            tab = person.new_page()
            tab.goto(f"http://{name}.example.test/")
            said[name] = tab.evaluate(READ, url)
            framed = """(html) => { const f = document.createElement("iframe");
              f.sandbox = "allow-scripts"; f.srcdoc = html;
              document.body.append(f);
              return new Promise((r) => addEventListener("message", (e) => r(e.data)));
            }"""
            script = (
                f"({READ})({json.dumps(url)}).then((s) => parent.postMessage(s, '*'))"
            )
            sandboxed = tab.evaluate(framed, f"<script>{script}</script>")
            said[f"{name}, sandboxed"] = sandboxed
        assert said == {
            "app": "read",
            "app, sandboxed": "refused",
            "evil": "refused",
            "evil, sandboxed": "refused",
        }
        log = server.log()
        assert "'http://evil.example.test'" in log
        assert "'null'" in log


def test_a_page_of_another_port_may_come_to_ones_own_machine(
    person: BrowserContext, tmp_path: Path
) -> None:
    def serve(route: Route) -> None:
        route.fulfill(content_type="text/html", body="<title>a page</title>")

    person.route("http://localhost:5173/*", serve)
    with servers.running(tmp_path) as server:
        know(person, "localhost")
        tab = person.new_page()
        tab.goto("http://localhost:5173/")
        assert tab.evaluate(READ, f"ws://localhost:{server.port}/ws/a") == "read"
        tab.goto("http://evil.example.test/")
        assert tab.evaluate(READ, f"ws://localhost:{server.port}/ws/a") == "refused"
        strange = f"ws://evil.example.test:{server.port}/ws/a"
        assert tab.evaluate(READ, strange) == "refused"
