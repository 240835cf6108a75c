"""Which web pages may use this server. Hosts and origins are as browsers send them."""

from __future__ import annotations

import pytest

from collab.errors import OriginDenied
from collab.origins import (
    Origins,
    Trust,
    brings_credentials,
    cross_origin_headers,
    is_loopback,
    preflight_headers,
)

HERE = "collab.example.com"


def judge(
    origin: str | None,
    *allowed: str,
    host: str = HERE,
    secure: bool = True,
    anonymous: bool = False,
    local: bool = False,
) -> Trust:
    return Origins(*allowed, local=local).judge(origin, host, secure, anonymous)


@pytest.mark.parametrize("anonymous", [False, True])
def test_who_is_no_browser_may_come(anonymous: bool) -> None:
    assert judge(None, anonymous=anonymous) is Trust.FULL


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("https://collab.example.com", "collab.example.com", True),
        ("https://collab.example.com", "collab.example.com:443", True),
        ("https://Collab.Example.com", "collab.example.COM", True),
        ("https://collab.example.com:8443", "collab.example.com:8443", True),
        ("http://collab.example.com", "collab.example.com", False),
        ("http://192.0.2.1:8000", "192.0.2.1:8000", False),
        ("http://[2001:db8::1]:8000", "[2001:db8::1]:8000", False),
        # A proxy may have ended TLS, and not said so.
        ("https://collab.example.com", "collab.example.com", False),
    ],
)
def test_our_own_pages_may_come(origin: str, host: str, secure: bool) -> None:
    assert judge(origin, host=host, secure=secure, anonymous=True) is Trust.FULL


FOREIGN = [
    "https://evil.example",
    "https://example.com",
    "https://collab.example.com.evil.example",
    "https://evilcollab.example.com",
    "https://collab.example.com:8443",
    "https://collab.example.com.",
    "http://collab.example.com",
    "https://collab.example.com@evil.example",
    "https://evil.example#https://collab.example.com",
    "https://evil.example/collab.example.com",
    "https://collab.example.com/",
    "https://collab.example.com\x00",
    "https://collab.exa\tmple.com",
    "https://collab.example.com:443:443",
    "https://collab.example.com:99999999999",
    "https://collab.example.com, https://collab.example.com",
    "collab.example.com",
    "//collab.example.com",
    "file://",
    "chrome-extension://abcdefghijklmnop",
    "https://",
    "https://:443",
    "https://[collab.example.com]",
    "https://" + "a" * 600 + ".example.com",
    "null",
    "NULL",
    "*",
    "",
]


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_others_may_not_come_to_a_server_that_asks_nobody(
    origin: str,
) -> None:
    assert judge(origin, anonymous=True) is Trust.NONE


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_others_may_come_with_a_token_and_without_cookies(
    origin: str,
) -> None:
    assert judge(origin) is Trust.BARE


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_that_is_not_listed_may_not_come(origin: str) -> None:
    assert judge(origin, "https://app.example.com") is Trust.NONE


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://app.example.com", "https://APP.example.com"),
        ("https://APP.example.com:443", "https://app.example.com"),
        ("https://app.example.com", "https://app.example.com:443"),
        ("http://app.example.com:3000", "http://app.example.com:3000"),
        ("https://*.example.com", "https://app.example.com"),
        ("https://*.example.com", "https://a.b.example.com"),
        ("https://*.example.com:8443", "https://app.example.com:8443"),
        ("http://[2001:db8::1]:3000", "http://[2001:db8::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_a_page_that_is_listed_may_come_with_cookies(pattern: str, origin: str) -> None:
    assert judge(origin, pattern, anonymous=True) is Trust.FULL


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://app.example.org", "http://app.example.org"),
        ("https://app.example.org", "https://app.example.org:444"),
        ("https://app.example.org", "https://x.app.example.org"),
        ("https://app.example.org", "https://xapp.example.org"),
        ("https://app.example.org", "https://app.example.org.evil.example"),
        ("https://app.example.org", "https://app-example.org"),
        ("https://*.example.org", "https://example.org"),
        ("https://*.example.org", "https://evilexample.org"),
        ("https://*.example.org", "https://app.example.org.evil.example"),
        ("https://*.example.org", "https://.example.org"),
        ("https://*.example.org", "https://evil.example/.example.org"),
        ("https://*.example.org", "http://app.example.org"),
        ("https://*.example.org", "https://app.example.org:8443"),
        ("capacitor://localhost", "http://localhost"),
    ],
)
def test_a_page_that_is_nearly_listed_may_not_come(pattern: str, origin: str) -> None:
    assert judge(origin, pattern) is Trust.NONE


