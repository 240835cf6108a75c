"""Tokens in URLs, kept out of the logs of the server that runs us."""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote_plus

SERVERS = ("uvicorn.access", "uvicorn.error")
"""Loggers of servers that write whole URLs."""

_PARAMETER = re.compile(r"(?<=[?&])([^=&?\s\"]+)=[^&\s\"]*")


def redact(text: str) -> str:
    """A text with the parameter ``token`` of each URL in it hidden."""
    return _PARAMETER.sub(_hide, text)


def _hide(parameter: re.Match[str]) -> str:
    hidden = unquote_plus(parameter[1]) == "token"
    return f"{parameter[1]}=[redacted]" if hidden else parameter[0]


class Redaction(logging.Filter):
    """Hides tokens in what a logger is given."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without tokens."""
        if isinstance(record.msg, str):
            record.msg = redact(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(
                redact(value) if isinstance(value, str) else value
                for value in record.args
            )
        return True


_REDACTION = Redaction()


def keep_tokens_secret() -> None:
    """Have uvicorn hide tokens in what it logs. Doing it twice changes nothing."""
    for name in SERVERS:
        logging.getLogger(name).addFilter(_REDACTION)
