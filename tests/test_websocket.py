"""The WebSocket endpoint, byte by byte, over real sockets.

What the Autobahn test suite asks is in ``test_autobahn.py``. References: RFC 6455
(WebSocket), RFC 7692 (compression).
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from pycrdt import Doc, Text

from collab.limits import Limits
from tests import servers
from tests.peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEEPALIVE,
    PING,
    PONG,
    TEXT,
    Editor,
    Raw,
    edit,
    enter,
    frame,
    insert,
    presence,
    read_data,
    step1,
    step2,
)

A = insert(1, "A")
"""Eleven bytes and a name: somebody types a letter."""

EMPTY = step2(b"\x00\x00")
"""The answer of a room in which nothing was ever written."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with servers.running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def raw(server: servers.Server) -> Iterator[Raw]:
    with Raw(server.port) as raw:
        yield raw


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room of the test's own."""
    return f"/ws/{abs(hash(request.node.nodeid))}"


@pytest.fixture
def seat(server: servers.Server, room: str) -> Iterator[Raw]:
    """A client in the test's room."""
    with enter(server.port, room) as raw:
        yield raw


def is_served(raw: Raw) -> bool:
    """Whether a client that asks for the document gets an answer."""
    raw.say(step1())
    return raw.hear()[:2] == b"\x00\x01"


# The handshake.


