"""A collaborative-editing server for Yjs clients, on one port, with a durable log.

::

    from collab import Collab

    collab = Collab(database="sqlite:///collab.db")   # an ASGI application
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import Collab
    from .auth import Access, AnyOf, Attempt, Grant
    from .errors import AccessDenied
    from .limits import Limits
    from .origins import Origins
    from .proxies import Proxies
    from .tokens import Tokens
    from .webhook import Webhook

__version__ = "0.1.0"

__all__ = [
    "Access",
    "AccessDenied",
    "AnyOf",
    "Attempt",
    "Collab",
    "Grant",
    "Limits",
    "Origins",
    "Proxies",
    "Tokens",
    "Webhook",
]

_HOMES = {
    "Access": "auth",
    "AccessDenied": "errors",
    "AnyOf": "auth",
    "Attempt": "auth",
    "Collab": "app",
    "Grant": "auth",
    "Limits": "limits",
    "Origins": "origins",
    "Proxies": "proxies",
    "Tokens": "tokens",
    "Webhook": "webhook",
}


def __getattr__(name: str) -> object:
    # Importing the server takes half a second, which a snapshot's process needn't pay.
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
