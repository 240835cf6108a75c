"""JSON Web Tokens: who somebody is, which documents they may open, and until when.

References: RFC 7519 (JWT), RFC 8725 (best practices); ``docs/auth.md`` has the claims.
"""

from __future__ import annotations

import json
import math
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jwt

from .auth import (
    EXPIRED,
    MAX_TOKEN,
    MAX_WHO,
    Access,
    Attempt,
    Authenticator,
    Grant,
    is_who,
)
from .errors import AccessDenied, BadName, Unavailable
from .jwks import PublishedKeys
from .keys import BadKey, FixedKeys, Key, Keyring, read_keys, read_secret
from .patterns import check_pattern, matches, weight

LEEWAY = 10.0
"""Seconds that clocks may differ."""

LAST = 253402300799.0
"""The end of the year 9999: later times are mistakes."""

NOBODY = "none"
"""What a token says beside the documents that it excludes."""


def refuse(detail: str) -> NoReturn:
    """Deny access; the reason is for the log, and for who wrote the token.

    Raises:
        AccessDenied: Always.
    """
    raise AccessDenied(detail=detail)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which documents a token is good for."""

    accesses: Mapping[str, Access | None]
    """By name or pattern; ``None`` excludes."""

    def find(self, document: str) -> Access | None:
        """What may be done with a document: the most specific pattern counts."""
        fitting = [pattern for pattern in self.accesses if matches(pattern, document)]
        if not fitting:
            return None
        return self.accesses[max(fitting, key=self._rank)]

    def _rank(self, pattern: str) -> tuple[tuple[int, int], int]:
        access = self.accesses[pattern]
        return weight(pattern), -_ORDER.index(access)  # Of equals, what allows less.


_ORDER = [None, *Access]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says that is valid."""

    user: str
    name: str
    expires_at: float
    """When access ends: leeway is in it."""
    rules: Rules
    token_id: str = ""
    issued_at: float = 0.0
    """In the beginning, if the token doesn't say."""

    def grant(self, document: str) -> Grant:
        """What somebody with this token may do with a document.

        Raises:
            AccessDenied: If that is nothing.
        """
        access = self.rules.find(document)
        if access is None:
            refuse("the token is not for this document")
        return Grant(
            self.user,
            access,
            self.name,
            self.expires_at,
            self.token_id,
            self.issued_at,
        )


