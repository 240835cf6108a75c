"""The application is asked over HTTP who may open what: see ``docs/auth.md``."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

from .auth import Access, Attempt, Authenticator, Grant, is_who
from .errors import AccessDenied, Unavailable
from .limits import is_plain
from .outgoing import Answer, BadAnswer, Outgoing, Unreachable

logger = logging.getLogger("collab.webhook")

TIMEOUT = 5.0
"""Seconds that an answer may take."""

CACHE = 10.0
"""Seconds that a yes is remembered..."""

CACHE_NO = 2.0
"""...and a no, at most: somebody may just have been let in."""

MAX_CACHED = 10_000
"""Verdicts that are remembered."""

FAILURES = 5
"""In a row, and nothing but them while they lasted, before nobody is asked for..."""

REST = 1.0
"""...so many seconds; twice as long each time, up to..."""

MAX_REST = 30.0
"""...these. Then one is asked about, and if that succeeds, all are."""

RESERVED = re.compile(
    "host|connection|content-.*|transfer-encoding|te|trailer|upgrade|keep-alive|expect"
    "|proxy-.*|accept-encoding|sec-websocket-.*|webhook-.*"
)
"""Headers that are ours, or about the connection: they are not passed on."""

_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # (RFC 9110, section 5.6.2)


class Breaker:
    """Knows when to leave a server alone that doesn't answer."""

    def __init__(self) -> None:
        self.failures = 0
        self.until: float | None = None
        """Until when nobody is asked; ``None`` while all are."""
        self._rest = REST
        self._succeeded = 0.0
        self._trying = False

    def admits(self, now: float) -> bool:
        """Whether somebody may ask now; who may tells how it went."""
        if self.until is None:
            return True
        if now < self.until or self._trying:
            return False
        self._trying = True
        return True

    def succeed(self, now: float) -> bool:
        """Note an answer; return whether there was none before."""
        recovered = self.until is not None
        self.failures, self.until, self._rest = 0, None, REST
        self._succeeded, self._trying = now, False
        return recovered

    def fail(self, began: float, now: float) -> bool:
        """Note that there was none; return whether nobody is asked from now on.

        It doesn't count if others were answered meanwhile: what one asks about may be
        what takes so long, and nobody can have the door closed for others.
        """
        if self._trying:
            self._trying = False
            self._rest = min(MAX_REST, 2 * self._rest)
            self.until = now + self._rest
            return False
        if self.until is not None or self._succeeded >= began:
            return False
        self.failures += 1
        if self.failures < FAILURES:
            return False
        self.until = now + self._rest
        return True


@dataclass(slots=True)
class Verdict:
    """What was decided, or why not."""

    grant: Grant | None
    reason: str
    asked: int
    """In which order it was asked."""
    until: float
    """When it is forgotten."""