def test_the_handshake_of_the_rfc_is_answered_as_in_the_rfc(raw: Raw) -> None:
    response = raw.open("/ws/a")
    assert response.get("upgrade") == "websocket"
    assert response.get("connection") == "Upgrade"
    # RFC 6455, section 1.3
    assert response.get("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert response.get("sec-websocket-protocol") is None
    assert response.get("sec-websocket-extensions") is None


def test_a_newcomer_is_asked_what_it_has(raw: Raw, room: str) -> None:
    raw.open(room)
    first = raw.read_frame()
    assert first == (True, 0, BINARY, False, b"\x00\x00\x01\x00")


def test_headers_may_be_spelled_in_any_case(raw: Raw) -> None:
    raw.send(
        b"GET /ws/a HTTP/1.1\r\nhOST: x\r\nuPGRADE: WebSocket\r\n"
        b"cONNECTION: keep-alive, upgrade\r\n"
        b"sec-websocket-KEY: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"SEC-WebSocket-version: 13\r\n\r\n"
    )
    assert raw.read_response().status == 101


@pytest.mark.parametrize(
    "key",
    ["", "short", "dGhlIHNhbXBsZSBub25jZQ", "****", "dGhlIHNhbXBsZSBub25jZQ==x"],
)
def test_a_key_must_be_the_base64_of_16_bytes(raw: Raw, key: str) -> None:
    response = raw.ask(
        "/ws/a", ("Sec-WebSocket-Key", key), without=["Sec-WebSocket-Key"]
    )
    assert response.status == 400
    assert raw.read_all() == b""


def test_a_key_is_needed(raw: Raw) -> None:
    assert raw.ask("/ws/a", without=["Sec-WebSocket-Key"]).status == 400


def test_two_keys_are_one_too_many(raw: Raw) -> None:
    again = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    assert raw.ask("/ws/a", again).status == 400


@pytest.mark.parametrize("version", ["8", "7", "14", "x"])
def test_another_version_of_the_protocol_is_told_which_one_we_speak(
    raw: Raw, version: str
) -> None:
    response = raw.ask(
        "/ws/a", ("Sec-WebSocket-Version", version), without=["Sec-WebSocket-Version"]
    )
    # RFC 6455, section 4.4
    assert response.status == 426
    assert response.get("sec-websocket-version") == "13"


def test_a_version_is_needed(raw: Raw) -> None:
    assert raw.ask("/ws/a", without=["Sec-WebSocket-Version"]).status in (400, 426)


def test_a_post_cannot_become_a_websocket(raw: Raw) -> None:
    response = raw.ask("/ws/a", method="POST")
    assert response.status == 405
    assert response.get("allow") == "GET"


def test_an_upgrade_from_http_1_0_is_refused_or_works(raw: Raw) -> None:
    # uvicorn tells us HTTP/1.1, whatever the client said.
    assert raw.ask("/ws/a", version="HTTP/1.0").status in (101, 400, 426, 505)
    if raw.buffer:
        assert is_served_after_greeting(raw)


@pytest.mark.parametrize("missing", ["Upgrade", "Connection"])
def test_a_request_without_upgrade_is_told_to(raw: Raw, missing: str) -> None:
    response = raw.ask("/ws/a", without=[missing])
    assert response.status == 426
    assert response.get("upgrade") == "websocket"


def test_another_upgrade_is_not_done(raw: Raw) -> None:
    response = raw.ask("/ws/a", ("Upgrade", "h2c"), without=["Upgrade"])
    assert response.status == 426


def test_a_request_in_pieces_is_put_together(raw: Raw, room: str) -> None:
    for byte in raw.request(room):
        raw.send(bytes((byte,)))
    assert raw.read_response().status == 101


def test_endless_headers_are_refused(raw: Raw) -> None:
    headers = [(f"X-{number}", "x" * 4000) for number in range(200)]
    with suppress(EOFError, ConnectionError):  # Or it is cut off while it writes.
        raw.send(raw.request("/ws/a", *headers))
        assert raw.read_response().status in (400, 431)


@pytest.mark.parametrize("ending", ["", "\r\nX: "], ids=["one", "many"])
def test_headers_that_never_end_are_not_collected(raw: Raw, ending: str) -> None:
    raw.send(b"GET / HTTP/1.1\r\nX: ")
    sent = 0
    with suppress(ConnectionError):
        while sent < 8 * 2**20:
            raw.send(b"x" * 60_000 + ending.encode())
            sent += 60_000
    assert sent < 8 * 2**20


def test_frames_in_the_segment_of_the_request_are_not_lost(raw: Raw, room: str) -> None:
    raw.send(raw.request(room) + frame(BINARY, edit(A)) + frame(BINARY, step1()))
    assert raw.read_response().status == 101
    raw.hear_until(edit(A))
    assert is_served(raw)


def test_half_a_frame_in_the_segment_of_the_request_is_not_lost(
    raw: Raw, room: str
) -> None:
    encoded = frame(BINARY, edit(A))
    raw.send(raw.request(room) + encoded[:7])
    assert raw.read_response().status == 101
    raw.send(encoded[7:])
    raw.hear_until(edit(A))


# Subprotocols.


def test_the_first_subprotocol_is_taken(raw: Raw) -> None:
    # A browser drops a connection that answers none of those it offered.
    response = raw.open("/ws/a", ("Sec-WebSocket-Protocol", "token.abc, y-protocols"))
    assert response.get("sec-websocket-protocol") == "token.abc"


def test_subprotocols_may_come_in_several_headers(raw: Raw) -> None:
    offers = [("Sec-WebSocket-Protocol", "one"), ("Sec-WebSocket-Protocol", "two")]
    response = raw.open("/ws/a", *offers)
    assert response.get("sec-websocket-protocol") == "one"


def test_a_subprotocol_must_be_a_word(raw: Raw) -> None:
    assert raw.ask("/ws/a", ("Sec-WebSocket-Protocol", "a b")).status == 400


# Compression.


OFFERS = {
    "permessage-deflate": True,
    "permessage-deflate; client_max_window_bits": True,
    "permessage-deflate; server_no_context_takeover": True,
    "permessage-deflate; client_no_context_takeover; client_max_window_bits=10": True,
    "permessage-deflate; server_max_window_bits=15": True,
    "permessage-deflate; server_max_window_bits=9": False,
    "permessage-deflate; server_max_window_bits=8, permessage-deflate": True,
}
"""What clients offer, and whether what they are sent may be compressed then."""


@pytest.mark.parametrize(("offer", "compressed"), OFFERS.items())
def test_a_large_state_is_compressed_for_who_offers_it(
    server: servers.Server, room: str, offer: str, compressed: bool
) -> None:
    update = insert(7, "all work and no play makes jack a dull boy " * 100)
    with enter(server.port, room) as writer:
        writer.say(edit(update))
        writer.hear_until(edit(update))
    with Raw(server.port) as raw:
        response = raw.open(room, ("Sec-WebSocket-Extensions", offer))
        agreed = response.get("sec-websocket-extensions")
        raw.hear()
        raw.say(step1())
        received = raw.read_frame()
    assert agreed is None or agreed.startswith("permessage-deflate")
    if agreed is not None:
        # No context is kept: each message stands alone, for both sides.
        assert "server_no_context_takeover" in agreed
        assert "client_no_context_takeover" in agreed
    assert received.rsv == (4 if compressed else 0)
    payload = received.payload
    if compressed:
        assert len(payload) < len(update) / 10
        inflate = zlib.decompressobj(wbits=-15)
        payload = inflate.decompress(payload + b"\x00\x00\xff\xff")
    doc: Doc[Any] = Doc()
    doc.apply_update(read_data(payload, 2))
    assert str(doc.get("text", type=Text)) == "all work and no play makes jack a " + (
        "dull boy all work and no play makes jack a " * 99 + "dull boy "
    )


def test_small_messages_are_not_compressed(raw: Raw, room: str) -> None:
    raw.open(room, ("Sec-WebSocket-Extensions", "permessage-deflate"))
    raw.say(edit(A))
    received = [raw.read_frame(), raw.read_frame()]
    assert [one.rsv for one in received] == [0, 0]


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=x",
        "permessage-deflate; no_such_parameter",
        "x-webkit-deflate-frame",
        "__proto__",
        "constructor; a=1",
    ],
)
def test_an_offer_that_makes_no_sense_is_declined(
    raw: Raw, room: str, offer: str
) -> None:
    response = raw.open(room, ("Sec-WebSocket-Extensions", offer))
    assert response.get("sec-websocket-extensions") is None
    assert is_served_after_greeting(raw)