class Tokens(Authenticator):
    """Lets in who has a token that is signed with a key.

    ::

        Collab(authorize=Tokens(secret=os.environ["SECRET"]))
        Collab(authorize=Tokens(key=Path("public.pem"), audience="collab"))
        Collab(authorize=Tokens(jwks="https://id.example.com/jwks.json",
                                issuer="https://id.example.com", audience="collab"))
    """

    def __init__(
        self,
        *,
        secret: str | bytes | None = None,
        key: str | bytes | Path | Sequence[str | bytes | Path] = (),
        jwks: str | None = None,
        audience: str | Sequence[str] = (),
        issuer: str | Sequence[str] = (),
        leeway: float = LEEWAY,
        access: Access | None = None,
        claim: str = "documents",
        cookie: str = "",
    ) -> None:
        """Prepare; nothing is fetched yet.

        ``secret`` is shared with whoever makes the tokens (HS256 to HS512). ``key`` is
        a public key, a certificate, or a JSON Web Key or a set of them: text, or the
        path of a file (RS, PS, ES, EdDSA). ``jwks`` is the URL of such a set. There may
        be several of these.

        ``audience`` and ``issuer`` are what a token must name, or one of them.
        ``leeway`` is by how many seconds clocks may differ. ``access`` is for all
        documents, and for tokens that name none; without it these are good for nothing.
        ``claim`` is where a token names them. ``cookie`` is where a browser has its
        token, if there is none elsewhere.

        Raises:
            BadKey: If there is no key, or one that cannot be used.
            BadURL: If the URL cannot be asked.
        """
        fixed: list[Key] = []
        if secret is not None:
            fixed.append(read_secret(secret))
        for source in [key] if isinstance(key, str | bytes | Path) else key:
            fixed += _read(source)
        self.keyrings: list[Keyring] = [FixedKeys(fixed)] if fixed else []
        if jwks is not None:
            self.keyrings.append(PublishedKeys(jwks))
        if not self.keyrings:
            raise BadKey("Tokens need a secret, a key, or the URL of keys.")
        if not 0 <= leeway <= 3600:
            raise ValueError(f"leeway is 0 to 3600 seconds, not {leeway!r}")
        self.audience = _several(audience)
        self.issuer = _several(issuer)
        self.leeway = leeway
        self.access = access
        self.claim = claim
        self.cookie = cookie

    async def open(self) -> None:
        """Begin with what is published."""
        for keyring in self.keyrings:
            await keyring.open()

    async def close(self) -> None:
        """Let go of everything."""
        for keyring in self.keyrings:
            await keyring.close()

    async def __call__(self, attempt: Attempt) -> Grant:
        """Let somebody in by their token.

        Raises:
            AccessDenied: If it isn't valid, or not for this document.
            Unavailable: If the keys cannot be fetched.
        """
        token = attempt.token
        if not token and self.cookie:
            token = attempt.cookie(self.cookie)
        if not token:
            refuse("no token")
        return (await self.read(token)).grant(attempt.document)

    async def read(self, token: str) -> Claims:
        """What a token says, if it is valid.

        Raises:
            AccessDenied: If it isn't; the detail says why, in a sentence.
            Unavailable: If the keys cannot be fetched.
        """
        algorithm, kid = read_head(token)
        found: list[Key] = []
        unable: Unavailable | None = None
        for keyring in self.keyrings:
            try:
                found += await keyring.find(algorithm, kid)
            except Unavailable as exc:
                unable = exc  # It may be signed with a key that we have.
        claims = self._verify(token, algorithm, found)
        if claims is not None:
            return self._claims(claims)
        if unable is not None:
            raise unable
        if found:
            refuse("the token was signed with another key")
        refuse(f"there is no key of its name for {_shown(algorithm)}")

    def _verify(
        self, token: str, algorithm: str, keys: Sequence[Key]
    ) -> dict[str, Any] | None:
        """The claims of a valid token; ``None`` if none of the keys has signed it.

        Raises:
            AccessDenied: If one has, and it is not valid.
        """
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key.value,
                    algorithms=[algorithm],
                    audience=self.audience or None,
                    issuer=self.issuer or None,
                    leeway=self.leeway,
                    options={"require": ["exp"]},
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as exc:
                _complain(exc)
            except RecursionError:
                refuse("the token is nested too deeply")
        return None

    def _claims(self, claims: Mapping[str, Any]) -> Claims:
        expires_at = claims["exp"]
        if type(expires_at) not in (int, float) or not 0 < expires_at <= LAST:
            refuse("exp is not a time in seconds since 1970")
        issued_at = claims.get("iat", 0)
        if type(issued_at) not in (int, float) or not 0 <= issued_at <= LAST:
            refuse("iat is not a time in seconds since 1970")
        user = _text(claims, "sub")
        return Claims(
            user,
            _text(claims, "name"),
            math.floor(expires_at) + self.leeway,
            read_rules(claims, self.claim, self.access),
            _text(claims, "jti"),
            float(issued_at),
        )


def read_head(token: str) -> tuple[str, str]:
    """The algorithm and the name of the key of a token, which nobody has verified.

    Raises:
        AccessDenied: If it isn't a token.
    """
    if len(token) > MAX_TOKEN:
        refuse(f"the token has more than {MAX_TOKEN} characters")
    if token.count(".") != 2 or not token.isascii():
        refuse("this is not a signed token: it has not three parts")
    head = _json(token.partition(".")[0])
    algorithm, kid = head.get("alg"), head.get("kid", "")
    if not isinstance(algorithm, str) or not isinstance(kid, str):
        refuse("the head of the token has no alg, or a kid that is not a text")
    if algorithm.lower() == "none":
        refuse("the token is not signed (alg none)")
    return algorithm, kid


