"""What is shipped works where nothing else is: the wheel, the sdist, the container.

No Docker engine is needed: the commands are read from the Dockerfile and run in a clean
directory, with its paths moved there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from websockets.sync.client import connect

# One process builds the image, for all of these.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.xdist_group("packaging"),
]

ROOT = Path(__file__).parents[1]
USER = 10001
"""The user of the container, who owns nothing but the data."""

FRAME_A = bytes.fromhex("00020b 0101010004010174014100")
"""Yjs, client 1: insert "A" into the text "t", as y-websocket sends it."""

EMPTY_STEP_1 = bytes.fromhex("00000100")
STEP_2_A = bytes.fromhex("00010b 0101010004010174014100")


# --- what the Dockerfile says


@dataclass(frozen=True)
class Stage:
    """One stage of the Dockerfile: its instructions, in order."""

    instructions: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == name]

    def one(self, name: str) -> str:
        (rest,) = self.all(name)
        return rest


def stages() -> list[Stage]:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    found: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            found.append(Stage([]))
        found[-1].instructions.append((word, rest))
    return found


BUILD, RUN = stages()
HEALTHCHECK: list[str] = json.loads(RUN.one("HEALTHCHECK").partition("CMD ")[2])
ENTRYPOINT: list[str] = json.loads(RUN.one("ENTRYPOINT"))


def composed() -> dict[str, str]:
    """The environment that ``compose.yaml`` adds."""
    lines = re.findall(
        r'^ {6}(COLLAB_\w+): "(.*)"$', (ROOT / "compose.yaml").read_text(), re.MULTILINE
    )
    return dict(lines)


# --- the locks


def pins(lock: str) -> dict[str, str]:
    """The entries of a lock file, markers and hashes included, by package."""
    entries = re.split(r"\n(?=\w)", (ROOT / lock).read_text().strip())
    return {entry.partition("==")[0]: entry for entry in entries}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"]]


def test_the_container_gets_the_packages_that_were_tested() -> None:
    tested = pins("requirements.lock")
    shipped = pins("requirements-runtime.lock")
    assert shipped == {name: tested[name] for name in shipped}
    assert "pytest" in tested
    assert "pytest" not in shipped


def test_the_locks_hold_what_the_project_asks_for() -> None:
    shipped = pins("requirements-runtime.lock")
    for requirement in declared():
        version = re.match(r".+?==([^ ]+)", shipped[requirement.name])
        assert version
        assert requirement.specifier.contains(version[1]), requirement


def test_no_lock_names_a_host() -> None:
    command = ["git", "ls-files", "*.lock", "*package-lock.json"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True)
    for name in listed.splitlines():
        text = (ROOT / name).read_text()
        assert '"resolved": "http' not in text, name
        assert name.endswith(".json") or "://" not in text, name


# --- the image


def test_compose_asks_for_health_as_the_image_does() -> None:
    lines = re.findall(r"test: (\[.+\])", (ROOT / "compose.yaml").read_text())
    assert [json.loads(line) for line in lines] == [["CMD", *HEALTHCHECK]]


def test_the_container_runs_as_a_user_who_owns_only_the_data() -> None:
    assert f"--uid {USER} " in RUN.all("RUN")[0]
    assert RUN.one("USER") == "collab"
    assert RUN.all("COPY") == ["--from=build /opt/collab /opt/collab"]
    assert RUN.one("VOLUME") == "/data"


def stranger() -> tuple[str, int | None]:
    """A Python, and a user to run it who is not root (``None``: who we are)."""
    own = os.path.realpath(sys.executable)
    if os.geteuid() != 0:
        return own, None
    others = (shutil.which(f"python3{minor}") for minor in ("", ".13", ".12", ".11"))
    probe = (
        "import sqlite3, ssl, sys, venv, ensurepip; assert sys.version_info > (3, 11)"
    )
    for python in (own, "/usr/bin/python3", "/usr/local/bin/python3", *others):
        if python and os.path.exists(python):
            try:
                subprocess.run(
                    [python, "-c", probe], user=USER, check=True, capture_output=True
                )
            except (OSError, subprocess.CalledProcessError):
                continue
            return python, USER
    # Every Python lies in root's home: nobody else can run one on this machine.
    return own, None


@dataclass(frozen=True)
class Image:
    """What ``docker build`` would have made, in a directory."""

    source: Path
    prefix: Path
    data: Path
    user: int | None

    @property
    def environment(self) -> dict[str, str]:
        settings = [word for line in RUN.all("ENV") for word in line.split()]
        environment = dict(word.split("=", 1) for word in settings)
        return (
            environment
            | composed()
            | {
                "PATH": f"{self.prefix}/bin:/usr/bin:/bin",
                "COLLAB_DATABASE": self.here(environment["COLLAB_DATABASE"]),
            }
        )

    def here(self, word: str) -> str:
        """A word that names the volume, with our directory instead."""
        return word.replace("/data/", f"{self.data}/")

    def command(self, line: list[str], port: int) -> list[str]:
        program, *words = line
        return [
            str(self.prefix / "bin" / program),
            *(
                self.here(word.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
                for word in words
            ),
        ]

    def run(self, *line: str, port: int = 0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(list(line), port),
            cwd="/",
            env=self.environment,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            capture_output=True,
            text=True,
        )

    @contextmanager
    def serving(self) -> Iterator[int]:
        """The container runs, ready, on the port that this yields; then it stops."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [*self.command(ENTRYPOINT, port), "--port", str(port)],
            cwd="/",
            env=self.environment,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
        )
        try:
            deadline = time.monotonic() + 30
            while self.run(*HEALTHCHECK, port=port).returncode != 0:
                assert server.poll() is None, "the server stopped"
                assert time.monotonic() < deadline, "the server is not ready"
                time.sleep(0.1)
            yield port
            server.send_signal(signal.Signals[RUN.one("STOPSIGNAL")])
            assert server.wait(timeout=10) == 0
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The commands of the Dockerfile, run on a clean clone of what is committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    python, user = stranger()
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "npm_", "VIRTUAL_ENV"))
    }
    with tempfile.TemporaryDirectory(prefix="collab-image-") as directory:
        base = Path(directory)
        base.chmod(0o755)
        made = Image(base / "src", base / "opt", base / "data", user)
        subprocess.run(["git", "clone", "--quiet", ROOT, made.source], check=True)
        for line in [*BUILD.all("RUN"), *RUN.all("RUN")]:
            if line.startswith(("apt-get ", "useradd ")):
                continue
            if line.startswith("install -d") and user is None:
                line = "install -d -m 700 /data"
            moved = (
                line.replace("/opt/collab", str(made.prefix))
                .replace("/data", str(made.data))
                .replace("python -m venv", f"{python} -m venv")
            )
            subprocess.run(
                moved,
                shell=True,
                check=True,
                cwd=made.source,
                env={**inherited, "PYTHON": python, "PIP_QUIET": "1"},
            )
        if user is None:
            subprocess.run(["chmod", "-R", "a-w", made.prefix], check=True)
        try:
            yield made
        finally:
            subprocess.run(["chmod", "-R", "u+w", made.prefix], check=True)


