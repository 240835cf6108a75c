"""The command: each mistake is answered with one sentence, and no traceback."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from collab import __version__
from tests import servers
from tests.peers import Editor
from tests.signing import SECRET, token

AS_NOBODY = """
import os
import sqlalchemy.dialects.sqlite
import collab.app, uvicorn.lifespan.off, uvicorn.loops.auto
from collab.cli import main

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
main(prog_name="collab")
"""
"""The command of root, run by somebody who may do nothing. It imports first: Python
itself may be where only root may read."""


def collab(
    *arguments: str,
    environment: dict[str, str] | None = None,
    program: tuple[str, ...] = ("-m", "collab"),
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, *program, *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """What a failed command said in one sentence."""
    assert result.returncode not in (0, -signal.SIGSEGV)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    *usage, sentence = result.stderr.strip().splitlines()
    # click shows how it is used where options are wrong.
    assert all(re.match(r"Usage: |Try |$", line) for line in usage), result.stderr
    assert sentence.startswith("Error: ")
    return sentence.removeprefix("Error: ")


def serve(*options: str) -> str:
    """What ``collab serve`` complains about."""
    return complaint(collab("serve", "--port", "0", *options))


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def test_help_teaches() -> None:
    assert "collab serve" in collab("--help").stdout
    assert collab("-h").stdout == collab("--help").stdout
    taught = collab("serve", "--help").stdout
    for word in ["--port", "--database", "--tls-cert", "COLLAB_PORT", "new Websocket"]:
        assert word in taught
    assert "127.0.0.1" in taught
    assert "sqlite:///collab.db" in taught


def test_it_says_its_version() -> None:
    assert collab("--version").stdout == f"collab, version {__version__}\n"


def test_without_a_command_it_helps() -> None:
    result = collab()
    assert "Usage:" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_option_is_a_mistake() -> None:
    assert "--no-such-option" in serve("--no-such-option")


def test_an_unknown_command_is_a_mistake() -> None:
    assert "serv" in complaint(collab("serv"))


@pytest.mark.parametrize("port", ["http", "65536", "-1"])
def test_a_port_is_a_number(port: str) -> None:
    assert port in complaint(collab("serve", "--port", port))


def test_a_port_that_is_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        port = rival.getsockname()[1]
        said = complaint(
            collab("serve", "--port", str(port), "--database", url(tmp_path / "a.db"))
        )
    assert str(port) in said
    assert "in use" in said
    assert "--port" in said


def test_an_address_that_is_not_ours_is_named(tmp_path: Path) -> None:
    database = url(tmp_path / "a.db")
    said = serve("--host", "192.0.2.1", "--allow-anonymous", "--database", database)
    assert "192.0.2.1" in said


def test_a_host_that_nobody_knows_is_named(tmp_path: Path) -> None:
    database = url(tmp_path / "a.db")
    said = serve("--host", "no.invalid", "--allow-anonymous", "--database", database)
    assert "no.invalid" in said


BEYOND = ["0.0.0.0", "::", "192.168.0.1", "::ffff:0.0.0.0", "example.org"]
"""Hosts whom others than this machine reach, or may."""

WAYS_IN = {
    "secret": ("--jwt-secret", SECRET),
    "webhook": ("--auth-webhook", "http://127.0.0.1:1/authorize"),
    "keys": ("--jwks", "http://127.0.0.1:1/keys"),
    "function": ("--authorize", "tests.interop.door:authorize"),
}
"""Options that say who is let in."""


@pytest.mark.parametrize("host", BEYOND)
def test_who_serves_the_world_must_say_so(host: str) -> None:
    said = serve("--host", host)
    assert host in said
    assert "--allow-anonymous" in said
    for option in ("--jwt-secret", "--jwks", "--auth-webhook", "--authorize"):
        assert option in said


@pytest.mark.parametrize("empty", ["COLLAB_JWT_SECRET", "COLLAB_AUTH_WEBHOOK"])
def test_an_empty_variable_lets_in_nobody(empty: str) -> None:
    result = collab("serve", "--host", "0.0.0.0", environment={empty: ""})
    assert "--allow-anonymous" in complaint(result)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("way", WAYS_IN)
def test_nobody_is_asked_and_let_in_anonymously(way: str, host: str) -> None:
    said = serve("--host", host, "--allow-anonymous", *WAYS_IN[way])
    assert "COLLAB_ALLOW_ANONYMOUS" in said
    assert SECRET not in said


@pytest.mark.parametrize("way", WAYS_IN)
def test_who_says_who_is_let_in_may_serve_the_world(way: str, tmp_path: Path) -> None:
    with servers.running(tmp_path, "--host", "0.0.0.0", *WAYS_IN[way]) as server:
        with connect(f"{server.ws_url}/d") as client:
            client.send(b"\0\0\1\0")
            with suppress(ConnectionClosed):
                while True:
                    said = client.recv(60, decode=False)
                    assert said[:1] == b"\2"
            code = client.close_code
            # Nobody is there whom the webhook could ask.
            assert code == (4503 if way == "webhook" else 4403)
        assert "whoever reaches" not in server.log()


def test_who_lets_anybody_in_is_told_so(tmp_path: Path) -> None:
    options = ["--host", "0.0.0.0", "--allow-anonymous"]
    with servers.running(tmp_path, *options) as server:
        with connect(f"{server.ws_url}/d") as client:
            assert client.recv(60) == b"\0\0\1\0"
        assert "whoever reaches 0.0.0.0 may read and change" in server.log()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--jwt-secret", ""], "openssl rand"),
        (["--jwt-secret", "short"], "openssl rand"),
        (["--jwt-secret", SECRET, "--jwt-secret-file", __file__], "not both"),
        (["--jwt-key", __file__], "BEGIN PUBLIC KEY"),
        (["--jwt-key", "/nowhere"], "/nowhere"),
        (["--jwks", "id.example.com"], "not a URL"),
        (["--jwks", "http://93.184.216.34/keys"], "use https"),
        (["--jwt-secret", SECRET, "--jwt-access", "owner"], "owner"),
        (["--jwt-secret", SECRET, "--jwt-leeway", "-1"], "-1"),
        (["--jwt-audience", "collab"], "--jwt-secret, --jwt-key or --jwks"),
        (["--jwt-access", "read"], "--jwt-access does nothing"),
        (["--auth-webhook", "http://169.254.169.254/"], "link-local"),
        (["--auth-webhook", "http://a/", "--auth-webhook-forward", "Host"], "host"),
        (["--auth-webhook", "http://a/", "--auth-webhook-timeout", "10"], "10"),
        (["--auth-webhook", "http://a/", "--auth-webhook-secret", "x"], "bytes"),
        (["--auth-webhook-cache", "5"], "--auth-webhook-cache does nothing"),
    ],
)
def test_what_cannot_let_anybody_in_is_explained(options: list[str], hint: str) -> None:
    said = serve(*options)
    assert hint in said
    assert SECRET not in said


def test_options_for_tokens_may_be_in_the_environment(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    environment = {
        "COLLAB_HOST": "0.0.0.0",
        "COLLAB_JWT_SECRET_FILE": str(secret),
        "COLLAB_JWT_AUDIENCE": "collab other",
        "COLLAB_JWT_ISSUER": "tests",
        "COLLAB_JWT_ACCESS": "read",
        "COLLAB_JWT_COOKIE": "seat",
    }
    with servers.running(tmp_path, environment=environment) as server:
        for aud, greeted in [("collab", True), ("other", True), ("third", False)]:
            seat = token(aud=aud, iss="tests", documents=None)
            headers = {"Cookie": f"seat={seat}"}
            with connect(f"{server.ws_url}/d", additional_headers=headers) as client:
                client.send(b"\0\0\1\0")
                assert (client.recv(60) == b"\0\0\1\0") is greeted


def test_who_may_come_in_is_decided_by_a_function_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "door.py").write_text(
        "from collab import Attempt, Grant\n"
        "async def authorize(attempt: Attempt) -> Grant | None:\n"
        "    return Grant('ann') if attempt.token == 'right' else None\n"
        "def sync(attempt): ...\n"
    )
    options = ["--database", url(tmp_path / "a.db"), "--port", "0"]
    command = [sys.executable, "-m", "collab", "serve", *options, "--authorize"]
    for wrong, hint in [
        ("door", "door"),
        ("door:nothing", "nothing"),
        ("nowhere:authorize", "nowhere"),
        ("door:sync", "not an async function"),
        (":", "':'"),
    ]:
        said = subprocess.run(
            [*command, wrong], cwd=tmp_path, capture_output=True, text=True
        )
        assert said.returncode == 2
        assert hint in said.stderr
        assert "Traceback" not in said.stderr
    with subprocess.Popen(
        [*command, "door:authorize", "--host", "0.0.0.0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            port = int(line.partition(" (")[0].rstrip("/").rpartition(":")[2])
            address = f"ws://127.0.0.1:{port}/ws/d"
            with (
                connect(f"{address}?token=right") as right,
                connect(address) as wrong_one,
            ):
                assert right.recv(60) == b"\0\0\1\0"
                wrong_one.send(b"\0\0\1\0")
                assert wrong_one.recv(60) == b"\2\0\x11permission-denied"
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--allowed-origin", "app.example.com", "write SCHEME://HOST or"),
        ("--allowed-origin", "https://*.com", "would let in strangers"),
        ("--trusted-proxy", "proxy", "'proxy' does not appear to be an IPv4 or IPv6"),
        ("--limit", "frames=2", "there is no limit 'frames'. `--limit help` lists"),
        ("--limit", "frame_size=0", "frame_size is a whole number above 0, not 0."),
    ],
)
def test_who_may_come_and_what_they_may_use_can_be_wrong(
    option: str, value: str, sentence: str
) -> None:
    assert sentence in serve(option, value)


def test_limits_can_be_listed_and_set(tmp_path: Path) -> None:
    listed = collab("serve", "--limit", "help")
    assert listed.returncode == 0
    assert "message_rate=2000\n" in listed.stdout
    environment = {"COLLAB_LIMIT": "frame_size=1KiB heartbeat=10"}
    with (
        servers.running(tmp_path, environment=environment) as server,
        connect(f"{server.ws_url}/a", proxy=None, compression=None) as socket,
    ):
        socket.send(b"x" * 1025)
        with suppress(ConnectionClosed):
            while True:
                socket.recv(30)
        assert socket.close_code == 1009


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_it_opens_as_many_files_as_it_may(tmp_path: Path) -> None:
    with servers.running(tmp_path) as server:
        limits = Path(f"/proc/{server.pid}/limits").read_text()
        match = re.search(r"Max open files +(\d+) +(\d+)", limits)
        assert match is not None
        assert match[1] == match[2]


@pytest.mark.parametrize("host", ["::1", "localhost", "127.0.0.2"])
def test_this_machine_is_served_without_ado(tmp_path: Path, host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6")
    with servers.running(tmp_path, "--host", host) as server:
        assert server.alive
        assert "whoever reaches" not in server.log()


# Databases.


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    said = serve("--database", url(tmp_path / "missing" / "a.db"))
    assert str(tmp_path / "missing") in said


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    assert str(tmp_path) in serve("--database", url(tmp_path))


def test_a_letter_is_no_database(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear server, I am not a database. " * 100)
    said = serve("--database", url(letter))
    assert str(letter) in said
    assert letter.read_text().startswith("Dear server")


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with servers.running(tmp_path):
        pass
    (tmp_path / "collab.db").rename(path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    before = path.read_bytes()
    said = serve("--database", url(path))
    assert "newer version" in said  # The path says newer, too.
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "database", ["", "collab.db", "nosuch:///x", "oracle://host/x", "sqlite:/x", "://"]
)
def test_a_url_that_is_none_is_answered_with_one(database: str) -> None:
    said = serve("--database", database)
    assert "sqlite:///collab.db" in said


def test_a_password_is_not_repeated(tmp_path: Path) -> None:
    result = collab("serve", "--database", "mysql://me:secret@example.org/x")
    complaint(result)
    assert "secret" not in result.stderr


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_place_where_nobody_may_write_is_named() -> None:
    assert "/proc/a.db" in serve("--database", "sqlite:////proc/a.db")


def test_a_database_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    with servers.running(tmp_path):
        pass
    # Root may read everything, and only root may look into pytest's own folders.
    program = ("-c", AS_NOBODY) if os.geteuid() == 0 else ("-m", "collab")
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        path = Path(folder) / "mine.db"
        path.write_bytes((tmp_path / "collab.db").read_bytes())
        path.chmod(0)
        command = ("serve", "--port", "0", "--database", url(path))
        said = complaint(collab(*command, program=program))
    assert str(path) in said
    assert "write to the file" in said


# TLS.


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.touch()
    assert "--tls-key" in serve("--tls-cert", str(file))
    assert "--tls-cert" in serve("--tls-key", str(file))


def test_a_certificate_that_is_missing_is_named(tmp_path: Path) -> None:
    file = str(tmp_path / "cert.pem")
    assert file in serve("--tls-cert", file, "--tls-key", file)


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("Dear server, I am not a certificate.")
    options = ["--tls-cert", str(file), "--tls-key", str(file)]
    assert str(file) in serve(*options, "--database", url(tmp_path / "a.db"))


# Running.


def test_options_may_stand_in_the_environment(tmp_path: Path) -> None:
    database = tmp_path / "env.db"
    with subprocess.Popen(
        [sys.executable, "-m", "collab", "serve"],
        env={**os.environ, "COLLAB_PORT": "0", "COLLAB_DATABASE": url(database)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert address is not None
        assert address[1] != "0"
        assert str(database) in line
        assert "Ctrl+C" in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert database.exists()


def test_options_in_the_environment_can_be_wrong_too() -> None:
    result = collab("serve", environment={"COLLAB_PORT": "eighty"})
    assert "eighty" in complaint(result)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    with servers.running(tmp_path) as server:
        with Editor(f"{server.ws_url}/a") as editor:
            editor.type("x")
            editor.save()
        server.process.send_signal(number)
        assert server.process.wait(20) == 0
        assert server.log() == ""


def test_it_tells_who_asks_that_it_is_well(tmp_path: Path) -> None:
    with servers.running(tmp_path) as server:
        for path in ("/livez", "/readyz", "/"):
            with urlopen(f"{server.url}{path}", timeout=20) as response:
                assert response.status == 200


def test_it_does_not_say_what_nobody_asked(tmp_path: Path) -> None:
    with servers.running(tmp_path) as server, Editor(f"{server.ws_url}/a") as editor:
        editor.type("x")
        editor.save()
        assert server.log() == ""
