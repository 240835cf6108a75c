"""The proxy of the tests has the faults that it promises, and no others."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from tests.proxy import Proxy

PATIENCE = 20.0
"""Seconds for what must come, on a busy machine."""

SILENCE = 0.1
"""Seconds in which what must not come would have come."""


class End:
    """One end of a connection."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self, size: int) -> bytes:
        """Exactly so many bytes, or fewer if that is the end."""
        self.socket.settimeout(PATIENCE)
        data = b""
        while len(data) < size and (more := self.socket.recv(size - len(data))):
            data += more
        return data

    def hears_nothing(self) -> bool:
        self.socket.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            self.socket.recv(1)
        return True

    def is_reset(self) -> bool:
        self.socket.settimeout(PATIENCE)
        with pytest.raises(ConnectionResetError):
            self.socket.recv(1)
        return True


class Network:
    """A server, the proxy in front of it, and what is open between them."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE)
        self.proxy = Proxy(self.listener.getsockname()[1])
        self.ends: list[End] = []

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.__exit__(None, None, None)
        for end in self.ends:
            end.socket.close()
        self.listener.close()

    def connect(self) -> End:
        """A client that is accepted by the proxy, or not."""
        address = ("127.0.0.1", self.proxy.port)
        client = End(socket.create_connection(address, PATIENCE))
        self.ends.append(client)
        return client

    def open(self) -> tuple[End, End]:
        """A client and the server's end of its connection."""
        client = self.connect()
        server = End(self.listener.accept()[0])
        self.ends.append(server)
        return client, server


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


def test_everything_passes_both_ways_and_is_counted(network: Network) -> None:
    client, server = network.open()
    client.say(b"question")
    assert server.hear(8) == b"question"
    server.say(b"answers")
    assert client.hear(7) == b"answers"
    proxy = network.proxy
    assert (proxy.connections, proxy.open, proxy.cuts) == (1, 1, 0)
    assert (proxy.to_server.passed, proxy.to_client.passed) == (8, 7)


def test_much_passes_to_a_slow_reader(network: Network) -> None:
    client, server = network.open()
    data = bytes(range(256)) * 100_000
    writer = threading.Thread(target=client.say, args=[data])
    writer.start()
    assert server.hear(len(data)) == data
    writer.join()


def test_an_end_passes_and_the_other_way_stays_open(network: Network) -> None:
    client, server = network.open()
    client.say(b"last words")
    client.socket.shutdown(socket.SHUT_WR)
    assert server.hear(100) == b"last words"
    server.say(b"bye")
    server.socket.close()
    assert client.hear(100) == b"bye"


def test_a_reset_passes(network: Network) -> None:
    client, server = network.open()
    server.say(b"x")
    assert client.hear(1) == b"x"
    client.say(b"never read")
    # Who closes with something unread resets.
    assert server.socket.recv(1, socket.MSG_PEEK) == b"n"
    server.socket.close()
    assert client.is_reset()


def test_a_client_of_a_server_that_is_down_is_reset(network: Network) -> None:
    network.listener.close()
    with pytest.raises(ConnectionResetError):  # Maybe before connect has returned.
        network.connect().hear(1)


def test_who_connects_is_refused_and_open_connections_stay(network: Network) -> None:
    client, server = network.open()
    network.proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        network.connect()
    client.say(b"still here")
    assert server.hear(10) == b"still here"
    network.proxy.mend()
    network.open()


def test_all_connections_are_reset_at_once_and_new_ones_are_not(
    network: Network,
) -> None:
    pairs = [network.open(), network.open()]
    network.proxy.cut()
    assert all(end.is_reset() for pair in pairs for end in pair)
    assert network.proxy.cuts == 2
    assert network.proxy.open == 0
    client, server = network.open()
    client.say(b"x")
    assert server.hear(1) == b"x"


def test_nothing_passes_while_it_hangs_and_all_of_it_afterwards(
    network: Network,
) -> None:
    client, server = network.open()
    network.proxy.hang()
    client.say(b"a")
    server.say(b"b")
    assert client.hears_nothing()
    assert server.hears_nothing()
    late, late_server = network.open()
    late.say(b"late")
    late.socket.close()
    assert late_server.hears_nothing()
    network.proxy.mend()
    assert server.hear(1) == b"a"
    assert client.hear(1) == b"b"
    assert late_server.hear(100) == b"late"


def test_what_is_held_is_lost_when_it_is_cut(network: Network) -> None:
    client, server = network.open()
    network.proxy.hang()
    client.say(b"a")
    assert server.hears_nothing()
    network.proxy.cut()
    network.proxy.mend()
    assert server.is_reset()
    assert network.proxy.to_server.passed == 0


def test_each_way_has_a_delay_of_its_own(network: Network) -> None:
    client, server = network.open()
    network.proxy.delay(to_client=0.2)
    start = time.monotonic()
    client.say(b"question")
    server.hear(8)
    asked = time.monotonic() - start
    server.say(b"answer")
    client.hear(6)
    assert time.monotonic() - start >= asked + 0.2


def test_a_limit_makes_it_slow(network: Network) -> None:
    client, server = network.open()
    network.proxy.limit(100_000)
    start = time.monotonic()
    client.say(bytes(30_000))
    assert len(server.hear(30_000)) == 30_000
    assert time.monotonic() - start >= 0.3


def test_replies_are_dropped_and_their_connection_is_of_no_use_then(
    network: Network,
) -> None:
    client, server = network.open()
    other, other_server = network.open()
    network.proxy.drop_replies()
    client.say(b"commit")
    assert server.hear(6) == b"commit"
    server.say(b"done")
    assert client.hears_nothing()
    network.proxy.mend()
    assert client.is_reset()
    assert server.is_reset()
    other_server.say(b"hello")
    assert other.hear(5) == b"hello"