def fetch(port: int, path: str) -> tuple[str, bytes]:
    """The content type and the body of what the server has at ``path``."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return response.headers["Content-Type"], response.read()


def document(port: int, *frames: bytes, until: bytes) -> list[bytes]:
    """Say ``frames`` to a document and return what it says, up to ``until``."""
    address = f"ws://127.0.0.1:{port}/ws/packaging"
    heard: list[bytes] = []
    with connect(address, proxy=None) as client:
        for frame in frames:
            client.send(frame)
        while until not in heard:
            heard.append(client.recv(timeout=10, decode=False))
    return heard


def contents(image: Image, pattern: str) -> list[str]:
    """The names in the one archive of ``dist/`` that matches."""
    (archive,) = (image.source / "dist").glob(pattern)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return sorted(wheel.namelist())
    with tarfile.open(archive) as sdist:
        return sorted(name.partition("/")[2] for name in sdist.getnames())


def test_every_command_of_the_dockerfile_is_run_here() -> None:
    told = [line.split()[0] for stage in (BUILD, RUN) for line in stage.all("RUN")]
    assert told == [
        "apt-get",
        "make",
        "python",
        ".venv/bin/python",
        ".venv/bin/python",
        "useradd",
        "install",
    ]


def test_the_wheel_holds_the_page_and_the_migrations(image: Image) -> None:
    names = contents(image, "*.whl")
    committed = subprocess.check_output(
        ["git", "ls-files", "migrations"], cwd=image.source, text=True
    )
    assert {f"collab/{name}" for name in committed.splitlines()} <= set(names)
    assert "collab/static/demo/index.html" in names
    assert "collab/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "web/"))]


def test_the_sdist_holds_the_built_page(image: Image) -> None:
    names = contents(image, "*.tar.gz")
    assert "collab/static/demo/index.html" in names
    assert "migrations/env.py" in names
    assert not [name for name in names if "node_modules" in name]


def test_the_wheel_of_the_sdist_is_the_wheel(image: Image, tmp_path: Path) -> None:
    (archive,) = (image.source / "dist").glob("*.tar.gz")
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    (unpacked,) = tmp_path.iterdir()
    builder = str(image.source / ".venv/bin/python")
    command = [builder, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=unpacked, check=True, capture_output=True)
    (rebuilt,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(rebuilt) as wheel:
        assert sorted(wheel.namelist()) == contents(image, "*.whl")


def test_the_command_tells_its_version(image: Image) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    said = image.run("collab", "--version")
    assert said.returncode == 0
    assert version in said.stdout


def test_the_user_cannot_write_the_code(image: Image) -> None:
    attempt = "import pathlib, collab; pathlib.Path(collab.__file__).write_text('')"
    assert "PermissionError" in image.run("python", "-c", attempt).stderr


def test_the_server_is_ready_and_shows_its_page(image: Image) -> None:
    with image.serving() as port:
        fetch(port, "/livez")
        fetch(port, "/readyz")
        kind, page = fetch(port, "/")
        assert kind.startswith("text/html")
        assets = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page.decode())
        assert assets
        for asset in assets:
            kind, body = fetch(port, "/" + asset.removeprefix(".").lstrip("/"))
            assert ("javascript" if asset.endswith(".js") else "css") in kind
            assert body


def test_it_does_not_start_until_it_knows_who_is_let_in(image: Image) -> None:
    command = image.command(ENTRYPOINT, 0)
    environment = {k: v for k, v in image.environment.items() if k not in composed()}
    result = subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert "--jwt-secret" in result.stderr
    assert "--allow-anonymous" in result.stderr


def test_the_health_check_fails_when_nobody_answers(image: Image) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert image.run(*HEALTHCHECK, port=port).returncode == 1


def test_an_acknowledged_edit_survives_a_restart(image: Image) -> None:
    with image.serving() as port:
        document(port, EMPTY_STEP_1, FRAME_A, until=FRAME_A)
    with image.serving() as port:
        heard = document(port, EMPTY_STEP_1, until=STEP_2_A)
    assert STEP_2_A in heard
    assert (image.data / "collab.db").exists()