class Webhook(Authenticator):
    """Lets in whom the application lets in, which is asked at a URL.

    ::

        Collab(authorize=Webhook("http://app:8000/collab/authorize"))
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = TIMEOUT,
        cache: float = CACHE,
        forward: Sequence[str] = ("cookie",),
        secret: str | bytes | None = None,
    ) -> None:
        """Prepare; nothing is asked yet.

        ``timeout`` is in how many seconds an answer must be there, ``cache`` how many
        it is remembered. ``forward`` are the headers of the handshake that are passed
        on. With a ``secret``, requests are signed as Standard Webhooks are.

        Raises:
            BadURL: If the URL cannot be asked.
            ValueError: If something else cannot be used.
        """
        self.outgoing = Outgoing(url, timeout)
        if not 0 < timeout <= 9:
            raise ValueError(f"the timeout is up to 9 seconds, not {timeout:g}")
        if not 0 <= cache <= 3600:
            raise ValueError(f"verdicts are kept for up to an hour, not {cache:g} s")
        self.cache = cache
        self.forward = [name.lower() for name in forward]
        for name in self.forward:
            if RESERVED.fullmatch(name) or not _TOKEN.fullmatch(name):
                raise ValueError(f"the header {name!r} cannot be passed on")
        self.secret = None if secret is None else _secret(secret)
        self.breaker = Breaker()
        self.asked = 0
        """How often the application was asked."""
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[Verdict]] = {}
        self._renewals: set[asyncio.Task[Verdict]] = set()
        self._failing = False

    async def close(self) -> None:
        """Let go of everything."""
        tasks = [*self._flights.values(), *self._renewals]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.outgoing.close()

    async def __call__(self, attempt: Attempt) -> Grant:
        """Ask the application, unless it was just asked the same.

        Raises:
            AccessDenied: If it says no.
            Unavailable: If it doesn't say.
        """
        verdict = await self._find(attempt)
        if verdict.grant is None:
            raise AccessDenied(verdict.reason, "the application says no")
        return verdict.grant

    async def _find(self, attempt: Attempt) -> Verdict:
        passed = {name: attempt.headers.get(name) for name in self.forward}
        address = attempt.peer.rpartition(":")[0]
        question = [attempt.document, attempt.token, address, passed]
        # Whatever the application may decide by is in the key.
        key = hashlib.sha256(json.dumps(question).encode()).digest()
        if attempt.renewal:
            # What was asked before may have been decided before, too.
            task = asyncio.create_task(self._ask(key, attempt, address))
            self._renewals.add(task)
            task.add_done_callback(self._renewed)
            return await asyncio.shield(task)
        verdict = self._verdicts.get(key)
        if verdict is not None and monotonic() < verdict.until:
            self._verdicts.move_to_end(key)
            return verdict
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._ask(key, attempt, address))
            self._flights[key] = flight
            flight.add_done_callback(partial(self._landed, key))
        return await asyncio.shield(flight)

    def _landed(self, key: bytes, flight: asyncio.Task[Verdict]) -> None:
        del self._flights[key]
        _hear(flight)

    def _renewed(self, task: asyncio.Task[Verdict]) -> None:
        self._renewals.discard(task)
        _hear(task)

    async def _ask(self, key: bytes, attempt: Attempt, address: str) -> Verdict:
        began, issued_at = monotonic(), time.time()
        if not self.breaker.admits(began):
            raise Unavailable("the application that decides does not answer")
        self.asked += 1
        asked = self.asked
        body = json.dumps(
            {
                "document": attempt.document,
                "token": attempt.token,
                "address": address,
            }
        ).encode()
        try:
            answer = await self.outgoing.post(body, self._headers(attempt, body))
            if answer.status in (502, 503, 504):
                raise Unreachable(f"status {answer.status}")
            grant, reason = read_answer(answer)
            if grant is not None:
                grant = replace(grant, issued_at=issued_at)
        except BadAnswer as exc:
            self.breaker.succeed(monotonic())  # It is there.
            self._fail(str(exc), resting=False)
            raise Unavailable("the application that decides cannot decide") from exc
        except Unreachable as exc:
            self._fail(str(exc), self.breaker.fail(began, monotonic()))
            raise Unavailable("the application that decides does not answer") from exc
        except BaseException:
            self.breaker.fail(began, monotonic())
            raise
        recovered = self.breaker.succeed(monotonic())
        if self._failing or recovered:
            self._failing = False
            logger.info("%s answers again", self.outgoing)
        return self._remember(key, grant, reason, asked)

    def _fail(self, why: str, resting: bool) -> None:
        if not self._failing:
            logger.error("%s: %s; nobody is let in", self.outgoing, why)
        elif resting:
            logger.error("%s: %s; leaving it alone", self.outgoing, why)
        self._failing = True

    def _headers(self, attempt: Attempt, body: bytes) -> dict[str, str]:
        headers = {
            name: attempt.headers[name]
            for name in self.forward
            if name in attempt.headers
        }
        headers["content-type"] = "application/json"
        if self.secret is not None:
            # (https://www.standardwebhooks.com)
            number, now = f"msg_{secrets.token_hex(12)}", str(int(time.time()))
            content = f"{number}.{now}.".encode() + body
            digest = hmac.new(self.secret, content, "sha256").digest()
            headers["webhook-id"] = number
            headers["webhook-timestamp"] = now
            headers["webhook-signature"] = f"v1,{b64encode(digest).decode()}"
        return headers

    def _remember(
        self, key: bytes, grant: Grant | None, reason: str, asked: int
    ) -> Verdict:
        kept = self.cache if grant is not None else min(self.cache, CACHE_NO)
        if grant is not None and grant.expires_at is not None:
            kept = min(kept, max(0.0, grant.expires_at - time.time()))
        verdict = Verdict(grant, reason, asked, monotonic() + kept)
        known = self._verdicts.get(key)
        if known is None or known.asked < asked:
            self._verdicts[key] = verdict
            self._verdicts.move_to_end(key)
            if len(self._verdicts) > MAX_CACHED:
                self._verdicts.popitem(last=False)
        return verdict


def _hear(task: asyncio.Task[Verdict]) -> None:
    """Take note of how a task has ended, as who waited for it may be gone."""
    if not task.cancelled():
        task.exception()


def read_answer(answer: Answer) -> tuple[Grant | None, str]:
    """What an application has decided, and why if it is no.

    Raises:
        BadAnswer: If it doesn't say.
    """
    if answer.status in (401, 403, 404):
        return None, _reason(answer.body)
    if answer.status != 200:
        raise BadAnswer(f"status {answer.status}")
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadAnswer("an answer that is not a JSON object")
    access = value.get("access")
    if access == "none":
        return None, _reason(answer.body)
    if access not in [one.value for one in Access]:
        raise BadAnswer("an answer whose access is not read, write, admin or none")
    user, name = value.get("user", ""), value.get("name", "")
    if not all(is_who(text) for text in (user, name)):
        raise BadAnswer("an answer whose user or name is not a short text")
    return Grant(user, Access(access), name, _expires_at(value)), ""


def _expires_at(value: dict[str, Any]) -> float | None:
    expires_at = value.get("expires_at")
    if expires_at is None:
        return None
    if type(expires_at) not in (int, float) or not 0 < expires_at < 1e12:
        raise BadAnswer("an answer whose expires_at is not in seconds since 1970")
    return float(expires_at)


def _reason(body: bytes) -> str:
    """What to tell who is denied, if the application says so."""
    try:
        value = json.loads(body)
        reason = value["reason"]
    except (ValueError, RecursionError, TypeError, KeyError):
        reason = None
    known = isinstance(reason, str) and 0 < len(reason) <= 100 and is_plain(reason)
    return reason if known else "permission-denied"


def _secret(secret: str | bytes) -> bytes:
    text = secret.decode() if isinstance(secret, bytes) else secret
    try:
        value = (
            b64decode(text[6:], validate=True)
            if text.startswith("whsec_")
            else text.encode()
        )
    except Base64Error:
        raise ValueError("a secret that begins with whsec_ is base64 behind") from None
    if len(value) < 24:
        raise ValueError(f"the secret has {len(value)} bytes, and needs 24 at least")
    return value
