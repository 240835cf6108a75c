"""An application for tests that hears its clients, and speaks to them.

::

    uvicorn tests.interop.hall:app
    POST /broadcast?document=notes&payload=hello    to all who have it open
    POST /tokens?document=notes                     to all who have it open
    POST /verdict?token=ann&verdict=read:ann        what a token is good for now
    GET /heard                                      what clients said
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from collab import Attempt, Collab, Grant

from .door import judge

verdicts: dict[str, str] = {}
said: list[tuple[str, str, str]] = []


async def authorize(attempt: Attempt) -> Grant:
    """Judge a token by what was said of it last, or by what it says."""
    return judge(verdicts.get(attempt.token, attempt.token))


def on_stateless(document: str, payload: str, grant: Grant) -> None:
    """Keep what a client says."""
    said.append((document, payload, grant.user))


collab = Collab(os.environ["DATABASE"], authorize=authorize, on_stateless=on_stateless)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the documents with the application."""
    async with collab:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/broadcast")
async def broadcast(document: str, payload: str) -> None:
    """Tell everybody who has a document open."""
    collab.broadcast_stateless(document, payload)


@app.post("/tokens")
async def tokens(document: str) -> None:
    """Ask everybody who has a document open for their tokens."""
    collab.request_tokens(document)


@app.post("/verdict")
async def verdict(token: str, verdict: str) -> None:
    """Say what a token is good for from now on."""
    verdicts[token] = verdict


@app.get("/heard")
async def heard() -> list[tuple[str, str, str]]:
    """What clients said so far: the document, what it was, and the user."""
    return said


app.mount("/collab", collab)
