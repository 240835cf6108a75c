"""A FastAPI application with notes that people write together.

::

    uvicorn main:app --timeout-graceful-shutdown 10
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from collab import Collab

collab = Collab(os.environ.get("DATABASE", "sqlite:///notes.db"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the documents with the application, and save them with it."""
    async with collab:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/", response_class=HTMLResponse)
def notes() -> str:
    """Our own page; each note opens in the editor that comes with Collab."""
    links = [
        f'<li><a href="/collab/?doc=notes/{quote(name)}">{name}</a>'
        for name in ("shopping", "holidays", "house rules")
    ]
    head = '<!doctype html><title>Notes</title><link rel="icon" href="data:,">'
    return f"{head}<h1>Notes</h1><ul>{''.join(links)}</ul>"


# Editors of your own connect with y-websocket:
#   new WebsocketProvider(`ws://${location.host}/collab/ws`, "notes/shopping", doc)
app.mount("/collab", collab)
