"""Where a client really is."""

from __future__ import annotations

import pytest

from collab.proxies import Peer, Proxies

TRUSTING = Proxies("10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48")


def locate(host: str, *headers: tuple[str, str]) -> Peer:
    return TRUSTING.locate(host, 4711, headers)


def test_without_a_proxy_a_client_is_where_it_connects_from() -> None:
    assert str(locate("203.0.113.9")) == "203.0.113.9:4711"


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded"])
def test_nobody_else_may_say_where_a_client_is(name: str) -> None:
    value = "198.51.100.1" if name != "forwarded" else "for=198.51.100.1"
    peer = locate("203.0.113.9", (name, value), ("x-forwarded-proto", "https"))
    assert (peer.host, peer.port, peer.secure) == ("203.0.113.9", 4711, False)
    assert peer.forwarded


def test_nobody_is_trusted_unless_it_is_said() -> None:
    peer = Proxies().locate("127.0.0.1", 1, [("x-forwarded-for", "198.51.100.1")])
    assert peer.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("198.51.100.1", "198.51.100.1"),
        (" 198.51.100.1 ", "198.51.100.1"),
        ("198.51.100.1:5000", "198.51.100.1:5000"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        # What stands before what an untrusted one says may be a lie.
        ("1.1.1.1, 198.51.100.1", "198.51.100.1"),
        ("198.51.100.1, 10.1.1.1, 192.0.2.7", "198.51.100.1"),
        ("1.1.1.1, 198.51.100.1, 10.1.1.1", "198.51.100.1"),
        ("10.9.9.9, 10.1.1.1", "10.9.9.9"),
        # Hidden, or made up.
        ("unknown", "10.0.0.1:4711"),
        ("", "10.0.0.1:4711"),
        ("198.51.100.1, unknown, 10.1.1.1", "10.1.1.1"),
        ("198.51.100.1\x1b[31m", "10.0.0.1:4711"),
        ("198.51.100.1:99999", "10.0.0.1:4711"),
        ("198.51.100.1:x", "10.0.0.1:4711"),
        ("a" * 10_000, "10.0.0.1:4711"),
    ],
)
def test_a_trusted_proxy_is_believed(value: str, host: str) -> None:
    assert str(locate("10.0.0.1", ("x-forwarded-for", value))) == host


def test_a_header_may_come_several_times() -> None:
    peer = locate(
        "10.0.0.1", ("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "198.51.100.1")
    )
    assert peer.host == "198.51.100.1"


@pytest.mark.parametrize(
    ("value", "host", "secure"),
    [
        ("for=198.51.100.1", "198.51.100.1", False),
        ("For=198.51.100.1;proto=https;by=10.0.0.1", "198.51.100.1", True),
        ('for="[2001:db8::1]:5000";proto=http', "2001:db8::1", False),
        ("for=1.1.1.1, for=198.51.100.1", "198.51.100.1", False),
        ("for=_hidden", "10.0.0.1", False),
        ("proto=https", "10.0.0.1", True),
    ],
)
def test_the_standard_header_says_it_too(value: str, host: str, secure: bool) -> None:
    peer = locate("10.0.0.1", ("forwarded", value))
    assert (peer.host, peer.secure) == (host, secure)


def test_one_header_counts() -> None:
    # A proxy that adds to the one passes on the other as the client wrote it.
    peer = locate(
        "10.0.0.1", ("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "198.51.100.1")
    )
    assert peer.host == "198.51.100.1"


def test_a_chain_without_an_end_is_not_followed() -> None:
    peer = locate("10.0.0.1", ("x-forwarded-for", "1.1.1.1" + ", 10.0.0.2" * 10_000))
    assert peer.host == "10.0.0.2"


@pytest.mark.parametrize(
    ("scheme", "secure"),
    [("https", True), ("http", False), ("WSS", True), ("ftp", False), ("", False)],
)
def test_a_proxy_says_whether_it_was_reached_over_tls(
    scheme: str, secure: bool
) -> None:
    peer = locate("10.0.0.1", ("x-forwarded-proto", scheme))
    assert peer.secure is secure


@pytest.mark.parametrize(
    ("host", "block"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("2001:db8:1:3::9", "2001:db8:1:3::"),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("unix socket", ""),
    ],
)
def test_a_household_counts_as_one(host: str, block: str) -> None:
    assert Peer(host).block == block


@pytest.mark.parametrize("text", ["proxy.example.com", "10.0.0.0/33", "10.0.0.1/8", ""])
def test_a_proxy_is_an_address_or_a_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear|has host bits"):
        Proxies(text)