def is_served_after_greeting(raw: Raw) -> bool:
    return raw.hear()[:2] == b"\x00\x00" and is_served(raw)


@pytest.mark.parametrize("offer", ["permessage-deflate; =", ";", "a b c", '"'])
def test_an_offer_that_is_no_offer_is_an_error(raw: Raw, offer: str) -> None:
    assert raw.ask("/ws/a", ("Sec-WebSocket-Extensions", offer)).status == 400


def deflated(payload: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_compressed_messages_of_clients_are_understood(raw: Raw, room: str) -> None:
    raw.open(room, ("Sec-WebSocket-Extensions", "permessage-deflate"))
    for clock in range(3):
        update = insert(1, "a", clock)
        raw.send_frame(BINARY, deflated(edit(update)), rsv=4)
        raw.hear_until(edit(update))


def test_a_compressed_message_may_be_fragmented(raw: Raw, room: str) -> None:
    raw.open(room, ("Sec-WebSocket-Extensions", "permessage-deflate"))
    update = insert(1, "x" * 1000)
    payload = deflated(edit(update))
    raw.send_frame(BINARY, payload[:3], rsv=4, fin=False)
    raw.send_frame(CONTINUATION, payload[3:])
    raw.hear_until(edit(update))


def test_compression_that_was_not_agreed_upon_is_an_error(seat: Raw) -> None:
    seat.send_frame(BINARY, deflated(edit(A)), rsv=4)
    assert seat.read_close()[0] == 1002


def test_what_does_not_decompress_is_an_error(raw: Raw, room: str) -> None:
    raw.open(room, ("Sec-WebSocket-Extensions", "permessage-deflate"))
    raw.send_frame(BINARY, b"\xff\xff\xff\xff", rsv=4)
    assert raw.read_close()[0] in (1002, 1007)


def test_a_bomb_does_not_go_off(server: servers.Server, raw: Raw, room: str) -> None:
    raw.open(room, ("Sec-WebSocket-Extensions", "permessage-deflate"))
    bomb = deflated(bytes(200 * 2**20))
    before = server.memory()
    raw.send_frame(BINARY, bomb, rsv=4)
    assert raw.read_close()[0] == 1009
    assert server.memory() - before < 64 * 2**20


# Frames.


def test_a_frame_of_a_client_must_be_masked(seat: Raw) -> None:
    seat.send_frame(BINARY, step1(), mask=None)
    assert seat.read_close()[0] == 1002


def test_a_frame_of_the_server_is_not_masked(seat: Raw) -> None:
    seat.say(step1())
    assert not seat.read_frame().masked


@pytest.mark.parametrize("mask", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff"])
def test_any_mask_will_do(seat: Raw, mask: bytes) -> None:
    seat.send_frame(BINARY, edit(A), mask=mask)
    seat.hear_until(edit(A))


@pytest.mark.parametrize("rsv", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("opcode", [BINARY, TEXT, PING, CLOSE])
def test_reserved_bits_must_be_zero(seat: Raw, rsv: int, opcode: int) -> None:
    seat.send_frame(opcode, b"", rsv=rsv)
    assert seat.read_close()[0] == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_are_errors(seat: Raw, opcode: int) -> None:
    seat.send_frame(opcode, b"x")
    assert seat.read_close()[0] == 1002


@pytest.mark.parametrize(
    "size", [125, 126, 127, 128, 65535, 65536, 65537, 1_000_000], ids=str
)
def test_each_way_to_spell_a_length_is_understood_and_used(
    seat: Raw, size: int
) -> None:
    update = insert(1, "x" * (size - 30))
    update = insert(1, "x" * (2 * size - 30 - len(edit(update))))
    message = edit(update)
    assert abs(len(message) - size) < 3
    seat.say(message)
    seat.hear_until(message)
    seat.say(step1())
    assert read_data(seat.hear(), 2) == update


def test_a_length_may_be_spelled_longer_than_needed(seat: Raw) -> None:
    # "The minimal number of bytes MUST be used", but nobody is hurt by more.
    for width in (2, 8):
        seat.send_frame(BINARY, step1(), width=width)
        assert seat.hear()[:2] == b"\x00\x01"


def test_a_frame_above_the_limit_is_refused_by_its_head_alone(
    server: servers.Server, seat: Raw
) -> None:
    size = Limits().frame_size + 1
    seat.send(b"\x82\xff" + size.to_bytes(8, "big") + b"\x00\x00\x00\x00")
    assert seat.read_close()[0] == 1009


def test_who_sends_all_of_a_frame_above_the_limit_hears_why(seat: Raw) -> None:
    # If the server closed TCP at once, it would be reset, and the reason lost; a
    # provider would connect and send the same again, for ever.
    seat.send_frame(BINARY, bytes(Limits().frame_size + 1))
    code, _ = seat.read_close()
    assert code == 1009


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_an_absurd_length_is_refused(seat: Raw, size: int) -> None:
    seat.send(b"\x82\xff" + size.to_bytes(8, "big") + b"\x00\x00\x00\x00")
    assert seat.read_close()[0] in (1002, 1009)


def test_a_text_message_is_refused(seat: Raw) -> None:
    seat.send_frame(TEXT, b"hello")
    code, reason = seat.read_close()
    assert (code, reason) == (4400, "malformed message")


def test_a_text_message_that_is_not_text_is_refused(seat: Raw) -> None:
    seat.send_frame(TEXT, b"\xff\xfe")
    assert seat.read_close() == (1007, "malformed message")


# Messages in pieces.


def test_a_message_may_come_in_pieces(seat: Raw) -> None:
    message = edit(A)
    seat.send_frame(BINARY, message[:1], fin=False)
    for at in range(1, len(message) - 1):
        seat.send_frame(CONTINUATION, message[at : at + 1], fin=False)
    seat.send_frame(CONTINUATION, message[-1:])
    seat.hear_until(message)


def test_pieces_may_be_empty(seat: Raw) -> None:
    seat.send_frame(BINARY, b"", fin=False)
    seat.send_frame(CONTINUATION, edit(A), fin=False)
    seat.send_frame(CONTINUATION, b"")
    seat.hear_until(edit(A))


def test_a_ping_between_pieces_is_answered_at_once(seat: Raw) -> None:
    message = edit(A)
    seat.send_frame(BINARY, message[:5], fin=False)
    seat.send_frame(PING, b"now")
    assert seat.hear(PONG) == b"now"
    seat.send_frame(CONTINUATION, message[5:])
    seat.hear_until(message)


def test_a_continuation_needs_a_beginning(seat: Raw) -> None:
    seat.send_frame(CONTINUATION, b"x")
    assert seat.read_close()[0] == 1002


def test_a_message_must_end_before_the_next_begins(seat: Raw) -> None:
    seat.send_frame(BINARY, b"\x00", fin=False)
    seat.send_frame(BINARY, edit(A))
    assert seat.read_close()[0] == 1002


def test_pieces_above_the_limit_in_sum_are_refused(seat: Raw) -> None:
    seat.send_frame(BINARY, b"", fin=False)
    piece = frame(CONTINUATION, bytes(2**20), fin=False)
    for _ in range(17):
        seat.send(piece)
    assert seat.read_close()[0] == 1009


def test_too_many_pieces_are_refused(seat: Raw) -> None:
    seat.send_frame(BINARY, b"", fin=False)
    piece = frame(CONTINUATION, b"\x00", fin=False)
    seat.send(piece * 5000)
    assert seat.read_close() == (1009, "message too big")


def test_control_frames_cannot_be_in_pieces(seat: Raw) -> None:
    seat.send_frame(PING, b"x", fin=False)
    assert seat.read_close()[0] == 1002


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frames_are_small(seat: Raw, opcode: int) -> None:
    seat.send_frame(opcode, b"\x03\xe8" + bytes(124))
    assert seat.read_close()[0] == 1002


# How bytes arrive.


def test_a_frame_may_arrive_byte_by_byte(seat: Raw) -> None:
    seat.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in frame(BINARY, edit(A)):
        seat.send(bytes((byte,)))
    seat.hear_until(edit(A))


def test_many_frames_may_arrive_at_once(seat: Raw) -> None:
    updates = [edit(insert(1, "x", clock)) for clock in range(1000)]
    seat.say(*updates)
    assert [one for one in seat.hear_until(*updates) if one[1] == 2] == updates


def test_several_messages_may_be_in_one_frame(seat: Raw) -> None:
    seat.say(edit(A) + step1())
    assert len(seat.hear_until(edit(A))) >= 1


def test_who_is_told_that_it_is_synced_has_all(
    server: servers.Server, room: str
) -> None:
    # Applications fill a document that is empty once it is synced.
    url = f"{server.ws_url}/{room[4:]}"
    with Editor(url) as first:
        first.type("once upon a time")
        first.save()
        with Editor(url) as second:
            assert str(second.text) == "once upon a time"


def test_what_is_sent_while_a_room_is_opened_waits(raw: Raw, room: str) -> None:
    raw.open(room)
    updates = [edit(insert(1, "x", clock)) for clock in range(100)]
    raw.say(*updates)
    raw.hear_until(*updates)


# Pings.


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(125))], ids=len)
def test_a_ping_is_answered_with_its_payload(seat: Raw, payload: bytes) -> None:
    seat.send_frame(PING, payload)
    assert seat.hear(PONG) == payload


