"""What ``docs/auth.md`` tells people to type, typed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from collab.auth import Access, Visitor
from collab.errors import AccessDenied
from collab.tokens import Tokens
from collab.webhook import Webhook
from tests.answering import Heard, Reply, site
from tests.peers import data
from tests.signing import SECRET, token

TEXT = (Path(__file__).parents[1] / "docs" / "auth.md").read_text()

BIN = Path(sys.executable).parent

FREELY = """
collab() {
    if [ "$1" = serve ]; then shift; exec collab-here serve --port 0 "$@"; fi
    command collab "$@"
}
"""
"""In the shell, before what is typed: on a port that is free."""

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")


def block(language: str, word: str) -> str:
    """The only example in a language that has a word in it."""
    blocks = re.findall(rf"^```{language}\n(.+?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    (found,) = [one for one in blocks if word in one]
    return str(found)


def python(word: str) -> dict[str, Any]:
    """What an example in Python defines."""
    names: dict[str, Any] = {}
    exec(compile(block("python", word), "docs/auth.md", "exec"), names)
    return names


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("COLLAB_")}
    return {**kept, "PATH": f"{BIN}:{os.environ['PATH']}", **more}


def run(script: str, folder: Path, **more: str) -> str:
    """What a script prints."""
    command = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@contextmanager
def serving(script: str, folder: Path, **more: str) -> Iterator[int]:
    """What a script serves, and on which port; it is stopped at the end."""
    here = folder / "collab-here"
    here.symlink_to(BIN / "collab")
    values = {**environment(**more), "PATH": f"{folder}:{environment()['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", FREELY + script]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command,
            cwd=folder,
            env=values,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as server,
    ):
        assert server.stdout is not None
        try:
            for line in server.stdout:
                if address := re.search(r"is serving http://\S+?:(\d+)/", line):
                    yield int(address[1])
                    return
            pytest.fail((folder / "log").read_text())
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def verdict(port: int, document: str, *, token: str = "", cookie: str = "") -> str:
    """What Hocuspocus' provider hears."""
    headers = {"Cookie": cookie} if cookie else {}
    address = data(document.encode())
    url = f"ws://127.0.0.1:{port}/ws"
    with connect(url, additional_headers=headers, proxy=None) as client:
        client.send(address + b"\2\0" + data(token.encode()))
        try:
            while True:
                heard = client.recv(60, decode=False).removeprefix(address)
                if heard[:1] == b"\2":
                    return heard[3:].decode()
        except ConnectionClosed as exc:
            return str(exc.rcvd.code if exc.rcvd else 1006)


def test_a_secret_is_made_and_anybody_else_is_denied(tmp_path: Path) -> None:
    script = block("sh", "rand -hex 32")
    with serving(script, tmp_path) as port:
        assert verdict(port, "notes/a") == "permission-denied"


def test_an_application_makes_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLAB_JWT_SECRET", SECRET)
    carried = python("def token_for")["token_for"]("ann", "Ann")
    script = block("sh", "rand -hex 32").partition("\n")[2]
    with serving(script, tmp_path, COLLAB_JWT_SECRET=SECRET) as port:
        assert verdict(port, "notes/a", token=carried) == "read-write"
        assert verdict(port, "handbook", token=carried) == "readonly"
        assert verdict(port, "other", token=carried) == "permission-denied"


def test_a_command_makes_tokens_and_explains_them(tmp_path: Path) -> None:
    said = run(block("sh", "token inspect"), tmp_path, COLLAB_JWT_SECRET=SECRET)
    start, end = block("text", "Valid.").split("...\n")
    assert said.startswith(start)
    assert said.endswith(end)


def test_a_pair_of_keys_is_made(tmp_path: Path) -> None:
    with serving(block("sh", "genpkey"), tmp_path) as port:
        carried = (tmp_path / "token").read_text().strip()
        assert verdict(port, "any/thing", token=carried) == "read-write"
        assert verdict(port, "any/thing") == "permission-denied"


