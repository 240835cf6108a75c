"""Who is here, who says so, and who may not."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab import wire
from collab.errors import ProtocolError, QuotaExceeded
from collab.limits import Limits
from collab.presence import (
    CLAIM,
    MAX_CLOCK,
    MAX_ENTRIES,
    MAX_LEFT,
    MAX_NEWS,
    MAX_OWNED,
    MAX_STATE,
    MEMORY,
    Presence,
)
from tests.vectors import presence as recorded


class Someone:
    """A session, as far as presence cares."""

    def __init__(self) -> None:
        self.owned: tuple[int, ...] = ()


def says(*entries: tuple[int, int, str | bytes]) -> bytes:
    """An awareness update: clients, clocks and states."""
    return wire.uint(len(entries)) + b"".join(
        wire.uint(client)
        + wire.uint(clock)
        + wire.data(state if isinstance(state, bytes) else state.encode())
        for client, clock, state in entries
    )


def heard(states: bytes | None) -> dict[int, tuple[int, object]]:
    """Read an awareness update the way JavaScript does."""
    if states is None:
        return {}
    count, at = wire.read_uint(states, 0)
    found: dict[int, tuple[int, object]] = {}
    for _ in range(count):
        client, at = wire.read_uint(states, at)
        clock, at = wire.read_uint(states, at)
        text, at = wire.read_text(states, at)
        assert client not in found
        found[client] = clock, json.loads(text)
    assert at == len(states)
    return found


def here(people: Presence[Someone]) -> dict[int, tuple[int, object]]:
    """What a newcomer is told."""
    return heard(people.encode())


def changes(people: Presence[Someone]) -> dict[int, tuple[int, object]]:
    return heard(people.take_changes())


# The clocks of y-protocols.


def test_nobody_is_nothing() -> None:
    people: Presence[Someone] = Presence()
    people.apply(b"\x00", Someone())
    assert people.encode() is None
    assert people.take_changes() is None


def test_recorded_states_come_and_go() -> None:
    people: Presence[Someone] = Presence()
    alice = Someone()
    people.introduce(recorded(0), alice, 0.0)
    assert people.take_changes() == recorded(0)
    people.apply(recorded(1), alice)
    assert changes(people) == {1: (1, {"cursor": 1})}
    people.apply(recorded(2), alice)  # renewed, every 15 s
    assert people.take_changes() == recorded(2)
    assert people.encode() == recorded(2)
    people.apply(recorded(3), alice)
    assert people.take_changes() == recorded(3)
    assert people.encode() is None
    assert not alice.owned
    people.apply(recorded(4), alice)
    assert changes(people) == {1: (4, {"name": 'é"\ud800'})}
    assert alice.owned == (1,)


def test_several_clients_fit_into_one_message() -> None:
    people: Presence[Someone] = Presence()
    people.apply(recorded(5), Someone())
    assert here(people) == {
        300: (1, {"a": [1, None, {"b": 1e21}]}),
        1: (4, {"name": 'é"\ud800'}),
    }


def test_the_latest_wins_until_it_is_told() -> None:
    people: Presence[Someone] = Presence()
    alice = Someone()
    for clock in range(1, 100):
        people.apply(says((1, clock, f'{{"x":{clock}}}')), alice)
    assert changes(people) == {1: (99, {"x": 99})}
    assert changes(people) == {}


def test_merging_again_changes_nothing() -> None:
    people: Presence[Someone] = Presence()
    alice = Someone()
    people.apply(says((1, 5, '{"x":1}')), alice)
    people.take_changes()
    version = people.version
    people.apply(says((1, 5, '{"x":1}')), alice)
    people.apply(says((1, 5, '{"x":2}')), alice)
    people.apply(says((1, 4, "null")), alice)
    people.apply(says((1, 0, "{}")), alice)
    assert people.take_changes() is None
    assert people.version == version
    assert here(people) == {1: (5, {"x": 1})}


def test_null_at_the_known_clock_means_gone() -> None:
    people: Presence[Someone] = Presence()
    alice = Someone()
    people.apply(says((1, 5, "{}")), alice)
    people.take_changes()
    people.apply(says((1, 5, "null")), alice)
    assert changes(people) == {1: (5, None)}
    assert here(people) == {}
    people.apply(says((1, 5, "null")), alice)
    people.apply(says((1, 9, "null")), alice)
    assert people.take_changes() is None


def test_one_that_nobody_knew_leaves_unnoticed() -> None:
    people: Presence[Someone] = Presence()
    people.apply(says((1, 5, "null")), Someone())
    assert people.take_changes() is None
    assert people.entries == {}


def test_whoever_left_comes_back_at_a_newer_clock() -> None:
    people: Presence[Someone] = Presence()
    alice = Someone()
    people.apply(says((1, 5, "{}")), alice)
    people.apply(says((1, 6, "null")), alice)
    people.apply(says((1, 6, "{}")), alice)
    assert here(people) == {}
    people.apply(says((1, 7, "{}")), alice)
    assert here(people) == {1: (7, {})}
    assert alice.owned == (1,)


@pytest.mark.parametrize("seed", range(20))
def test_the_newest_of_a_client_that_comes_twice_wins(seed: int) -> None:
    print(f"seed {seed}")
    chance = Random(seed)
    people: Presence[Someone] = Presence()
    alice = Someone()
    people.apply(says((1, 3, '{"x":3}')), alice)
    clocks = [2, 3, 4, 5, 6]
    chance.shuffle(clocks)
    people.apply(says(*((1, clock, f'{{"x":{clock}}}') for clock in clocks)), alice)
    assert here(people) == {1: (6, {"x": 6})}
    people.apply(says((1, 8, "null"), (1, 7, "{}")), alice)
    assert here(people) == {}
    assert alice.owned == ()


# Owners.


def test_nobody_changes_what_somebody_else_owns() -> None:
    people: Presence[Someone] = Presence()
    alice, mallory = Someone(), Someone()
    people.apply(says((1, 5, '{"name":"Alice"}')), alice)
    people.take_changes()
    for states in (
        says((1, 6, '{"name":"EVIL"}')),
        says((1, MAX_CLOCK, '{"name":"EVIL"}')),
        says((1, 5, "null")),
        says((1, 6, "null")),
        says((1, MAX_CLOCK, "null")),
    ):
        people.introduce(states, mallory, 0.0)
        people.apply(states, mallory)
    assert people.take_changes() is None
    assert here(people) == {1: (5, {"name": "Alice"})}
    assert (alice.owned, mallory.owned) == ((1,), ())
    people.apply(says((1, 6, '{"name":"still me"}')), alice)
    assert changes(people) == {1: (6, {"name": "still me"})}


def test_the_rest_of_a_message_counts() -> None:
    people: Presence[Someone] = Presence()
    alice, bob = Someone(), Someone()
    people.apply(says((1, 5, "{}")), alice)
    people.take_changes()
    people.apply(says((1, 9, "null"), (2, 1, '{"name":"Bob"}')), bob)
    assert changes(people) == {2: (1, {"name": "Bob"})}
    assert bob.owned == (2,)


def test_echoes_do_nothing() -> None:
    """y-websocket sends back what it hears, at once: N clients, N messages."""
    people: Presence[Someone] = Presence()
    sessions = [Someone() for _ in range(50)]
    for client, session in enumerate(sessions):
        people.introduce(says((client, 1, "{}")), session, 0.0)
    people.take_changes()
    people.apply(says((7, 2, '{"cursor":3}')), sessions[7])
    told = people.take_changes()
    assert told is not None
    for session in sessions:
        people.apply(told, session)
    everything = people.encode()
    assert everything is not None
    for session in sessions:
        people.apply(everything, session)
    assert people.take_changes() is None
    assert [session.owned for session in sessions] == [(id,) for id in range(50)]


def test_the_echo_of_one_who_left_does_not_bring_it_back() -> None:
    people: Presence[Someone] = Presence()
    alice, bob = Someone(), Someone()
    people.apply(says((1, 5, "{}")), alice)
    people.remove(people.orphan(alice, 10.0), 10.0)
    people.take_changes()
    people.apply(says((1, 5, "{}")), bob)
    people.apply(says((1, 4, "{}")), bob)
    assert people.take_changes() is None
    assert here(people) == {}
    assert bob.owned == ()


def test_a_session_has_few_clients() -> None:
    people: Presence[Someone] = Presence()
    greedy = Someone()
    people.apply(says(*((client, 1, "{}") for client in range(100))), greedy)
    assert len(here(people)) == MAX_OWNED == len(greedy.owned)
    people.apply(says((0, 2, "null")), greedy)
    people.apply(says((99, 1, "{}")), greedy)
    assert 99 in here(people)
    assert len(people.entries) == MAX_OWNED + 1


# Coming back.


def test_a_client_may_be_back_before_its_grace_is_over() -> None:
    people: Presence[Someone] = Presence()
    before, after = Someone(), Someone()
    people.apply(says((1, 5, '{"x":1}')), before)
    people.take_changes()
    orphans = people.orphan(before, 10.0)
    assert orphans == [1]
    assert here(people) == {1: (5, {"x": 1})}
    assert people.introduce(says((1, 5, '{"x":1}')), after, 11.0) is None
    assert after.owned == (1,)
    people.remove(orphans, 15.0)  # Its grace is over, but it is no orphan any more.
    assert people.take_changes() is None
    assert here(people) == {1: (5, {"x": 1})}


def test_a_client_that_was_announced_as_gone_hears_it_and_announces_itself() -> None:
    people: Presence[Someone] = Presence()
    before, after = Someone(), Someone()
    people.apply(says((1, 5, "{}")), before)
    people.remove(people.orphan(before, 10.0), 15.0)
    assert changes(people) == {1: (5, None)}
    # Nobody would heed it at the same clock. (y-protocols)
    assert people.introduce(says((1, 5, "{}")), after, 20.0) is None
    assert changes(people) == {1: (5, None)}
    people.apply(says((1, 6, "{}")), after)
    assert changes(people) == {1: (6, {})}
    assert after.owned == (1,)


def test_who_comes_back_at_the_clock_of_its_departure_can_be_told() -> None:
    people: Presence[Someone] = Presence()
    before = Someone()
    people.apply(says((1, 5, "{}")), before)
    assert people.departure(says((1, 5, "{}"))) is None
    people.remove(people.orphan(before, 10.0), 15.0)
    assert people.departure(says((1, 5, "{}"))) == says((1, 5, "null"))
    for other in (says((1, 6, "{}")), says((1, 4, "{}")), says((2, 5, "{}"))):
        assert people.departure(other) is None
    assert people.departure(says((1, 5, "null"))) is None
    assert people.departure(says((1, 5, "{}"), (2, 1, "{}"))) is None


def test_one_who_was_behind_hears_of_its_departure_too() -> None:
    people: Presence[Someone] = Presence()
    before, after = Someone(), Someone()
    people.apply(says((1, 5, "{}")), before)
    people.remove(people.orphan(before, 10.0), 15.0)
    people.take_changes()
    behind = people.version
    people.introduce(says((1, 5, "{}")), after, 20.0)
    people.take_changes()
    assert heard(people.encode(behind)) == {1: (5, None)}


def test_a_claim_holds_if_the_owner_turns_out_dead() -> None:
    people: Presence[Someone] = Presence()
    dead, heir = Someone(), Someone()
    people.apply(says((1, 5, '{"x":1}')), dead)
    people.take_changes()
    assert people.introduce(says((1, 6, '{"x":2}')), heir, 10.0) is dead
    assert people.take_changes() is None
    assert people.orphan(dead, 10.0 + CLAIM - 1) == []
    assert changes(people) == {1: (6, {"x": 2})}
    assert heir.owned == (1,)
    people.apply(says((1, 7, '{"x":3}')), heir)
    assert changes(people) == {1: (7, {"x": 3})}
    assert people.orphan(heir, 50.0) == [1]


def test_a_claim_at_the_same_clock_changes_only_the_owner() -> None:
    people: Presence[Someone] = Presence()
    dead, heir = Someone(), Someone()
    people.apply(says((1, 5, "{}")), dead)
    people.take_changes()
    assert people.introduce(says((1, 5, "{}")), heir, 10.0) is dead
    assert people.orphan(dead, 11.0) == []
    assert people.take_changes() is None
    assert heir.owned == (1,)


@pytest.mark.parametrize(
    "states", [says((1, 5, "null")), says((1, 6, "null")), says((1, 4, "{}"))]
)
def test_a_farewell_or_an_old_state_is_no_claim(states: bytes) -> None:
    people: Presence[Someone] = Presence()
    alice, mallory = Someone(), Someone()
    people.apply(says((1, 5, "{}")), alice)
    assert people.introduce(states, mallory, 10.0) is None
    assert people.claims == {}


def test_a_claim_lasts_for_a_while() -> None:
    people: Presence[Someone] = Presence()
    alive, claimant = Someone(), Someone()
    people.apply(says((1, 5, "{}")), alive)
    people.introduce(says((1, 6, "{}")), claimant, 10.0)
    assert people.orphan(alive, 10.0 + CLAIM) == [1]
    assert claimant.owned == ()


def test_a_claim_ends_with_who_made_it() -> None:
    people: Presence[Someone] = Presence()
    alive, claimant = Someone(), Someone()
    people.apply(says((1, 5, "{}")), alive)
    people.introduce(says((1, 6, "{}")), claimant, 10.0)
    assert people.orphan(claimant, 11.0) == []
    assert people.orphan(alive, 12.0) == [1]
    people.remove([1], 12.0)
    assert here(people) == {}


def test_who_has_enough_clients_inherits_no_more() -> None:
    people: Presence[Someone] = Presence()
    dead, heir = Someone(), Someone()
    people.apply(says((1, 5, "{}")), dead)
    people.introduce(says((1, 6, "{}")), heir, 10.0)
    people.apply(says(*((id, 1, "{}") for id in range(100, 100 + MAX_OWNED))), heir)
    orphans = people.orphan(dead, 11.0)
    assert orphans == [1]
    people.remove(orphans, 16.0)
    assert 1 not in here(people)
    people.remove(people.orphan(heir, 20.0), 20.0)
    assert here(people) == {}


def test_several_states_are_no_introduction() -> None:
    people: Presence[Someone] = Presence()
    alice, tab = Someone(), Someone()
    people.apply(says((1, 5, "{}")), alice)
    assert people.introduce(says((1, 6, "{}"), (2, 1, "{}")), tab, 0.0) is None
    assert people.claims == {}
    assert tab.owned == (2,)


# Leaving.


def test_orphans_are_removed_at_the_clock_we_know() -> None:
    people: Presence[Someone] = Presence()
    alice = Someone()
    people.apply(says((1, 5, "{}"), (2, 3, "{}")), alice)
    people.take_changes()
    people.remove(people.orphan(alice, 10.0), 10.0)
    assert changes(people) == {1: (5, None), 2: (3, None)}
    assert people.encode() is None


def test_clocks_are_forgotten_after_a_while() -> None:
    people: Presence[Someone] = Presence()
    alice, bob = Someone(), Someone()
    people.apply(says((1, 5, "{}")), alice)
    people.apply(says((2, 5, "{}")), bob)
    people.remove(people.orphan(alice, 10.0), 10.0)
    people.apply(says((2, 6, "null")), bob)
    people.forget(10.0 + MEMORY * 2)
    assert set(people.entries) == {1, 2}  # Nobody has been told yet.
    people.take_changes()
    people.forget(10.0 + MEMORY)
    assert set(people.entries) == {1, 2}
    people.forget(11.0 + MEMORY)
    assert set(people.entries) == {2}
    people.forget(11.0 + 2 * MEMORY)
    assert people.entries == {}


def test_a_crowd_that_came_and_went_is_forgotten_sooner() -> None:
    people, ann = Presence[Someone](), Someone()
    for clock in range(2):
        for client in range(2 * MAX_LEFT):
            people.apply(says((client, 1, "{}"), (client, 2, "null")), ann)
        people.take_changes()
        people.forget(float(clock))
        assert len(people.entries) == MAX_LEFT
    assert set(people.entries) == set(range(MAX_LEFT, 2 * MAX_LEFT))


def test_a_message_brings_no_more_news_than_anybody_has() -> None:
    people, ann, bob = Presence[Someone](), Someone(), Someone()
    state = json.dumps({"a": "x" * (MAX_STATE - 20)})
    crowd = [(client, 1, state) for client in range(MAX_NEWS // len(state) + 1)]
    with pytest.raises(ProtocolError):
        people.apply(says(*crowd), ann)
    assert people.entries == {}
    for entry in crowd:
        people.apply(says(entry), Someone())
    people.apply(says(*crowd), bob)  # It only repeats what it heard.
    assert bob.owned == ()


def test_one_who_is_here_is_not_forgotten() -> None:
    people: Presence[Someone] = Presence()
    people.apply(says((1, 5, "{}")), Someone())
    people.take_changes()
    people.forget(0.0)
    people.forget(10 * MEMORY)
    assert here(people) == {1: (5, {})}


def test_who_fell_behind_hears_of_changes_and_departures_only() -> None:
    people: Presence[Someone] = Presence()
    alice, bob = Someone(), Someone()
    people.apply(says((1, 1, "{}")), alice)
    people.apply(says((2, 1, "{}"), (3, 1, "{}")), bob)
    behind = people.version
    assert people.encode(behind) is None
    people.apply(says((1, 2, '{"x":1}')), alice)
    people.apply(says((3, 2, "null")), bob)
    assert heard(people.encode(behind)) == {1: (2, {"x": 1}), 3: (2, None)}
    assert set(here(people)) == {1, 2}


# Strictness.


BAD_STATES: list[str | bytes] = [
    "",
    "{",
    "{}x",
    "{} {}",
    "nul",
    " null",
    "[]",
    "[{}]",
    "1",
    "0",
    "true",
    '"text"',
    "NaN",
    '{"a":NaN}',
    '{"a":Infinity}',
    '{"a":-Infinity}',
    '{"a":1e999}',
    '{"a":-1e999}',
    '{"a":1e309}',
    "{'a':1}",
    "{a:1}",
    '{"a":1,}',
    '{"a":01}',
    '{"a":"\n"}',
    '{"a":' + "9" * 5000 + "}",
    b"\xff",
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',  # Half a pair in what looks like UTF-8.
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b"{\x00}\x00",
    '{"a":' * 2700 + "1" + "}" * 2700,
    "[" * 8000 + "]" * 8000,
]


@pytest.mark.parametrize("state", BAD_STATES, ids=lambda state: repr(state)[:20])
def test_a_state_is_an_object_that_every_client_can_read(state: str | bytes) -> None:
    people: Presence[Someone] = Presence()
    alice, mallory = Someone(), Someone()
    people.apply(says((1, 1, "{}")), alice)
    people.take_changes()
    for states in (
        says((2, 1, state)),
        says((3, 1, "{}"), (2, 1, state)),
        says((2, 1, state), (3, 1, "{}")),
    ):
        with pytest.raises(ProtocolError) as raised:
            people.apply(states, mallory)
        assert raised.value.close_code == 4400
        with pytest.raises(ProtocolError):
            people.introduce(states, mallory, 0.0)
    assert people.take_changes() is None
    assert here(people) == {1: (1, {})}
    assert mallory.owned == ()


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ("{}", {}),
        (' { "a" : 1 } ', {"a": 1}),
        ('{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a":"\\ud800"}', {"a": "\ud800"}),
        ('{"é":"\\ud800é"}', {"é": "\ud800é"}),
        ('{"a":1e21,"b":1e-9,"c":-0.5}', {"a": 1e21, "b": 1e-9, "c": -0.5}),
        ('{"a":12345678901234567890}', {"a": 12345678901234567890}),
        ('{"__proto__":{"x":1}}', {"__proto__": {"x": 1}}),
        ('{"a":1,"a":2}', {"a": 2}),
        ('{"a":' * 50 + "1" + "}" * 50, None),
    ],
)
def test_other_states_are_spelled_anew(state: str, meaning: object) -> None:
    people: Presence[Someone] = Presence()
    people.apply(says((2, 1, state)), Someone())
    encoded = people.encode()
    assert heard(encoded) == {2: (1, meaning or json.loads(state))}
    assert encoded is not None
    assert b" " not in encoded


@pytest.mark.parametrize(
    "states",
    [
        "",
        "01",
        "010101",
        "01010102",
        "0101010200",
        "010101027b",
        "010101027b7d00",
        "020101027b7d",
        "0101017b7d",
        "01 8080808080808010 01 027b7d",  # a client of 54 bits
        "01 01 8080808080808010 027b7d",
        "01" + "ff" * 100 + "01 027b7d",
        "01 01" + "ff" * 100 + "027b7d",
        "01 01 8080808010 027b7d",  # a clock of 33 bits
        "01 01 ffffffffffffff0f 027b7d",
        "01 01 01 ffffffffffffff0f 7b7d",
        "ffffffffffffff0f",
        "ff1f",
    ],
)
def test_what_is_no_awareness_update_is_refused(states: str) -> None:
    people: Presence[Someone] = Presence()
    alice = Someone()
    with pytest.raises(ProtocolError) as raised:
        people.apply(bytes.fromhex(states), alice)
    assert raised.value.close_code == 4400
    with pytest.raises(ProtocolError):
        people.introduce(bytes.fromhex(states), alice, 0.0)
    assert people.entries == {}
    assert people.take_changes() is None
    assert alice.owned == ()


def test_clocks_and_sizes_have_limits() -> None:
    people: Presence[Someone] = Presence()
    alice = Someone()
    padding = '{"a":"' + "x" * (MAX_STATE - 8) + '"}'
    assert len(padding) == MAX_STATE
    people.apply(says((1, MAX_CLOCK, padding)), alice)
    assert here(people)[1][0] == MAX_CLOCK
    with pytest.raises(QuotaExceeded) as raised:
        people.apply(says((2, 1, padding + " ")), alice)
    assert raised.value.limit == MAX_STATE
    with pytest.raises(ProtocolError):
        people.apply(says((2, MAX_CLOCK + 1, "{}")), alice)
    assert set(people.entries) == {1}


def test_what_is_large_is_shown_seldom_and_in_the_end() -> None:
    people: Presence[Someone] = Presence(Limits(presence_rate=1000))
    alice, bob = Someone(), Someone()

    def large(version: int) -> str:
        return json.dumps({"version": version, "padding": "x" * 2000})

    shown = []
    for clock in range(100):
        people.apply(says((1, clock + 1, large(clock))), alice)
        people.apply(says((2, clock + 1, "{}")), alice)
        people.apply(says((3, clock + 1, "{}")), bob)
        told = people.take_changes(clock / 10)
        shown.append(set(heard(told)))
    # Two kilobytes each two seconds; and what is small, each time.
    assert sum(1 in clients for clients in shown) == 5
    assert all({2, 3} <= clients for clients in shown)
    assert people.changed
    assert 1 in heard(people.take_changes(100.0))
    assert people.take_changes(100.0) is None
    assert here(people)[1] == (100, json.loads(large(99)))


def test_who_was_behind_is_not_missed_by_what_is_shown_later() -> None:
    people: Presence[Someone] = Presence(Limits(presence_rate=1000))
    alice = Someone()
    large = json.dumps({"padding": "x" * 2000})
    for clock in (1, 2):
        people.apply(says((1, clock, large)), alice)
        people.take_changes(0.0)
    told = people.told
    assert people.take_changes(0.1) is None
    assert people.take_changes(10.0) is not None
    assert people.encode(told) is not None


def test_ten_thousand_entries_are_refused() -> None:
    people: Presence[Someone] = Presence()
    alice = Someone()
    with pytest.raises(ProtocolError) as raised:
        people.apply(says(*((id, 1, "{}") for id in range(10_000))), alice)
    assert raised.value.close_code == 4400
    assert people.entries == {}
    people.apply(says(*((id, 1, "null") for id in range(MAX_ENTRIES))), alice)
    assert people.entries == {}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.booleans(),
            st.lists(
                st.tuples(
                    st.integers(1, 3),
                    st.integers(0, 6),
                    st.sampled_from(("null", "{}", '{"x":1}', '{"x":2}')),
                ),
                max_size=3,
            ),
        ),
        max_size=20,
    )
)
def test_who_listens_knows_what_a_newcomer_is_told(
    steps: list[tuple[int, bool, list[tuple[int, int, str]]]],
) -> None:
    people: Presence[Someone] = Presence()
    sessions = [Someone(), Someone(), Someone()]
    known: dict[int, tuple[int, object]] = {}
    for now, (speaker, leaves, entries) in enumerate(steps):
        session = sessions[speaker]
        if leaves:
            people.remove(people.orphan(session, now), now)
            sessions[speaker] = Someone()
        elif now % 2:
            people.introduce(says(*entries), session, now)
        else:
            people.apply(says(*entries), session)
        for client, (clock, state) in changes(people).items():
            # As y-protocols' applyAwarenessUpdate, but that it knows clock 0 too.
            if clock >= known.get(client, (-1, None))[0]:
                known[client] = clock, state
        assert {c: k for c, k in known.items() if k[1] is not None} == here(people)
        for client, entry in people.entries.items():
            if entry.owner is not None:
                assert client in entry.owner.owned
        for owner in sessions:
            for client in owner.owned:
                assert people.entries[client].owner is owner
