"""The options that say who is let in, and what they make."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from ..auth import Access, AnyOf, Authenticator, Authorize
from ..tokens import LEEWAY, Tokens
from ..webhook import CACHE, TIMEOUT, Webhook

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

WAYS = "--jwt-secret, --jwt-key, --jwks, --auth-webhook or --authorize"
"""The options that let somebody in."""


def _load_function(
    context: click.Context, option: click.Parameter, value: str | None
) -> Authorize | None:
    """What ``MODULE:NAME`` names: a function, or one of our authenticators."""
    if value is None:
        return None
    module, _, name = value.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise click.BadParameter(f"Cannot import {value!r}: {exc}.") from exc
    if not inspect.iscoroutinefunction(found) and not isinstance(found, Authenticator):
        raise click.BadParameter(f"{value!r} is not an async function.")
    authorize: Authorize = found
    return authorize


def _option(name: str, **settings: Any) -> Callable[[F], F]:
    """An option that can be set in the environment, whatever the command."""
    variable = f"COLLAB_{name.removeprefix('--').upper().replace('-', '_')}"
    return click.option(name, envvar=variable, **settings)


_TOKENS = [
    _option(
        "--jwt-secret",
        metavar="SECRET",
        help="Let in who has a JSON Web Token that was signed with this secret (HS256 "
        "to HS512). Of 32 bytes at least; others on this machine may see a command's "
        "options, so rather set COLLAB_JWT_SECRET.",
    ),
    _option("--jwt-secret-file", type=FILE, help="The same, in a file."),
    _option(
        "--jwt-key",
        type=FILE,
        multiple=True,
        help="The same, by a public key: PEM, a certificate, a JSON Web Key or a set "
        "(RS, PS, ES, EdDSA). May be given several times.",
    ),
    _option(
        "--jwks",
        metavar="URL",
        help="The same, by the keys that an identity provider publishes there.",
    ),
    _option(
        "--jwt-audience",
        metavar="NAME",
        multiple=True,
        help="What a token must name as its audience (aud), or one of them.",
    ),
    _option(
        "--jwt-issuer",
        metavar="NAME",
        multiple=True,
        help="What a token must name as its issuer (iss), or one of them.",
    ),
    _option(
        "--jwt-leeway",
        metavar="SECONDS",
        type=click.FloatRange(0, 3600),
        default=LEEWAY,
        show_default=True,
        help="By how much clocks may differ.",
    ),
    _option(
        "--jwt-access",
        type=click.Choice([access.value for access in Access]),
        help="What a token allows that names no documents: this, for all of them. "
        "Without it, nothing.",
    ),
    _option(
        "--jwt-claim",
        metavar="NAME",
        default="documents",
        show_default=True,
        help="Where a token names documents.",
    ),
    _option(
        "--jwt-cookie",
        metavar="NAME",
        default="",
        help="A cookie that has the token, for clients that bring it nowhere else.",
    ),
]

_OTHERS = [
    _option(
        "--auth-webhook",
        metavar="URL",
        help="Let in whom your application lets in: it is asked there about everybody.",
    ),
    _option(
        "--auth-webhook-forward",
        metavar="HEADER",
        multiple=True,
        default=["cookie"],
        show_default=True,
        help="A header of the client to pass on. May be given several times.",
    ),
    _option(
        "--auth-webhook-timeout",
        metavar="SECONDS",
        type=click.FloatRange(0, 9, min_open=True),
        default=TIMEOUT,
        show_default=True,
        help="When an answer must be there. Later nobody is let in.",
    ),
    _option(
        "--auth-webhook-cache",
        metavar="SECONDS",
        type=click.FloatRange(0, 3600),
        default=CACHE,
        show_default=True,
        help="How long an answer is remembered.",
    ),
    _option(
        "--auth-webhook-secret",
        metavar="SECRET",
        help="Sign requests with it, as Standard Webhooks are.",
    ),
    _option(
        "--authorize",
        metavar="MODULE:FUNCTION",
        callback=_load_function,
        help="An async function of yours that decides who may open what. It is given a "
        "collab.Attempt, and returns a collab.Grant or None. MODULE is also looked for "
        "in the working directory.",
    ),
]


def token_options(command: F) -> F:
    """Give a command the options that say which tokens are good."""
    for option in reversed(_TOKENS):
        command = option(command)
    return command


def authentication_options(command: F) -> F:
    """Give a command all options that say who is let in."""
    for option in reversed(_OTHERS):
        command = option(command)
    return token_options(command)


def tokens_of(options: Mapping[str, Any]) -> Tokens | None:
    """What the options say of tokens; ``None`` if they name no key.

    Raises:
        click.UsageError: If they cannot be used.
    """
    secret, file = options["jwt_secret"], options["jwt_secret_file"]
    if secret is not None and file is not None:
        raise click.UsageError("Give --jwt-secret or --jwt-secret-file, and not both.")
    if file is not None:
        # Who makes such files ends them with a line.
        secret = file.read_bytes().rstrip(b"\r\n")
    keys, jwks = options["jwt_key"], options["jwks"]
    if secret is None and not keys and jwks is None:
        _check_alone("jwt_", "--jwt-secret, --jwt-key or --jwks")
        return None
    access = options["jwt_access"]
    try:
        return Tokens(
            secret=secret,
            key=keys,
            jwks=jwks,
            audience=options["jwt_audience"],
            issuer=options["jwt_issuer"],
            leeway=options["jwt_leeway"],
            access=None if access is None else Access(access),
            claim=options["jwt_claim"],
            cookie=options["jwt_cookie"],
        )
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


def authorize_of(options: Mapping[str, Any]) -> Authorize | None:
    """What the options make; ``None`` if nobody is asked who they are.

    Raises:
        click.UsageError: If they cannot be used.
    """
    choices: list[Authorize] = []
    tokens = tokens_of(options)
    if tokens is not None:
        choices.append(tokens)
    if options["auth_webhook"] is None:
        _check_alone("auth_webhook_", "--auth-webhook")
    else:
        try:
            webhook = Webhook(
                options["auth_webhook"],
                timeout=options["auth_webhook_timeout"],
                cache=options["auth_webhook_cache"],
                forward=options["auth_webhook_forward"],
                secret=options["auth_webhook_secret"],
            )
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc
        choices.append(webhook)
    if options["authorize"] is not None:
        choices.append(options["authorize"])
    if len(choices) > 1:
        return AnyOf(*choices)
    return choices[0] if choices else None


def _check_alone(prefix: str, needed: str) -> None:
    """Complain of options that say how, without one that says what.

    Raises:
        click.UsageError: If there are such.
    """
    context = click.get_current_context()
    for name in context.params:
        source = context.get_parameter_source(name)
        if name.startswith(prefix) and source in (
            click.core.ParameterSource.COMMANDLINE,
            click.core.ParameterSource.ENVIRONMENT,
        ):
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} does nothing without {needed}.")
