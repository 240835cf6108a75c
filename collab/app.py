"""``Collab``: the public object, an ASGI application."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from .asgi import serve_websocket
from .auth import Authorize
from .headers import PAGE, SafeHeaders
from .history import Retention
from .hub import Hub, OnStateless
from .identity import check_way
from .limits import Limits
from .origins import Origins
from .polling import Polling
from .proxies import Proxies
from .redaction import keep_logs_clean
from .revocations import revocation
from .store import Store

DEMO = Path(str(files("collab"))) / "static" / "demo"

NO_DEMO = """\
collab is running, but its demo page was not built.

Connect a provider of y-websocket or Hocuspocus to /ws, or build the page: `make web`.
"""

NOT_OPEN = (
    "Collab is not open: use `async with collab` in the application's lifespan, "
    "as a mounted application hears nothing of its server's lifespan."
)


class Collab:
    """A collaborative-editing server for any ASGI application.

    It opens its database as an async context manager, and is an application::

        collab = Collab(database="sqlite:///collab.db")

        @asynccontextmanager
        async def lifespan(app):
            async with collab:
                yield

        app = FastAPI(lifespan=lifespan)
        app.mount("/collab", collab)

    Served on its own, the server's lifespan events open and close it. It can be opened
    once, and belongs to the event loop that opened it.
    """

    def __init__(
        self,
        database: str = "sqlite:///collab.db",
        *,
        limits: Limits | None = None,
        history: str = "forever",
        migrate: bool = True,
        demo: bool = True,
        authorize: Authorize | None = None,
        on_stateless: OnStateless | None = None,
        origins: Origins | None = None,
        proxies: Proxies | None = None,
        presence_user: str = "off",
    ) -> None:
        """Prepare; nothing is opened yet.

        ``database`` is a URL: ``sqlite:///FILE`` is relative to the working directory,
        ``sqlite:////FILE`` is absolute, and ``sqlite://`` is in memory, where nothing
        is kept; ``postgresql://USER:PASSWORD@HOST/DATABASE`` and ``mysql://...`` are
        servers. ``history`` says how long edits are kept beside the documents
        themselves: ``forever``, ``none``, or an age such as ``30d`` or ``12h``.
        ``migrate`` brings the tables up to date, and ``demo`` puts the demo page at
        ``/``.

        ``authorize`` is asked about everybody who wants to open a document, and returns
        a :class:`Grant` or ``None``: a function, :class:`Tokens`, :class:`Webhook`, or
        :class:`AnyOf` some of these. Without it everybody may write everything.
        ``on_stateless`` is called with ``(document, payload, grant)`` for what a client
        says to the application and no document keeps.

        ``origins`` says which web pages may come, and ``proxies`` whose word counts for
        where a client is; a server that has resolved that itself needs none.

        ``presence_user`` is what is done with the ``user`` in people's presence:
        ``stamp`` puts the account and the name of their grant there, ``verify`` shows
        nobody a state that says otherwise, and ``off`` believes them.

        Raises:
            StoreError: If the database URL cannot be used.
            ValueError: If ``history`` or ``presence_user`` is nothing of that.
        """
        self.hub = Hub(
            Store(database),
            limits or Limits(),
            Retention.parse(history),
            migrate,
            authorize,
            on_stateless,
        )
        self.hub.reception.origins = origins or Origins()
        self.hub.reception.proxies = proxies or Proxies()
        self.hub.presence_user = check_way(presence_user)
        self._open = False
        routes: list[BaseRoute] = [
            Route("/ws", self._not_upgraded),
            Route("/ws/{name:path}", self._not_upgraded),
            Polling(self.hub).route(),
            Route("/livez", self._live),
            Route("/readyz", self._ready),
        ]
        if demo and DEMO.is_dir():
            routes.append(Mount("/", Page(directory=DEMO, html=True)))
        elif demo:
            routes.append(Route("/", self._no_demo))
        self._routes = SafeHeaders(Starlette(routes=routes))

    async def __aenter__(self) -> Self:
        """Open the database and start.

        Raises:
            StoreError: If the database cannot be opened, or is too new for us.
        """
        keep_logs_clean()
        await self.hub.open()
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Save what is unsaved, and close.

        If the database fails, that is tried for 10 s from when the server was told to
        stop. How many edits of which documents are lost then is logged.
        """
        await self.hub.close()

    def broadcast_stateless(self, document: str, payload: str) -> None:
        """Say something to all clients that have a document open in this process.

        At most once: who is not connected, or reads too slowly, misses it.
        """
        self.hub.broadcast(document, payload)

    def request_tokens(self, document: str) -> None:
        """Have clients of a document say again who they are; ``authorize`` decides.

        Providers of Hocuspocus from 3.3 on can be asked; others are left as they are.
        """
        self.hub.request_tokens(document)

    async def revoke(
        self,
        *,
        user: str | None = None,
        token: str | None = None,
        document: str | None = None,
        issued_before: float | None = None,
        until: float | None = None,
    ) -> int:
        """Take access away, from who is inside and who comes, on all servers.

        All that is given must be true of somebody: the ``user`` of their grant, its
        ``token_id`` (``jti``), that they open a ``document`` (a name or a pattern),
        that it was ``issued_before`` a time. Times are in seconds since 1970; ``until``
        is when it is over. Returns a number, to undo it.

        When this returns, who is inside in this process is sent away, with 4403; other
        processes follow within two seconds.

        Raises:
            ValueError: If nothing says who is meant, or something cannot be used.
            BadName: If the document is no name, and no pattern.
            StoreError: If the database does not take it: then nothing has happened.
        """
        made = revocation(user, token, document, issued_before, until)
        return await self.hub.revoking.add(made)

    async def undo_revocation(self, number: int) -> None:
        """Take a revocation back: whose access it was may come again.

        Raises:
            NotRevoked: If there is none of that number, or it is over.
            StoreError: If the database does not take it.
        """
        await self.hub.revoking.undo(number)

    async def kick(
        self, *, user: str | None = None, document: str | None = None
    ) -> None:
        """Send away who is inside, on all servers, once: nothing keeps them away.

        Raises:
            ValueError, BadName, StoreError: As :meth:`revoke` does.
        """
        made = revocation(user, document=document, kick=True)
        await self.hub.revoking.add(made)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI scope.

        Raises:
            RuntimeError: If it was never opened.
        """
        if not self._open and scope["type"] != "lifespan":
            raise RuntimeError(NOT_OPEN)
        match scope["type"]:
            case "lifespan":
                await self._live_through(receive, send)
            case "websocket":
                await serve_websocket(self.hub, WebSocket(scope, receive, send))
            case _:
                await self._routes(scope, receive, send)

    async def _live_through(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.__aenter__()
        except Exception as exc:
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})

    async def _not_upgraded(self, request: Request) -> Response:
        return PlainTextResponse(
            "This is a WebSocket endpoint.\n", 426, {"Upgrade": "websocket"}
        )

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def _ready(self, request: Request) -> Response:
        """Readiness: whether edits can be saved now."""
        hub = self.hub
        if hub.ready and not hub.overloaded:
            return JSONResponse({"status": "ready"})
        if hub.draining:
            return JSONResponse({"status": "draining"}, 503)
        if hub.overloaded:
            return JSONResponse({"status": "too many edits are unsaved"}, 503)
        return JSONResponse({"status": "edits cannot be saved"}, 503)

    async def _no_demo(self, request: Request) -> Response:
        return PlainTextResponse(NO_DEMO)


class Page(StaticFiles):
    """The files of a page. Those with a hash in their names never change."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The response to a request for a file."""
        response = await super().get_response(path, scope)
        response.headers.update(PAGE)
        response.headers["Cache-Control"] = (
            "public, max-age=31536000, immutable"
            if path.startswith("assets/") and response.status_code == 200
            else "no-cache"
        )
        return response
