"""The keys that an identity provider publishes at a URL, as they change. (RFC 7517)"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic

from .errors import Unavailable
from .keys import PUBLIC, BadKey, Key, Keyring, read_key_set
from .outgoing import Outgoing, Unreachable

logger = logging.getLogger("collab.jwks")

FETCH_TIME = 5.0
"""Seconds that an answer may take."""

FRESH = 300.0
"""Seconds after which keys are fetched anew, when a token is to be verified."""

KEPT = 24 * 3600.0
"""Seconds that keys are good for while they cannot be fetched anew."""

PAUSE = 10.0
"""Seconds between two attempts, whatever tokens name as their keys."""


class PublishedKeys(Keyring):
    """Keys at a URL: fetched when they are needed, and again when one is unknown."""

    def __init__(self, url: str) -> None:
        """Prepare; nothing is fetched yet.

        Raises:
            BadURL: If it is not a URL that may be asked.
        """
        self.outgoing = Outgoing(url, FETCH_TIME)
        self.keys: Sequence[Key] = ()
        self.fetches = 0
        """How often they were asked for."""
        self._fetched: float | None = None
        """When they were, the last time that it succeeded."""
        self._tried: float | None = None
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Fetch them, so that who comes first needn't wait; if not, others will."""
        await self._fetch()

    async def close(self) -> None:
        """Let go of everything."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self.outgoing.close()

    async def find(self, algorithm: str, kid: str) -> Sequence[Key]:
        """The keys that may have signed a token.

        Raises:
            Unavailable: If that is not known now.
        """
        if algorithm not in PUBLIC:
            return ()
        now = monotonic()
        if self._fetched is None or now - self._fetched > KEPT:
            await self._fetch_soon(now)
        elif now - self._fetched > FRESH:
            self._begin(now)  # Nobody waits: those that we have are good.
        fitting = self._fitting(algorithm, kid)
        if not fitting:
            # It may be signed with a key that is newer than what we know.
            await self._fetch_soon(now)
            fitting = self._fitting(algorithm, kid)
        if not fitting and (self._failed or self._fetched is None):
            raise Unavailable("the keys cannot be fetched")
        return fitting

    def _fitting(self, algorithm: str, kid: str) -> list[Key]:
        now = monotonic()
        if self._fetched is None or now - self._fetched > KEPT:
            return []
        return [key for key in self.keys if key.fits(algorithm, kid)]

    async def _fetch_soon(self, now: float) -> None:
        """Fetch them, unless that was tried just now; wait for who is at it."""
        self._begin(now)
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    def _begin(self, now: float) -> None:
        tried = self._tried is not None and now - self._tried < PAUSE
        if self._fetching is None and not tried:
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        self._tried = monotonic()
        self.fetches += 1
        try:
            answer = await self.outgoing.get()
            if answer.status != 200:
                raise Unreachable(f"status {answer.status}")
            keys = read_key_set(answer.body)
            if not keys:
                raise Unreachable("it has no key that can be used")
        except (Unreachable, BadKey) as exc:
            if not self._failed:
                message = "cannot fetch keys from %s: %s; trying again"
                logger.error(message, self.outgoing, exc)
            self._failed = True
        else:
            if self._failed:
                logger.info("keys from %s can be fetched again", self.outgoing)
            self.keys, self._fetched, self._failed = keys, self._tried, False
        finally:
            self._fetching = None