def test_a_provider_that_is_not_there_lets_nobody_in(tmp_path: Path) -> None:
    with serving(block("sh", "--jwks"), tmp_path) as port:
        head = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ"
        assert verdict(port, "d", token=f"{head}.e30.AAAA") == "4503"


async def test_of_several_patterns_the_most_specific_one_counts() -> None:
    said = re.search(r"\*\*If several fit.*?`(\{.+?\})`", TEXT, re.DOTALL)
    assert said is not None
    assert json.loads(said[1]) == {"**": "write", "handbook": "read", "hr/**": "none"}
    carried = token(documents=json.loads(said[1]))
    found: dict[str, Access | None] = {}
    for name in ("handbook", "a/b", "hr/a/b"):
        try:
            attempt = Visitor("somebody").attempt(name, carried)
            found[name] = (await Tokens(secret=SECRET)(attempt)).access
        except AccessDenied:
            found[name] = None
    assert found == {"handbook": Access.READ, "a/b": Access.WRITE, "hr/a/b": None}


def test_an_application_is_asked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (tmp_path / "web.py").write_text(block("python", "class Question"))
    command = [sys.executable, "-m", "uvicorn", "web:app", "--port", port]
    application = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/openapi.json").close()
                break
            except URLError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        script = block("sh", "--auth-webhook http").replace("9000", port)
        with serving(script, tmp_path) as served:
            cookie = "session=5d41402abc4b2a76"
            assert verdict(served, "ann/notes", cookie=cookie) == "read-write"
            assert verdict(served, "bob/notes", cookie=cookie) == "readonly"
            assert verdict(served, "ann/notes") == "please sign in"
    finally:
        application.kill()
        application.wait()


async def test_a_signature_is_verified() -> None:
    signed = python("def signed")["signed"]
    verified: list[bool] = []

    def answer(heard: Heard) -> Reply:
        verified.append(signed(heard.headers, heard.body, SECRET.encode()))
        verified.append(signed(heard.headers, heard.body + b" ", SECRET.encode()))
        verified.append(signed(heard.headers, heard.body, b"x" * 32))
        return Reply(200, {"access": "read"})

    with site(answer) as application:
        hook = Webhook(application.url, secret=SECRET)
        async with asyncio.timeout(60):
            await hook(Visitor("1.2.3.4:5").attempt("d"))
        await hook.close()
    assert verified == [True, False, False]


def test_a_function_of_ones_own_decides(tmp_path: Path) -> None:
    (tmp_path / "door.py").write_text(block("python", "USERS ="))
    with serving(block("sh", "--authorize"), tmp_path) as port:
        known = "a long random token"
        assert verdict(port, "d", token=known) == "read-write"
        assert verdict(port, "private/d", token=known) == "permission-denied"
        assert verdict(port, "d", token="a guess") == "please sign in"


def test_an_application_mixes_them(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(
        block("python", "USERS =") + block("python", "AnyOf(") + "app = collab\n"
    )
    minted = run(
        "collab token mint --allow '**=read'", tmp_path, COLLAB_JWT_SECRET=SECRET
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "web:app", "--port", str(port)]
    application = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(COLLAB_JWT_SECRET=SECRET),
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/livez").close()
                break
            except URLError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert verdict(port, "d", token=minted.strip()) == "readonly"
        assert verdict(port, "d", token="a long random token") == "read-write"
        assert verdict(port, "d", token="a guess") == "please sign in"
    finally:
        application.kill()
        application.wait()


def test_every_option_is_in_the_help(tmp_path: Path) -> None:
    taught = run("collab serve --help; collab token mint --help", tmp_path)
    named = set(re.findall(r"--(?:jwt|jwks|auth)[a-z-]*", TEXT))
    assert len(named) > 10
    assert not [name for name in named if name not in taught]
