"""A collaborative-editing server for Yjs clients, on one port, with a durable log.

::

    from collab import Collab

    collab = Collab(database="sqlite:///collab.db")   # an ASGI application
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import Collab
    from .room import Limits

__version__ = "0.1.0"

__all__ = ["Collab", "Limits"]


def __getattr__(name: str) -> object:
    # Importing the server takes half a second, which a snapshot's process needn't pay.
    if name == "Collab":
        from .app import Collab

        return Collab
    if name == "Limits":
        from .room import Limits

        return Limits
    raise AttributeError(name)