@pytest.mark.parametrize(
    "pattern",
    [
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://*",
        "https://*.com",
        "https://*.com.",
        "https://app.*.com",
        "https://*app.example.com",
        "https://*.*.example.com",
        "https://*.192.0.2.1",
        "ws://app.example.com",
        "file://",
        "null",
        "",
    ],
)
def test_a_pattern_that_says_something_else_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is no origin|let in strangers"):
        Origins(pattern)


@pytest.mark.parametrize("anonymous", [False, True])
def test_a_star_lets_all_pages_come_without_cookies(anonymous: bool) -> None:
    assert judge("https://evil.example", "*", anonymous=anonymous) is Trust.BARE
    assert judge("null", "*", anonymous=anonymous) is Trust.BARE


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:5173", "localhost:8000"),
        ("http://localhost:5173", "127.0.0.1:8000"),
        ("http://127.0.0.1:3000", "localhost:8000"),
        ("http://[::1]:3000", "localhost:8000"),
        ("https://app.localhost", "localhost:8000"),
        ("http://localhost:8000", "localhost:8000"),
    ],
)
def test_pages_of_this_machine_may_come_to_this_machine(
    origin: str, host: str, local: bool
) -> None:
    trust = judge(origin, host=host, secure=False, anonymous=True, local=local)
    assert trust is Trust.FULL


def test_a_page_of_the_visitors_machine_is_foreign_to_a_server_elsewhere() -> None:
    assert judge("http://localhost:5173", anonymous=True) is Trust.NONE


@pytest.mark.parametrize("host", ["localhost:8000", "0.0.0.0:8000", "[::1]:8000"])
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost.evil.example", "file://"],
)
def test_other_pages_may_not_come_to_this_machine(origin: str, host: str) -> None:
    trust = judge(origin, host=host, secure=False, anonymous=True, local=True)
    assert trust is Trust.NONE


def test_a_name_that_was_made_to_mean_this_machine_is_not_its_own() -> None:
    trust = judge(
        "http://evil.example:8000",
        host="evil.example:8000",
        secure=False,
        anonymous=True,
        local=True,
    )
    assert trust is Trust.NONE


def test_who_brings_cookies_from_elsewhere_is_refused() -> None:
    origins = Origins()
    page = "https://app.example.org"
    assert origins.check(page, HERE, True, False, credentials=False) is Trust.BARE
    with pytest.raises(OriginDenied, match=r"app\.example\.org.*with cookies"):
        origins.check(page, HERE, True, False, credentials=True)
    listed = Origins(page)
    assert listed.check(page, HERE, True, False, credentials=True) is Trust.FULL


@pytest.mark.parametrize(
    ("cookie", "authorization", "brought"),
    [
        (None, None, False),
        ("", "", False),
        ("session=1", None, True),
        (None, "Bearer abc", False),
        (None, "bearer abc", False),
        (None, "Basic YTpi", True),
        (None, "Negotiate abc", True),
    ],
)
def test_what_a_browser_adds_by_itself_is_known(
    cookie: str | None, authorization: str | None, brought: bool
) -> None:
    assert brings_credentials(cookie, authorization) is brought


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("localhost.", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("0.0.0.0", True),
        ("[::]", True),
        ("notlocalhost", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("192.168.0.1", False),
        ("", False),
    ],
)
def test_this_machine_has_many_names(host: str, here: bool) -> None:
    assert is_loopback(host) is here


def test_a_page_may_read_what_it_may_ask_for() -> None:
    page = "https://app.example.com"
    assert cross_origin_headers(page, Trust.NONE) == {"Vary": "Origin"}
    assert cross_origin_headers(None, Trust.FULL) == {"Vary": "Origin"}
    bare = cross_origin_headers(page, Trust.BARE)
    assert bare == {"Vary": "Origin", "Access-Control-Allow-Origin": page}
    full = cross_origin_headers(page, Trust.FULL)
    assert full == {**bare, "Access-Control-Allow-Credentials": "true"}


def test_a_browser_that_asks_first_is_told_what_may_be_sent() -> None:
    page = "https://app.example.com"
    methods, names = ["POST"], ["Authorization", "Content-Type"]
    refused = preflight_headers(page, Trust.NONE, methods, names)
    assert refused == {"Vary": "Origin"}
    headers = preflight_headers(page, Trust.FULL, methods, names)
    assert headers["Access-Control-Allow-Methods"] == "POST"
    assert headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type"
    assert headers["Access-Control-Allow-Origin"] == page