def test_pings_are_answered_in_order(seat: Raw) -> None:
    seat.send(b"".join(frame(PING, b"%d" % n) for n in range(10)))
    assert [seat.hear(PONG) for _ in range(10)] == [b"%d" % n for n in range(10)]


def test_a_pong_that_nobody_asked_for_is_fine(seat: Raw) -> None:
    seat.send_frame(PONG, b"here")
    assert is_served(seat)


@pytest.mark.slow
def test_a_flood_of_pings_from_who_never_reads_takes_no_memory(
    server: servers.Server, room: str
) -> None:
    with enter(server.port, room, small=True) as raw:
        pings = frame(PING, bytes(125)) * 1000
        before = server.memory()
        raw.socket.settimeout(1)
        end = monotonic() + 8
        sent = 0
        try:
            while monotonic() < end:
                sent += raw.socket.send(pings)
        except (TimeoutError, ConnectionError):
            pass  # The server reads no more, or has had enough.
        assert sent > 2**20
        assert server.memory() - before < 16 * 2**20


# Closing.


def test_a_goodbye_is_returned(seat: Raw) -> None:
    seat.send_frame(CLOSE, b"\x03\xe8bye")
    assert seat.read_close() == (1000, "bye")
    assert seat.read_all() == b""


def test_a_goodbye_may_be_silent(seat: Raw) -> None:
    seat.send_frame(CLOSE)
    assert seat.read_close() == (1005, "")


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 3000, 4000, 4999])
def test_a_goodbye_may_have_any_code_that_may_be_sent(seat: Raw, code: int) -> None:
    seat.send_frame(CLOSE, code.to_bytes(2, "big"))
    assert seat.read_close() == (code, "")


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_a_code_that_may_not_be_sent_is_an_error(seat: Raw, code: int) -> None:
    seat.send_frame(CLOSE, code.to_bytes(2, "big"))
    assert seat.read_close()[0] == 1002


