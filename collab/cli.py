"""The command ``collab``."""

from __future__ import annotations

import asyncio
import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import click
import uvicorn

from . import __version__
from .app import Collab
from .errors import CollabError
from .handshake import http_class
from .history import Retention
from .hub import LET_GO
from .identity import WAYS
from .limits import Limits
from .origins import Origins
from .proxies import Proxies
from .redaction import REDACTION
from .tools import COMMANDS
from .tools.authentication import WAYS as AUTHENTICATION
from .tools.authentication import authentication_options, authorize_of
from .tools.common import DATABASE, explained, history_option
from .websocket import protocol_class

logger = logging.getLogger("collab.cli")

STACK = 256 * 1024 * 1024
"""Bytes of address space for the stack of the thread that runs everything: pycrdt
recurses where documents are nested, and dies of a small one."""

# A panic of pycrdt costs 95 ms if it prints a backtrace, and 0.1 ms if it doesn't.
os.environ.setdefault("RUST_BACKTRACE", "0")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="collab")
def main() -> None:
    """A collaborative-editing server for Yjs clients.

    An edit that it acknowledges is on disk. Start one and open its demo page:

    \b
        collab serve

    The other commands look after documents, beside a server that runs or without one.
    """


for command in COMMANDS:
    main.add_command(command)


