"""``collab token``: tokens made for development and scripts, and explained."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click
import jwt

from ..auth import Access
from ..errors import AccessDenied, Unavailable
from ..keys import BadKey, Private, read_private, read_secret
from ..tokens import NOBODY, Claims, read_body, read_head, read_rules
from .authentication import FILE, token_options, tokens_of
from .common import FAILED, UNITS, Mistake, answer, as_json, seconds_of


@click.group()
def token() -> None:
    """Make tokens for development and scripts, and explain them."""


def _rules(
    context: object, parameter: object, values: tuple[str, ...]
) -> dict[str, str]:
    rules = dict(_split(value) for value in values)
    try:
        read_rules({"documents": rules})
    except AccessDenied as exc:
        raise click.BadParameter(f"{exc}.".replace("of the token ", "")) from exc
    return rules


def _split(value: str) -> tuple[str, str]:
    pattern, sign, access = value.rpartition("=")
    if not sign:
        words = "|".join([*(one.value for one in Access), NOBODY])
        raise click.BadParameter(f"{value!r} is not of the form PATTERN={words}.")
    return pattern, access


@token.command()
@click.option(
    "--jwt-secret",
    envvar="COLLAB_JWT_SECRET",
    metavar="SECRET",
    help="The secret of the server. Rather set COLLAB_JWT_SECRET.",
)
@click.option(
    "--jwt-secret-file",
    envvar="COLLAB_JWT_SECRET_FILE",
    type=FILE,
    help="The same, in a file.",
)
@click.option(
    "--private-key",
    type=FILE,
    help="The private key (PEM) whose public half the server has.",
)
@click.option("--kid", metavar="NAME", help="The name of the key, for --jwks.")
@click.option("--user", metavar="NAME", default="", help="Whose token it is (sub).")
@click.option("--name", metavar="NAME", default="", help="What people call them.")
@click.option(
    "--allow",
    "rules",
    multiple=True,
    required=True,
    metavar="PATTERN=ACCESS",
    callback=_rules,
    help="Documents, and read, write, admin or none: notes/*=write. May be given "
    "several times.",
)
@click.option(
    "--for",
    "seconds",
    default="1h",
    show_default=True,
    metavar="AGE",
    callback=seconds_of,
    help="How long it is good for.",
)
@click.option(
    "--jwt-audience",
    "audiences",
    envvar="COLLAB_JWT_AUDIENCE",
    multiple=True,
    metavar="NAME",
    help="For whom it is (aud); of several that the server takes, the first.",
)
@click.option(
    "--jwt-issuer",
    "issuers",
    envvar="COLLAB_JWT_ISSUER",
    multiple=True,
    metavar="NAME",
    help="From whom it is (iss), likewise.",
)
def mint(
    jwt_secret: str | None,
    jwt_secret_file: Path | None,
    private_key: Path | None,
    kid: str | None,
    user: str,
    name: str,
    rules: dict[str, str],
    seconds: int,
    audiences: tuple[str, ...],
    issuers: tuple[str, ...],
) -> None:
    """Make a token, and print it.

    \b
        collab token mint --user ann --allow 'notes/*=write' --allow handbook=read
    """
    key, algorithm = _signer(jwt_secret, jwt_secret_file, private_key)
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": user,
        "name": name,
        "aud": next(iter(audiences), ""),
        "iss": next(iter(issuers), ""),
        "documents": rules,
        "jti": secrets.token_hex(8),
        "iat": now,
        "exp": now + seconds,
    }
    said = {claim: value for claim, value in claims.items() if value != ""}
    headers = None if kid is None else {"kid": kid}
    click.echo(jwt.encode(said, key, algorithm, headers))


def _signer(
    secret: str | None, secret_file: Path | None, private_key: Path | None
) -> tuple[bytes | Private, str]:
    try:
        if private_key is not None:
            return read_private(private_key.read_bytes())
        value: str | bytes | None = secret
        if secret_file is not None:
            value = secret_file.read_bytes().rstrip(b"\r\n")
        if value is None:
            raise click.UsageError(
                "Sign it with --private-key, or with the secret in COLLAB_JWT_SECRET "
                "or --jwt-secret-file."
            )
        shared = read_secret(value).value
    except BadKey as exc:
        raise click.UsageError(str(exc)) from exc
    assert isinstance(shared, bytes)
    return shared, "HS256"


@token.command()
@click.argument("text", metavar="[TOKEN]", default="-")
@token_options
@click.option("--document", metavar="NAME", help="Say what it allows with this one.")
@as_json
def inspect(text: str, document: str | None, in_json: bool, **options: Any) -> None:
    """Explain a token: whose it is, what it allows, until when, and why not.

    It is read from standard input if it isn't given, and so kept out of the history of
    the shell. The options are those of `collab serve`. Exits with 1 if the server would
    let nobody in with it.
    """
    if text == "-":
        text = sys.stdin.read(1_000_000)
    text = text.strip()
    tokens = tokens_of(options)
    try:
        algorithm, kid = read_head(text)
        claims = read_body(text)
    except AccessDenied as exc:
        _stop(in_json, f"{exc}")
    valid: Claims | None = None
    why = "the signature was not checked: no key was given"
    if tokens is not None:

        async def read() -> Claims:
            try:
                return await tokens.read(text)
            finally:
                await tokens.close()

        try:
            valid = asyncio.run(read())
            if document is not None:
                valid.grant(document)
            why = ""
        except AccessDenied as exc:
            why = str(exc)
        except Unavailable as exc:
            raise Mistake(f"Cannot check the signature: {exc}.") from exc
    if in_json:
        answer({"valid": not why, "why": why, "claims": claims})
    else:
        _explain(claims, algorithm, kid, why)
        if document is not None and valid is not None and not why:
            access = valid.grant(document).access.value
            click.echo(f"with {document!r}: {access}")
    if why:
        sys.exit(FAILED)


def _stop(in_json: bool, why: str) -> NoReturn:
    if in_json:
        answer({"valid": False, "why": why, "claims": None})
    else:
        click.echo(f"Not valid: {why}.")
    sys.exit(FAILED)


def _explain(claims: dict[str, Any], algorithm: str, kid: str, why: str) -> None:
    click.echo(f"Not valid: {why}." if why else "Valid.")
    rows = [
        ("user", claims.get("sub")),
        ("name", claims.get("name")),
        ("issuer", claims.get("iss")),
        ("audience", claims.get("aud")),
        ("id", claims.get("jti")),
        ("issued", _moment(claims.get("iat"))),
        ("not before", _moment(claims.get("nbf"))),
        ("until", _until(claims.get("exp"))),
        ("signed", f"{algorithm}, key {kid!r}" if kid else algorithm),
    ]
    for title, value in rows:
        if value is not None:
            shown = value if isinstance(value, str) else json.dumps(value)
            click.echo(f"{title + ':':<12}{_plain(shown)}")
    if "document" in claims:
        click.echo(f"allows:     {_plain(str(claims['document']))}: ", nl=False)
        click.echo(_plain(str(claims.get("access"))))
    named = claims.get("documents")
    for pattern, access in (named if isinstance(named, dict) else {}).items():
        click.echo(f"allows:     {_plain(pattern)}: {_plain(str(access))}")


def _plain(text: str) -> str:
    """What nobody has verified, without what a terminal would do something at."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _moment(at: object) -> str | None:
    if at is None:
        return None
    if isinstance(at, int | float) and 0 <= at < 253402300800:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}Z"
    return f"{json.dumps(at)}, which is no time"


def _until(at: object) -> str:
    if at is None:
        return "no end is named"
    said = _moment(at)
    assert said is not None
    if isinstance(at, int | float) and said.endswith("Z"):
        left = at - time.time()
        unit = next(u for u in "dhms" if abs(left) >= UNITS[u] or u == "s")
        count = int(abs(left) // UNITS[unit])
        return f"{said} ({f'in {count}' if left > 0 else f'{count}'}{unit}" + (
            ")" if left > 0 else " ago)"
        )
    return said
