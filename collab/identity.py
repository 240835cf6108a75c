"""Who somebody is in presence: as they say, or as we know.

A state is what a client makes of it; by convention its ``user`` says who that is. We
know the account and the name that access was given to. Either these are put in place of
what is said, or what says otherwise is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

State: TypeAlias = dict[str, Any]

Amend: TypeAlias = Callable[[State], State | None]
"""Makes of a state what others are shown; ``None`` is nothing."""

WAYS = ("off", "stamp", "verify")
"""What may be done with what people say of themselves."""


def check_way(way: str) -> str:
    """Return a way that there is.

    Raises:
        ValueError: If there is none of that name.
    """
    if way not in WAYS:
        raise ValueError(f"presence is of these: {', '.join(WAYS)}; not {way!r}")
    return way


def amend_by(way: str, account: str, name: str) -> Amend | None:
    """What is done with the states of somebody; ``None`` if that is nothing."""
    match way:
        case "stamp":
            return partial(stamp, account, name)
        case "verify":
            return partial(verify, account, name)
    return None


def stamp(account: str, name: str, state: State) -> State:
    """Say in a state whose it is, and keep all else, as the colour.

    Who has no account has no id, and a name of their own choice.
    """
    said = state.get("user")
    user = dict(said) if isinstance(said, dict) else {}
    user.pop("id", None)
    if account:
        user["id"] = account
    if name or account:
        user["name"] = name or account
    if not user and "user" not in state:
        return state
    return {**state, "user": user}


def verify(account: str, name: str, state: State) -> State | None:
    """Leave out a state that says that it is somebody else's."""
    user = state.get("user")
    if user is None:
        return state
    if not isinstance(user, dict):
        return None
    if "id" in user and (not account or user["id"] != account):
        return None
    known = name or account
    if known and "name" in user and user["name"] != known:
        return None
    return state