def test_half_a_code_is_an_error(seat: Raw) -> None:
    seat.send_frame(CLOSE, b"\x03")
    assert seat.read_close()[0] == 1002


def test_a_reason_must_be_text(seat: Raw) -> None:
    seat.send_frame(CLOSE, b"\x03\xe8\xff\xff")
    assert seat.read_close()[0] in (1002, 1007)


def test_nothing_is_taken_from_who_has_said_goodbye(
    seat: Raw, server: servers.Server, room: str
) -> None:
    seat.send(frame(CLOSE, b"\x03\xe8") + frame(BINARY, edit(A)))
    assert seat.read_close()[0] == 1000
    with enter(server.port, room) as other:
        other.say(step1())
        assert other.hear() == EMPTY


def test_what_was_sent_before_a_goodbye_is_kept(
    server: servers.Server, room: str
) -> None:
    with enter(server.port, room) as seat:
        seat.send(frame(BINARY, edit(A)) + frame(CLOSE, b"\x03\xe8"))
        assert seat.read_close()[0] == 1000
    with enter(server.port, room) as other:
        other.say(step1())
        assert read_data(other.hear(), 2) == A


def test_what_was_sent_before_a_goodbye_is_kept_although_the_room_was_opening(
    server: servers.Server, raw: Raw, room: str
) -> None:
    raw.open(room)
    raw.send(frame(BINARY, edit(A)) + frame(CLOSE, b"\x03\xe8"))
    assert raw.read_close()[0] == 1000
    with enter(server.port, room) as other:
        other.say(step1())
        assert read_data(other.hear(), 2) == A


def test_a_large_edit_before_a_goodbye_is_kept(
    server: servers.Server, room: str
) -> None:
    update = insert(1, "x" * 500_000)
    with enter(server.port, room) as seat:
        seat.send(frame(BINARY, edit(update)) + frame(CLOSE, b"\x03\xe8"))
        assert seat.read_close()[0] == 1000
    with enter(server.port, room) as other:
        other.say(step1())
        assert read_data(other.hear(), 2) == update