def test_an_answer_that_is_looked_for_cuts_its_connection(network: Network) -> None:
    client, server = network.open()
    network.proxy.cut_after(b"COMMIT\0")
    server.say(b"BEGIN\0")
    assert client.hear(6) == b"BEGIN\0"
    server.say(b"C\0\0\0\x0bCOMMIT\0Z")
    assert client.is_reset()
    assert server.is_reset()
    assert network.proxy.cuts == 1
    again, again_server = network.open()
    again_server.say(b"COMMIT\0")
    assert again.hear(7) == b"COMMIT\0"


def test_an_answer_that_comes_in_pieces_is_found(network: Network) -> None:
    client, server = network.open()
    server.say(b"COM")
    assert client.hear(3) == b"COM"
    network.proxy.cut_after(b"COMMIT\0")
    server.say(b"MIT\0")
    assert client.is_reset()


def test_an_answer_that_was_given_before_is_not_the_one(network: Network) -> None:
    client, server = network.open()
    server.say(b"COMMIT\0")
    assert client.hear(7) == b"COMMIT\0"
    network.proxy.cut_after(b"COMMIT\0")
    server.say(b"BEGIN\0")
    assert client.hear(6) == b"BEGIN\0"


def test_the_answer_to_a_request_is_not_heard(network: Network) -> None:
    client, server = network.open()
    network.proxy.cut_answer_to(b"COMMIT")
    client.say(b"\x06\0\0\0\x03SELECT")
    assert server.hear(11) == b"\x06\0\0\0\x03SELECT"
    server.say(b"row")
    assert client.hear(3) == b"row"
    client.say(b"\x07\0\0\0\x03COM")
    client.say(b"MIT")
    assert server.hear(11) == b"\x07\0\0\0\x03COMMIT"
    server.say(b"\x07\0\0\x01\0\0\0\0\0\0\0")
    assert client.is_reset()
    assert server.is_reset()


@pytest.mark.parametrize("size", [1, 3, 7])
def test_it_is_cut_behind_any_byte_to_the_server(network: Network, size: int) -> None:
    client, server = network.open()
    network.proxy.cut_at(to_server=size)
    client.say(b"12345")
    if size > 5:
        assert server.hear(5) == b"12345"
        client.say(b"6789")
        assert server.hear(size - 5) == b"6789"[: size - 5]
    else:
        assert server.hear(size) == b"12345"[:size]
    assert server.is_reset()
    assert client.is_reset()


def test_it_is_cut_behind_any_byte_to_the_client(network: Network) -> None:
    client, server = network.open()
    network.proxy.cut_at(to_client=3)
    client.say(b"12345")
    assert server.hear(5) == b"12345"
    server.say(b"12345")
    assert client.hear(3) == b"123"
    assert client.is_reset()
    assert network.proxy.to_client.passed == 3


def test_it_is_cut_at_the_first_byte(network: Network) -> None:
    client, server = network.open()
    network.proxy.cut_at(to_server=0)
    client.say(b"1")
    assert server.is_reset()
    assert network.proxy.to_server.passed == 0


def test_each_connection_is_cut_behind_another_byte(network: Network) -> None:
    network.proxy.cut_each_at(to_server=[1, 3], to_client=[5, 5])
    for size in (1, 3):
        client, server = network.open()
        client.say(b"12345")
        assert server.hear(size) == b"12345"[:size]
        assert client.is_reset()
        assert server.is_reset()
    client, server = network.open()
    client.say(b"12345")
    assert server.hear(5) == b"12345"


def test_what_comes_is_held_until_it_is_enough(network: Network) -> None:
    client, server = network.open()
    network.proxy.buffer(6, seconds=PATIENCE)
    client.say(b"12345")
    assert server.hears_nothing()
    client.say(b"678")
    assert server.hear(8) == b"12345678"


def test_or_until_it_is_late_or_the_end(network: Network) -> None:
    client, server = network.open()
    network.proxy.buffer(100, seconds=SILENCE)
    client.say(b"12345")
    assert server.hear(5) == b"12345"
    network.proxy.buffer(100, seconds=PATIENCE)
    server.say(b"67")
    server.socket.shutdown(socket.SHUT_WR)
    assert client.hear(3) == b"67"


def test_a_connection_is_cut_when_nothing_comes(network: Network) -> None:
    client, server = network.open()
    network.proxy.cut_idle(3600)
    client.say(b"1")
    assert server.hear(1) == b"1"
    network.proxy.cut_idle(SILENCE)
    assert client.is_reset()
    assert server.is_reset()
    assert network.proxy.cuts == 1
    network.proxy.mend()
    client, server = network.open()
    server.say(b"1")
    assert client.hear(1) == b"1"


def test_a_fault_that_has_not_come_is_mended(network: Network) -> None:
    client, server = network.open()
    network.proxy.cut_at(to_server=3)
    network.proxy.cut_after(b"x")
    network.proxy.mend()
    client.say(b"12345")
    assert server.hear(5) == b"12345"
    server.say(b"x")
    assert client.hear(1) == b"x"


def test_nothing_is_left_when_it_ends(network: Network) -> None:
    threads = threading.active_count()
    with Proxy(network.proxy.port) as proxy:
        address = ("127.0.0.1", proxy.port)
        client = End(socket.create_connection(address, PATIENCE))
        network.ends += [client, End(network.listener.accept()[0])]
        proxy.hang()
        client.say(b"x")
    assert all(end.is_reset() for end in network.ends)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert threading.active_count() == threads
