"""What a log must not have in it: tokens, and lines that somebody else wrote."""

from __future__ import annotations

import logging

import pytest

from collab.redaction import Lines, Redaction, escape, keep_logs_clean, redact


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
    logger.warning("%(a)s %(b)d", {"a": "/ws?token=abc", "b": 1})
    hidden = "/ws?token=[redacted]"
    said = f'1.2.3.4 - "{hidden}" 101'
    assert caplog.messages == [said, hidden, f"{hidden} 1"]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain, grüße 漢字 😀", "plain, grüße 漢字 😀"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("\x00\x7f\x08", "\\x00\\x7f\\x08"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_would_not_stay_in_its_place_is_escaped(text: str, escaped: str) -> None:
    assert escape(text) == escaped


FORGED = "x\n2026-01-01 00:00:00 ERROR collab: owned \x1b[2J /ws?token=abc"
SHOWN = "x\\n2026-01-01 00:00:00 ERROR collab: owned \\x1b[2J /ws?token=[redacted]"


def test_one_thing_that_is_said_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.redaction.lines")
    logger.addFilter(Redaction())
    logger.addFilter(Redaction())  # As when a handler has one, too.
    logger.warning("%s, %r", FORGED, ValueError(FORGED))
    logger.warning(FORGED)
    logger.warning(ValueError(FORGED))
    logger.warning("%s", [FORGED])
    first, second, third, fourth = caplog.messages
    assert first.startswith(f"{SHOWN}, ValueError(")
    assert second == third == SHOWN
    assert fourth.startswith("['x\\n2026-01-01 00:00:00 ERROR")
    assert all(message.isprintable() for message in caplog.messages)


def test_of_an_error_all_lines_are_told_and_none_looks_like_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("tests.redaction.errors")
    logger.addFilter(Redaction())
    logger.addFilter(Redaction())
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("it failed")
    logger.error("it failed\n%s", Lines("Traceback\n  of \x1b"))
    first, *others = caplog.text.splitlines()
    assert first.endswith("it failed")
    (second,) = [line for line in others if not line.startswith("    ")]
    assert second.endswith("it failed")
    assert others[-2:] == ["    Traceback", "      of \\x1b"]
    assert "    2026-01-01 00:00:00 ERROR collab: owned \\x1b[2J" in caplog.text
    assert "token=abc" not in caplog.text


def test_all_our_loggers_are_kept_clean() -> None:
    import collab.app  # noqa: F401

    keep_logs_clean()
    ours = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith("collab.") and isinstance(logger, logging.Logger)
    ]
    assert {"collab.hub", "collab.websocket"} <= {logger.name for logger in ours}
    for logger in ours:
        assert any(isinstance(one, Redaction) for one in logger.filters), logger.name


def test_doing_it_twice_changes_nothing() -> None:
    logger = logging.getLogger("uvicorn.access")
    keep_logs_clean()
    count = len(logger.filters)
    keep_logs_clean()
    assert len(logger.filters) == count > 0