def test_what_was_sent_before_half_a_close_is_kept(
    server: servers.Server, room: str
) -> None:
    with enter(server.port, room) as seat:
        seat.say(edit(A))
        seat.socket.shutdown(socket.SHUT_WR)
        seat.read_all()
    with enter(server.port, room) as other:
        other.say(step1())
        assert read_data(other.hear(), 2) == A


def test_a_reset_leaves_nobody_behind(server: servers.Server, room: str) -> None:
    seat = enter(server.port, room)
    with enter(server.port, room) as other:
        seat.say(presence((5, 1, b'{"name":"ann"}')))
        assert other.hear()[:1] == b"\x01"
        # RST instead of FIN.
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        seat.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        seat.socket.close()
        assert b"null" in other.hear()


def test_tcp_ends_soon_after_an_error_even_if_the_client_says_nothing(
    seat: Raw,
) -> None:
    started = monotonic()
    seat.say(b"\x63")
    assert seat.read_close()[0] == 4400
    assert seat.read_all() == b""  # It ends although we never answered.
    assert monotonic() - started < 15


# Paths.


@pytest.mark.parametrize("path", ["/", "/other", "/wsx/a", "/WS/a", "//ws/a"])
def test_there_are_no_documents_elsewhere(raw: Raw, path: str) -> None:
    response = raw.ask(path)
    assert response.status == 404
    assert raw.read_all() == b""


@pytest.mark.parametrize(
    ("path", "also"),
    [
        ("a/b", "a/b"),
        ("a%20b", "a%20b?token=secret"),
        ("a%2Fb2", "a/b2"),
        ("%C3%A9%F0%9F%98%80", "%c3%a9%f0%9f%98%80"),
        ("q?one=1", "q?two=2"),
        ("%61bc", "abc"),
        ("plus+sign", "plus%2Bsign"),
        ("percent%2520", "percent%2520?"),
        ("x" * 255, "x" * 255),
    ],
)
def test_a_document_can_be_called_almost_anything(
    server: servers.Server, path: str, also: str
) -> None:
    one, two = enter(server.port, f"/ws/{path}"), enter(server.port, f"/ws/{also}")
    with one, two:
        one.say(edit(A))
        two.hear_until(edit(A))


def test_a_name_is_decoded_once(server: servers.Server) -> None:
    with enter(server.port, "/ws/once%2520") as one:
        one.say(edit(A))
        one.hear_until(edit(A))
        with enter(server.port, "/ws/once%20") as two:
            two.say(step1())
            assert two.hear() == EMPTY


@pytest.mark.parametrize(
    "path",
    [
        "/ws/" + "x" * 256,
        "/ws/" + "%C3%A9" * 128,
        "/ws/" + "x" * 10_000,
        "/ws/a%00b",
        "/ws/a%0Ab",
        "/ws/a%7Fb",
        "/ws/a%C2%85b",
        "/ws/a%E2%80%AEb",
        "/ws/%ff%fe",
        "/ws/%ED%A0%80",
        "/ws/../x",
        "/ws/%2e%2e%2fx",
        "/ws/a/./b",
    ],
)
def test_some_names_are_refused_before_the_upgrade(
    server: servers.Server, raw: Raw, path: str
) -> None:
    logged = len(server.log())
    response = raw.ask(path)
    assert response.status in (400, 414)
    assert raw.read_all() == b""
    (line,) = server.log()[logged:].splitlines()
    assert raw.address in line
    assert "\x1b" not in line


def test_a_visitor_with_a_browser_is_told_what_this_is(raw: Raw) -> None:
    raw.send(b"GET /ws/x HTTP/1.1\r\nHost: x\r\n\r\n")
    response = raw.read_response()
    assert response.status == 426
    assert response.get("upgrade") == "websocket"


# Signs of life.


@pytest.fixture
async def fast(tmp_path: Path) -> AsyncIterator[servers.Serving]:
    """A server with a heartbeat of two seconds that cuts off slow readers soon."""
    limits = Limits(slow_size=64 * 1024, slow_time=2.0, heartbeat=2)
    async with servers.serving(tmp_path, limits=limits) as server:
        yield server


async def test_the_server_gives_signs_of_life_that_a_proxy_and_a_provider_hear(
    fast: servers.Serving,
) -> None:
    def listen() -> list[tuple[int, bytes]]:
        with enter(fast.port, "/ws/a") as raw:
            first, second = raw.read_frame(), raw.read_frame()
            return [(one.opcode, one.payload) for one in (first, second)]

    # y-websocket counts messages only; a ping tells us of the other end.
    assert await asyncio.to_thread(listen) == [(PING, b""), (BINARY, KEEPALIVE)]


