"""What tests share: one event loop, servers of others, browsers, unhurried examples."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from playwright.sync_api import Browser

from collab.store import Store
from tests import stores
from tests.databases import DatabaseServer, MariaDB, Postgres, ServerMissing
from tests.nginx import Nginx, StartNginx
from tests.pages import browsing
from tests.stores import KINDS
from tests.tabs import serving_page

# A busy machine is slow, not wrong. The blob reproduces a failure elsewhere.
settings.register_profile("collab", deadline=None, print_blob=True)
settings.load_profile("collab")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


StartServer = Callable[..., DatabaseServer]

Started = TypeVar("Started")


def start(kind: Callable[..., Started], *arguments: Any, **options: Any) -> Started:
    try:
        return kind(*arguments, **options)
    except ServerMissing as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def postgres() -> Iterator[DatabaseServer]:
    """A PostgreSQL server that many tests use: make a database, and let it run."""
    with start(Postgres) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[DatabaseServer]:
    """A MariaDB server that many tests use: make a database, and let it run."""
    with start(MariaDB) as server:
        yield server


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start a server of one's own, to be stopped, killed or paused.

    ``start_server(Postgres)``, with the arguments of that class.
    """
    with ExitStack() as stack:
        yield lambda kind, **options: stack.enter_context(start(kind, **options))


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[StartNginx]:
    """Start nginx with a configuration."""
    with ExitStack() as stack:
        yield lambda sites: stack.enter_context(start(Nginx, tmp_path, sites))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, as people have it."""
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is that opens a document with the npm package."""
    with serving_page(tmp_path_factory.mktemp("page")) as site:
        yield site


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database, one after the other."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind, without tables."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'collab.db'}"
    server: DatabaseServer = request.getfixturevalue(kind)
    return server.create_database()


@pytest.fixture(scope="session")
def prepared() -> dict[str, str]:
    """A database of each kind that has tables, since making them takes a while."""
    return {}


@pytest.fixture
def store(
    kind: str,
    prepared: dict[str, str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Store]:
    """A store without documents, in a database of each kind."""
    if kind not in prepared:
        if kind == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'collab.db'}"
        else:
            server: DatabaseServer = request.getfixturevalue(kind)
            url = server.create_database()
        stores.opened(url).close()
        prepared[kind] = url
    url = prepared[kind]
    if kind == "sqlite":
        path = shutil.copy(url.removeprefix("sqlite:///"), tmp_path / "collab.db")
        url = f"sqlite:///{path}"
    else:
        stores.empty(url)
    store = stores.opened(url)
    yield store
    store.close()


def certify(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for this machine, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    command += " -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    # Python 3.13 wants to know what the key of an authority is for.
    command += " -addext keyUsage=critical,digitalSignature,keyCertSign"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of a server's certificate and its key."""
    return certify(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def strange_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Another one for the same names, which nobody uses."""
    return certify(tmp_path_factory.mktemp("tls"))
