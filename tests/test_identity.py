"""People are who they are in presence: stamped, or verified, on each way in."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from collab.auth import Attempt, Grant
from collab.identity import WAYS, amend_by, check_way, stamp, verify
from collab.presence import Presence
from tests import servers
from tests.native import HELLO, opening
from tests.peers import Raw, data, enter, read_data, step1, uint
from tests.polls import head, on, post, presence

ANN: dict[str, Any] = {"id": "ann", "name": "Ann Lee", "color": "#f00"}


@pytest.mark.parametrize(
    ("grant", "said", "shown"),
    [
        (("ann", "Ann Lee"), {"user": {"color": "#f00"}}, {"user": ANN}),
        (("ann", "Ann Lee"), {"user": ANN | {"id": "bob"}}, {"user": ANN}),
        (("ann", "Ann Lee"), {"user": ANN | {"name": "Bob"}}, {"user": ANN}),
        (("ann", ""), {"x": 1}, {"x": 1, "user": {"id": "ann", "name": "ann"}}),
        (("ann", ""), {"user": "bob"}, {"user": {"id": "ann", "name": "ann"}}),
        (("", ""), {"user": {"id": "bob", "name": "Bob"}}, {"user": {"name": "Bob"}}),
        (("", ""), {"x": 1}, {"x": 1}),
        (("", ""), {"user": ["bob"]}, {"user": {}}),
        (("", "Guest"), {"user": {"name": "Bob"}}, {"user": {"name": "Guest"}}),
    ],
)
def test_a_state_is_stamped(
    grant: tuple[str, str], said: dict[str, Any], shown: dict[str, Any]
) -> None:
    before = json.dumps(said)
    assert stamp(*grant, said) == shown
    assert json.dumps(said) == before


@pytest.mark.parametrize(
    ("grant", "said", "holds"),
    [
        (("ann", "Ann Lee"), {"user": ANN}, True),
        (("ann", "Ann Lee"), {"user": {"color": "#f00"}}, True),
        (("ann", "Ann Lee"), {"cursor": 1}, True),
        (("ann", "Ann Lee"), {"user": None}, True),
        (("ann", "Ann Lee"), {"user": ANN | {"id": "bob"}}, False),
        (("ann", "Ann Lee"), {"user": ANN | {"id": None}}, False),
        (("ann", "Ann Lee"), {"user": ANN | {"name": "Bob"}}, False),
        (("ann", "Ann Lee"), {"user": ANN | {"name": "ann"}}, False),
        (("ann", "Ann Lee"), {"user": "ann"}, False),
        (("ann", ""), {"user": {"name": "ann"}}, True),
        (("ann", ""), {"user": {"name": "Ann Lee"}}, False),
        (("", ""), {"user": {"name": "Bob"}}, True),
        (("", ""), {"user": {"id": ""}}, False),
        (("", ""), {"user": {"id": "bob"}}, False),
    ],
)
def test_a_state_is_verified(
    grant: tuple[str, str], said: dict[str, Any], holds: bool
) -> None:
    assert verify(*grant, said) == (said if holds else None)


def test_there_are_three_ways() -> None:
    assert [check_way(way) for way in WAYS] == ["off", "stamp", "verify"]
    assert amend_by("off", "ann", "Ann") is None
    with pytest.raises(ValueError, match="off, stamp, verify; not 'on'"):
        check_way("on")


class Somebody:
    def __init__(self) -> None:
        self.owned: tuple[int, ...] = ()


def states(client: int, clock: int, state: object) -> bytes:
    spelled = json.dumps(state, separators=(",", ":")).encode()
    return uint(1) + uint(client) + uint(clock) + data(spelled)


@pytest.mark.parametrize("connected", [True, False])
def test_nobody_inherits_what_they_could_not_say(connected: bool) -> None:
    """A client id that is free, or whose owner seems to be gone, at the same clock."""
    ann, bob, again = Somebody(), Somebody(), Somebody()
    here: Presence[Somebody] = Presence()
    by_ann, by_bob = (amend_by("stamp", user, "") for user in ("ann", "bob"))
    here.introduce(states(7, 1, {"user": {"name": "ann", "id": "ann"}}), ann, 0, by_ann)
    shown = here.encode()
    assert shown is not None
    if not connected:
        assert here.orphan(ann, 1) == [7]
    repeated = states(7, 1, {"user": {"id": "ann", "name": "ann"}})
    here.introduce(repeated, bob, 2, by_bob)
    if connected:
        assert here.orphan(ann, 3) == [7]
    assert here.entries[7].owner is None
    here.introduce(repeated, again, 4, by_ann)
    assert here.entries[7].owner is again
    assert here.encode() == shown
    # At the next clock it is bob's, and says so.
    here.entries[7].owner = None
    here.apply(states(7, 2, {"user": {"id": "ann"}}), bob, by_bob)
    changed = here.encode()
    assert changed is not None
    assert b'"id":"bob"' in changed
    assert b"ann" not in changed


# On each way in.


async def authorize(attempt: Attempt) -> Grant | None:
    return Grant(attempt.token, name=attempt.token.title())


async def _say(port: int, way: str, state: dict[str, Any]) -> Raw | None:
    """Have ann say who she is, in a dialect."""
    spelled = json.dumps(state).encode()
    states = uint(1) + uint(7) + uint(1) + data(spelled)
    if way == "http":
        said = on(1, opening("d", token=b"ann"), presence(7, 1, spelled))
        await post(port, "push", head(), said)
        return None

    def say() -> Raw:
        raw = Raw(port).__enter__()
        if way == "y-websocket":
            raw.open("/ws/d?token=ann")
            raw.say(step1(), b"\1" + data(states))
        elif way == "hocuspocus":
            raw.open("/ws")
            raw.say(data(b"d") + b"\2\0" + data(b"ann"))
            raw.say(data(b"d") + b"\1" + data(states))
        else:
            raw.open("/ws", ("Sec-WebSocket-Protocol", "collab.v1"))
            raw.say(HELLO + on(1, opening("d", token=b"ann"), presence(7, 1, spelled)))
        return raw

    return await asyncio.to_thread(say)


def _hear(watcher: Raw) -> dict[str, Any]:
    """The state of client 7, once it is shown."""
    while True:
        heard = watcher.hear()
        if heard[:1] == b"\1" and len(heard) > 3:
            shown = read_data(heard, 1)
            assert shown[:3] == bytes((1, 7, 1))
            state: dict[str, Any] = json.loads(read_data(shown, 3))
            return state


WAYS_IN = pytest.mark.parametrize("way", ["y-websocket", "hocuspocus", "ours", "http"])


@WAYS_IN
async def test_who_calls_themselves_bob_is_seen_as_ann(
    tmp_path: Path, way: str
) -> None:
    said = {"user": {"id": "bob", "name": "Bob", "color": "#f00"}, "cursor": 3}
    stamped = {"user": {"id": "ann", "name": "Ann", "color": "#f00"}, "cursor": 3}
    for presence_user, shown in (("off", said), ("stamp", stamped)):
        async with servers.serving(
            tmp_path, authorize=authorize, presence_user=presence_user
        ) as server:
            watcher = await asyncio.to_thread(enter, server.port, "/ws/d?token=eve")
            raw = await _say(server.port, way, said)
            assert await asyncio.to_thread(_hear, watcher) == shown
            for each in (watcher, raw):
                if each is not None:
                    each.__exit__(None, None, None)


@WAYS_IN
async def test_who_calls_themselves_bob_is_not_seen(tmp_path: Path, way: str) -> None:
    async with servers.serving(
        tmp_path, authorize=authorize, presence_user="verify"
    ) as server:
        watcher = await asyncio.to_thread(enter, server.port, "/ws/d?token=eve")
        lying = await _say(server.port, way, {"user": {"name": "Bob"}})
        people = server.hub.rooms["d"].people
        if way == "http":
            assert people.entries == {}
        # She is connected all the same, and seen when she says who she is.
        honest = await _say(server.port, way, {"user": {"name": "Ann"}})
        assert await asyncio.to_thread(_hear, watcher) == {"user": {"name": "Ann"}}
        assert list(people.entries) == [7]
        for each in (watcher, lying, honest):
            if each is not None:
                each.__exit__(None, None, None)