async def test_who_answers_pings_stays(fast: servers.Serving) -> None:
    def listen() -> bool:
        with enter(fast.port, "/ws/a") as raw:
            for _ in range(3):
                raw.hear(PING)
                raw.send_frame(PONG)
            return is_served(raw)

    assert await asyncio.to_thread(listen)


async def test_who_gives_no_sign_of_life_is_dropped(fast: servers.Serving) -> None:
    def listen() -> tuple[bytes, float]:
        started = monotonic()
        with enter(fast.port, "/ws/a") as raw:
            return raw.read_all(), monotonic() - started

    heard, seconds = await asyncio.to_thread(listen)
    assert heard.startswith(b"\x89\x00")
    assert 1 < seconds < 15


async def test_a_message_that_is_never_finished_is_not_waited_for(
    fast: servers.Serving,
) -> None:
    def write() -> None:
        with enter(fast.port, "/ws/a") as raw:
            raw.send_frame(BINARY, b"\x00", fin=False)
            while True:
                raw.hear(PING)
                raw.send_frame(PONG)

    with pytest.raises((EOFError, ConnectionError)):
        await asyncio.to_thread(write)


@pytest.mark.slow
def test_nobody_waits_30_seconds_for_a_message(seat: Raw) -> None:
    seat.socket.settimeout(29)  # y-websocket reconnects after 30.
    while seat.read_frame().payload != KEEPALIVE:
        pass


# Slow readers.


def flood(url: str, until: Callable[[], bool]) -> bytes:
    """Write a lot until something is so; return the state of the document then."""
    with Editor(url) as editor:
        for _ in range(200):
            editor.type("x" * 200_000)
            editor.save()
            if until():
                return editor.doc.get_state()
    raise AssertionError("40 MB went somewhere")


