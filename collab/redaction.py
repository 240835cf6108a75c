"""What logs are kept clean of: tokens in URLs, and lines that somebody else wrote.

What a client says of itself may be meant to look like a line of ours, or to be obeyed
by a terminal. So there is one line for each thing that is said; only the traceback of
an error has several, and those are indented.
"""

from __future__ import annotations

import logging
import re
import traceback
from urllib.parse import unquote_plus

SERVERS = ("uvicorn.access", "uvicorn.error")
"""Loggers of servers that write whole URLs."""

OURS = "collab."

_PARAMETER = re.compile(r"(?<=[?&])([^=&?\s\"]+)=[^&\s\"]*")


def redact(text: str) -> str:
    """A text with the parameter ``token`` of each URL in it hidden."""
    return _PARAMETER.sub(_hide, text)


def _hide(parameter: re.Match[str]) -> str:
    hidden = unquote_plus(parameter[1]) == "token"
    return f"{parameter[1]}=[redacted]" if hidden else parameter[0]


def escape(text: str) -> str:
    """A text in one line, in which nothing moves a cursor, or the other letters."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


class Lines(str):
    """A text of several lines that a program wrote, such as a traceback."""

    __slots__ = ()


class _Indented(str):
    """Lines that were cleaned, none of which looks like the beginning of another."""

    __slots__ = ()


class _Shown:
    """Something that is cleaned when it is shown."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __str__(self) -> str:
        return escape(redact(str(self.value)))

    def __repr__(self) -> str:
        return escape(redact(repr(self.value)))


def _clean(value: object) -> object:
    match value:
        case int() | float() | None | _Indented() | _Shown():
            return value
        case Lines():
            lines = [escape(redact(line)) for line in value.split("\n")]
            return _Indented("\n".join(f"    {line}" for line in lines))
        case str():
            return escape(redact(value))
        case _:
            return _Shown(value)


class Redaction(logging.Filter):
    """Cleans what a logger is given."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, cleaned. Doing it twice changes nothing."""
        if isinstance(record.msg, str) and record.args:
            record.msg = redact(record.msg)
        else:
            record.msg = _clean(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(map(_clean, record.args))
        elif record.args is not None:
            record.args = {key: _clean(value) for key, value in record.args.items()}
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            lines = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            record.exc_text = str(_clean(Lines(lines)))
        return True


REDACTION = Redaction()


def keep_logs_clean() -> None:
    """Clean what we log, and uvicorn. Doing it twice changes nothing."""
    ours = [name for name in logging.root.manager.loggerDict if name.startswith(OURS)]
    for name in (*SERVERS, *ours):
        logging.getLogger(name).addFilter(REDACTION)