def _check_origins(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        Origins(*value)
    except ValueError as exc:
        raise click.BadParameter(f"{exc}.") from exc
    return value


def _read_proxies(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> Proxies:
    try:
        return Proxies(*value)
    except ValueError as exc:
        raise click.BadParameter(f"{exc}.") from exc


def _read_limits(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> Limits:
    if "help" in value:
        click.echo(Limits.explain())
        context.exit()
    try:
        return Limits.parse(value)
    except ValueError as exc:
        raise click.BadParameter(f"{exc}. `--limit help` lists them.") from exc


@main.command(context_settings={"auto_envvar_prefix": "COLLAB"})
@click.option("--host", default="127.0.0.1", show_default=True, help="Address.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port for everything: WebSockets, health checks, the demo page. 0 takes a "
    "free one and prints it.",
)
@click.option(
    "--database",
    default=DATABASE,
    show_default=True,
    help="Where documents are kept. sqlite:///FILE is relative to here, "
    "sqlite:////FILE is absolute; postgresql://USER:PASSWORD@HOST/DATABASE and "
    "mysql://USER:PASSWORD@HOST/DATABASE are servers.",
)
@history_option
@click.option(
    "--no-migrate",
    is_flag=True,
    help="Leave the tables as they are: refuse to start if `collab db upgrade` is "
    "needed.",
)
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificate chain (PEM). Serves https and wss.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private key of the certificate (PEM).",
)
@authentication_options
@click.option(
    "--presence-user",
    type=click.Choice(WAYS),
    default="off",
    show_default=True,
    help="Whether people are who they say in presence (`user`): stamp puts the account "
    "and name there that access was given to, verify hides what says otherwise.",
)
@click.option(
    "--allow-anonymous",
    is_flag=True,
    help="Let anybody who can reach this server read and change every document. "
    "Needed to serve beyond this machine if nobody is asked who they are.",
)
@click.option(
    "--allowed-origin",
    "allowed_origins",
    envvar="COLLAB_ALLOWED_ORIGIN",
    metavar="ORIGIN",
    multiple=True,
    callback=_check_origins,
    help="Web pages that may come, besides this server's own: https://app.example.com, "
    "https://*.example.com for all of subdomains, * for all that bring no cookies. "
    "Can be repeated. Without it, pages of others may come with a token and without "
    "cookies, and not at all if nobody is asked who they are.",
)
@click.option(
    "--trusted-proxy",
    "proxies",
    envvar="COLLAB_TRUSTED_PROXY",
    metavar="ADDRESS",
    multiple=True,
    callback=_read_proxies,
    help="A proxy, or a network such as 10.0.0.0/8, that says in X-Forwarded-For, or "
    "in Forwarded, for whom it speaks. Can be repeated.",
)
@click.option(
    "--limit",
    "limits",
    envvar="COLLAB_LIMIT",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_read_limits,
    help="What clients may use, as in message_rate=500 or document_size=128MiB. Can be "
    "repeated; `--limit help` lists them.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="The least that is worth a line.",
)
def serve(
    host: str,
    port: int,
    database: str,
    retention: Retention,
    no_migrate: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    presence_user: str,
    allow_anonymous: bool,
    allowed_origins: tuple[str, ...],
    proxies: Proxies,
    limits: Limits,
    log_level: str,
    **options: Any,
) -> None:
    """Run the server.

    Editors connect with any provider of y-websocket or Hocuspocus:

    \b
        new WebsocketProvider("ws://localhost:8000/ws", "my-document", doc)
        new HocuspocusProvider({ url: "ws://localhost:8000/ws", name: "my-document" })

    Each option can also be set in the environment: COLLAB_PORT for --port.
    """
    logging.basicConfig(
        level=log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(REDACTION)  # Whatever library it is that logs something.
    for noisy in ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    authorize = authorize_of(options)
    _check_open(host, authorize is None, allow_anonymous)
    _allow_many_sockets()
    listener = _listen(host, port)
    if allow_anonymous:
        logger.warning("whoever reaches %s may read and change every document", host)
    with explained():
        collab = Collab(
            database,
            history=str(retention),
            migrate=not no_migrate,
            authorize=authorize,
            limits=limits,
            origins=Origins(
                *allowed_origins, local=authorize is None and not allow_anonymous
            ),
            proxies=proxies,
            presence_user=presence_user,
        )
    config = uvicorn.Config(
        collab,
        ws=protocol_class(collab.hub),
        http=http_class(limits),
        proxy_headers=False,  # Whom it trusts would be known to it alone.
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )
    try:
        config.load()
    except OSError as exc:  # ssl.SSLError is one.
        raise click.ClickException(
            f"Cannot use the certificate {tls_cert} with the key {tls_key}: {exc}."
        ) from exc
    scheme = "http" if tls_cert is None else "https"
    shown = f"[{host}]" if ":" in host else host
    address = f"{scheme}://{shown}:{listener.getsockname()[1]}"
    _run(Program(collab, uvicorn.Server(config), listener, f"{address}/"))


def _check_open(host: str, is_open: bool, allowed: bool) -> None:
    """Complain if others are let in without being asked, unless that is wanted.

    Raises:
        click.UsageError: If nobody said that it is, or if both were said.
    """
    if allowed and not is_open:
        raise click.UsageError(
            "--allow-anonymous lets anybody in who is not asked who they are, and here "
            "everybody is asked. Leave it out (or COLLAB_ALLOW_ANONYMOUS)."
        )
    if is_open and not allowed and not _is_loopback(host):
        raise click.UsageError(
            f"Anybody who can reach {host} could read and change every document. Say "
            f"who is let in with {AUTHENTICATION}; or, if anybody may, add "
            "--allow-anonymous."
        )


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback
    except ValueError:
        return host == "localhost"


def _allow_many_sockets() -> None:
    """Open as many files as we may: 1,024 are usual, and each connection is one."""
    with suppress(ImportError, OSError, ValueError):
        resource = import_module("resource")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            message = (
                f"Port {port} on {host} is in use. Stop what uses it, or choose "
                "another with --port."
            )
        elif exc.errno == errno.EACCES:
            message = (
                f"Port {port} needs privileges. Choose one above 1023 with --port."
            )
        else:
            message = f"Cannot listen on {host}, port {port}: {exc.strerror or exc}."
        raise click.ClickException(message) from exc


class Program:
    """A server, in a thread of its own."""

    def __init__(
        self,
        collab: Collab,
        server: uvicorn.Server,
        listener: socket.socket,
        address: str,
    ) -> None:
        self.collab = collab
        self.server = server
        self.listener = listener
        self.address = address
        self.failure: CollabError | None = None
        self.finished = False
        """Whether it came to its end; the thread has said it if it didn't."""

    def run(self) -> None:
        """Serve until the server is told to exit."""
        factory = self.server.config.get_loop_factory()
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(self._serve())
        self.finished = True

    async def _serve(self) -> None:
        try:
            async with self.collab:
                click.echo(
                    f"collab {__version__} is serving {self.address} "
                    f"(documents in {self.collab.hub.store}). Ctrl+C stops it."
                )
                sys.stdout.flush()
                # What is here now stays. Rooms make no cycles; a full collection over
                # all they hold would stop everything for a while.
                gc.collect()
                gc.freeze()
                gc.set_threshold(50_000, 50, 100)
                # The journal's thread needs the interpreter for moments, but often; by
                # default it waits 5 ms for each, and authors wait with it.
                sys.setswitchinterval(0.0005)
                await self.server.serve(sockets=[self.listener])
        except CollabError as exc:
            self.failure = exc


def _run(program: Program) -> None:
    """Run a program in a thread with a large stack; signals stay in this one."""
    threading.stack_size(STACK)
    thread = threading.Thread(target=program.run, name="collab")
    thread.start()
    threading.stack_size(0)

    def stop(number: int, stack: FrameType | None) -> None:
        if program.server.should_exit:
            program.server.force_exit = True
        program.server.should_exit = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while thread.is_alive():
        thread.join(1.0)  # Windows hears no Ctrl+C while it waits without an end.
    if program.failure is not None:
        with explained():
            raise program.failure
    code = 0 if program.finished and not program.collab.hub.lost else 1
    _leave_threads(code)
    sys.exit(code)


def _leave_threads(code: int) -> None:
    """End at once if a thread waits for a database that does not answer.

    Python would wait for it, for ever.
    """
    until = time.monotonic() + LET_GO
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                logging.shutdown()
                sys.stdout.flush()
                os._exit(code)