async def test_who_stops_reading_is_cut_off_while_others_go_on(
    fast: servers.Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def cut_off() -> list[str]:
        return [line for line in caplog.messages if "stopped reading" in line]

    slow = await asyncio.to_thread(enter, fast.port, "/ws/a", small=True)
    url = f"{fast.ws_url}/a"
    await asyncio.to_thread(flood, url, lambda: bool(fast.hub.wheel.full))

    def go_on() -> None:
        with Editor(url) as editor:
            while not cut_off():
                editor.type("on ")
                editor.save()

    await asyncio.to_thread(go_on)
    (line,) = cut_off()
    assert slow.address in line
    slow.socket.close()


async def test_a_slow_reader_that_recovers_has_missed_nothing(
    fast: servers.Serving,
) -> None:
    slow = await asyncio.to_thread(enter, fast.port, "/ws/a", small=True)
    slow.say(step1())
    state = await asyncio.to_thread(
        flood, f"{fast.ws_url}/a", lambda: bool(fast.hub.wheel.full)
    )

    def read() -> Doc[Any]:
        doc: Doc[Any] = Doc()
        while doc.get_state() != state:
            message = slow.hear()
            if message[:2] in (b"\x00\x01", b"\x00\x02"):
                doc.apply_update(read_data(message, 2))
        return doc

    doc = await asyncio.to_thread(read)
    assert set(str(doc.get("text", type=Text))) == {"x"}
    slow.socket.close()


async def test_who_reads_slowly_but_steadily_is_alive(
    fast: servers.Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def write() -> None:
        with Editor(f"{fast.ws_url}/a") as editor:
            for _ in range(5):
                editor.type("x" * 2_000_000)
                editor.save()

    def read(slow: Raw) -> None:
        slow.say(step1())
        until = monotonic() + 7
        while monotonic() < until:
            # Its pongs would be behind all that, so it sends none.
            assert slow.socket.recv(32_768)
            sleep(0.05)

    caplog.set_level("INFO")
    await asyncio.to_thread(write)
    with await asyncio.to_thread(enter, fast.port, "/ws/a", small=True) as slow:
        await asyncio.to_thread(read, slow)
    assert "closing" not in caplog.text


async def test_who_is_not_read_from_is_not_taken_for_dead(tmp_path: Path) -> None:
    limits = Limits(heartbeat=2, unsaved_size=10)
    edits = [edit(insert(1, "x", clock)) for clock in range(3)]

    def write(raw: Raw) -> None:
        for one in edits:
            raw.say(one)
            sleep(0.5)
        sleep(5)  # Pongs would not be read.

    async with servers.serving(tmp_path, limits=limits) as server:
        with await asyncio.to_thread(enter, server.port, "/ws/a") as raw:
            database = sqlite3.connect(tmp_path / "collab.db", isolation_level=None)
            database.execute("BEGIN IMMEDIATE")
            await asyncio.to_thread(write, raw)
            assert server.hub.overloaded
            database.rollback()
            await asyncio.to_thread(raw.hear_until, *edits)


async def test_a_slow_reader_with_an_impossible_wish_is_sent_away(
    fast: servers.Serving, caplog: pytest.LogCaptureFixture
) -> None:
    slow = await asyncio.to_thread(enter, fast.port, "/ws/a", small=True)
    await asyncio.to_thread(
        flood, f"{fast.ws_url}/a", lambda: bool(fast.hub.wheel.full)
    )
    slow.say(step1(b"\xff\xff\xff"))
    code, _ = await asyncio.to_thread(slow.read_close)
    assert code == 4400
    assert not [one for one in caplog.records if one.exc_info]
    slow.socket.close()


# TLS.


def test_rooms_are_served_over_tls(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    options = ["--tls-cert", str(cert), "--tls-key", str(key)]
    with servers.running(tmp_path, *options) as server:
        assert server.ws_url.startswith("wss://")
        url = f"{server.ws_url}/a"
        context = servers.trusting()
        with Editor(url, tls=context) as one, Editor(url, tls=context) as two:
            one.type("x" * 500_000)
            one.type("signed")
            one.save()
            two.see("signed")
        with Raw(server.port, context) as raw:
            raw.open("/ws/a")
            raw.send_frame(CLOSE, b"\x03\xe8")
            assert raw.read_close()[0] == 1000
        assert server.terminate() == 0


# The end.


def test_a_server_that_is_told_to_stop_saves_and_says_when_to_come_back(
    tmp_path: Path,
) -> None:
    with servers.running(tmp_path) as server:
        seat = enter(server.port, "/ws/a")
        updates = [edit(insert(1, "x", clock)) for clock in range(500)]
        seat.say(*updates)
        seat.hear()  # It has arrived.
        server.process.send_signal(signal.SIGTERM)
        heard = [seat.hear() for _ in updates[1:]]
        assert heard == updates[1:]
        assert seat.read_close() == (1012, "service restart")
        seat.send_frame(CLOSE, (1012).to_bytes(2, "big"))
        assert server.process.wait(10) == 0
        server.start()
        with enter(server.port, "/ws/a") as again:
            again.say(step1())
            doc: Doc[Any] = Doc()
            doc.apply_update(read_data(again.hear(), 2))
        assert str(doc.get("text", type=Text)) == "x" * 500


def test_a_server_stops_in_time_although_somebody_does_not_read(tmp_path: Path) -> None:
    with servers.running(tmp_path) as server:
        deaf = enter(server.port, "/ws/a", small=True)
        sizes = iter(range(50))
        flood(f"{server.ws_url}/a", lambda: next(sizes) == 49)
        started = monotonic()
        assert server.terminate() == 0
        assert monotonic() - started < 10
        deaf.socket.close()


def test_a_server_stops_in_time_although_somebody_never_says_what_it_wants(
    tmp_path: Path,
) -> None:
    with servers.running(tmp_path) as server, Raw(server.port) as raw:
        raw.send(b"GET /ws/a HTTP/1.1\r\n")
        with Raw(server.port):
            started = monotonic()
            assert server.terminate() == 0
        assert monotonic() - started < 10


async def test_many_frames_at_once_are_taken_in_turns_with_others(
    tmp_path: Path,
) -> None:
    """pycrdt copies a long text at each insertion, and takes a millisecond for it."""
    async with servers.serving(tmp_path) as server:
        port = server.port

        def flood() -> None:
            raw = enter(port, "/ws/d")
            paste = edit(insert(1, "x" * 8_000_000))
            raw.say(paste)
            raw.hear_until(paste)
            keys = [edit(insert(1, "y", 8_000_000 + n)) for n in range(400)]
            raw.send(b"".join(frame(BINARY, key) for key in keys))
            raw.hear_until(*keys)
            raw.socket.close()

        done = asyncio.ensure_future(asyncio.to_thread(flood))
        turns = slow = 0
        while not done.done():
            room = server.hub.rooms.get("d")
            before = 0 if room is None else room.ledger.saved + len(room.ledger.unsaved)
            await asyncio.sleep(0)
            after = 0 if room is None else room.ledger.saved + len(room.ledger.unsaved)
            turns += 1 < before < after
            slow = max(slow, after - before)
        await done
        print(f"{turns} turns, {slow} edits in one at most")
        assert turns > 4