def read_body(token: str) -> dict[str, Any]:
    """The claims of a token, which nobody has verified.

    Raises:
        AccessDenied: If it isn't a token.
    """
    return _json(token.split(".")[1])


def _json(part: str) -> dict[str, Any]:
    try:
        padded = part + "=" * (-len(part) % 4)
        value = json.loads(urlsafe_b64decode(padded))
    except (ValueError, RecursionError, Base64Error):
        refuse("this is not a token: a part of it is not JSON in base64url")
    if not isinstance(value, dict):
        refuse("this is not a token: a part of it is not a JSON object")
    return value


def read_rules(
    claims: Mapping[str, Any], claim: str = "documents", otherwise: Access | None = None
) -> Rules:
    """Which documents claims name.

    Either ``{"documents": {"notes/*": "write", "handbook": "read"}}``, or
    ``{"document": "handbook", "access": "read"}``, or nothing, and then all of them,
    if there is an access for that.

    Raises:
        AccessDenied: If it is anything else: half of it would be a guess.
    """
    one = "document" in claims
    if claim in claims and one:
        refuse(f"there is both {claim} and document")
    if one != ("access" in claims):
        refuse("document and access go together")
    if claim not in claims and not one:
        return Rules({} if otherwise is None else {"**": otherwise})
    if one and not isinstance(claims["document"], str):
        refuse("document is not a text")
    named = {claims["document"]: claims["access"]} if one else claims[claim]
    if not isinstance(named, dict):
        refuse(f"{claim} is not an object of patterns and accesses")
    accesses: dict[str, Access | None] = {}
    for pattern, word in named.items():
        try:
            check_pattern(pattern)
        except BadName as exc:
            refuse(f"a document of the token cannot be one: {exc}")
        if one and "*" in pattern:
            refuse("document is a name, and not a pattern")
        accesses[pattern] = _access(word)
    return Rules(accesses)


def _access(word: object) -> Access | None:
    if word == NOBODY:
        return None
    for access in Access:
        if word == access.value:
            return access
    refuse("an access is read, write, admin or none")


def _text(claims: Mapping[str, Any], name: str) -> str:
    """Who somebody is, as a claim says it, or ``""``."""
    value = claims.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not is_who(value):
        refuse(f"{name} is not a text of at most {MAX_WHO} characters")
    return value


def _complain(error: Exception) -> NoReturn:
    match error:
        case jwt.ExpiredSignatureError():
            raise AccessDenied(EXPIRED, "the token has expired") from None
        case jwt.ImmatureSignatureError():
            detail = "the token is not valid yet (nbf or iat)"
        case jwt.InvalidAudienceError():
            detail = "the token is for another audience (aud), or for none"
        case jwt.InvalidIssuerError():
            detail = "the token is from another issuer (iss)"
        case jwt.MissingRequiredClaimError():
            detail = f"the token has no {error.claim}"
        case _:
            detail = f"the token cannot be read ({type(error).__name__})"
    raise AccessDenied(detail=detail) from None


def _read(source: str | bytes | Path) -> list[Key]:
    if not isinstance(source, Path):
        return read_keys(source)
    try:
        return read_keys(source.read_bytes())
    except OSError as exc:
        raise BadKey(f"Cannot read {source}: {exc.strerror or exc}.") from exc
    except BadKey as exc:
        raise BadKey(f"Cannot use {source}. {exc}") from exc


def _several(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _shown(algorithm: str) -> str:
    """The name of an algorithm, which may be anything, as it is logged."""
    known = algorithm.isalnum() and len(algorithm) < 10
    return algorithm if known else "its algorithm"
