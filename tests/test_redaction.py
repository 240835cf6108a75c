"""Tokens in URLs that a server writes into its log."""

from __future__ import annotations

import logging

import pytest

from collab.redaction import Redaction, keep_tokens_secret, redact


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("/ws/d?token=abc", "/ws/d?token=[redacted]"),
        ("/ws/d?a=1&token=abc&b=2", "/ws/d?a=1&token=[redacted]&b=2"),
        ("/ws/d?token=a.b-c_d%3D", "/ws/d?token=[redacted]"),
        ("/ws/d?token=a&token=b", "/ws/d?token=[redacted]&token=[redacted]"),
        ("/ws/d?%74%6Fken=abc", "/ws/d?%74%6Fken=[redacted]"),
        ("/ws/d?token=a=b", "/ws/d?token=[redacted]"),
        ('"GET /ws?token=abc HTTP/1.1" 200', '"GET /ws?token=[redacted] HTTP/1.1" 200'),
        ("/ws/token=abc", "/ws/token=abc"),
        ("/ws/d?tokens=abc&doc=token", "/ws/d?tokens=abc&doc=token"),
        ("no URL at all", "no URL at all"),
    ],
)
def test_a_token_is_hidden_and_nothing_else(text: str, hidden: str) -> None:
    assert redact(text) == hidden


def test_it_is_hidden_in_each_argument(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.redaction")
    logger.addFilter(Redaction())
    logger.warning('%s - "%s" %d', "1.2.3.4", "/ws?token=abc", 101)
    logger.warning("/ws?token=abc")
    logger.warning("%(a)s", {"a": 1})
    said = '1.2.3.4 - "/ws?token=[redacted]" 101'
    assert caplog.messages == [said, "/ws?token=[redacted]", "1"]


def test_doing_it_twice_changes_nothing() -> None:
    logger = logging.getLogger("uvicorn.access")
    keep_tokens_secret()
    count = len(logger.filters)
    keep_tokens_secret()
    assert len(logger.filters) == count > 0
