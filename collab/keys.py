"""Keys that tokens are signed with, each bound to the algorithms of its kind.

An RSA key verifies RSA's signatures and no HMAC, whatever a token says of itself.
References: RFC 7517 (JSON Web Key), RFC 7518 (algorithms), RFC 8725 (best practices).
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed448 import (
    Ed448PrivateKey,
    Ed448PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import load_pem_x509_certificate

HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Bytes that a secret has at least. (RFC 7518, section 3.2)"""

RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

PUBLIC = frozenset([*RSA, *CURVES.values(), "EdDSA"])
"""Algorithms whose keys may be published."""

RSA_BITS = range(2048, 8192 + 1)
"""Bits of an RSA key: fewer are broken, more take too long."""

MAX_KEYS = 64
"""Keys of one set."""

_PEM = re.compile(
    rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL
)  # (RFC 7468)

Public: TypeAlias = (
    RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
)
Private: TypeAlias = (
    RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
)


class BadKey(ValueError):
    """Raised for a key that cannot be used; its text says what to do."""


@dataclass(frozen=True, slots=True)
class Key:
    """Something that verifies signatures."""

    value: Public | bytes = field(repr=False)
    algorithms: frozenset[str]
    kid: str = ""
    """Its name, if it has one."""

    def fits(self, algorithm: str, kid: str) -> bool:
        """Whether it may be what a token is signed with."""
        named = not kid or not self.kid or kid == self.kid
        return named and algorithm in self.algorithms


class Keyring(ABC):
    """Where keys are found."""

    async def open(self) -> None:  # noqa: B027
        """Begin, on the event loop that it will be asked on."""

    async def close(self) -> None:  # noqa: B027
        """Let go of everything."""

    @abstractmethod
    async def find(self, algorithm: str, kid: str) -> Sequence[Key]:
        """The keys that may have signed a token.

        Raises:
            Unavailable: If that is not known now.
        """


class FixedKeys(Keyring):
    """Keys that stay the same."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys

    async def find(self, algorithm: str, kid: str) -> Sequence[Key]:
        """The keys that may have signed a token."""
        return [key for key in self.keys if key.fits(algorithm, kid)]


def read_secret(secret: str | bytes) -> Key:
    """The key that a shared secret is.

    Raises:
        BadKey: If anybody could guess it, or knows it.
    """
    value = secret.encode() if isinstance(secret, str) else secret
    if b"-----BEGIN" in value or value.lstrip().startswith((b"ssh-", b"ecdsa-")):
        raise BadKey(
            "This secret is a key of a pair, of which anybody may know a half. Give "
            "the public key as a key (--jwt-key FILE)."
        )
    if len(value) < HMAC["HS256"]:
        raise BadKey(
            f"The secret has {len(value)} bytes and needs {HMAC['HS256']} at least, or "
            "it can be guessed. `openssl rand -hex 32` makes one."
        )
    return Key(value, frozenset(a for a, size in HMAC.items() if len(value) >= size))


def read_keys(data: str | bytes) -> list[Key]:
    """The keys of a file: PEM (public keys, certificates), a JSON Web Key, or a set.

    Raises:
        BadKey: If there is none, or one that cannot be used.
    """
    data = data.encode() if isinstance(data, str) else data
    if data.lstrip().startswith(b"{"):
        keys = read_key_set(data, local=True)
    else:
        keys = [_of_pem(match[0], match[1]) for match in _PEM.finditer(data)]
    if not keys:
        raise BadKey(
            "There is no key in it. It takes PEM (BEGIN PUBLIC KEY, BEGIN CERTIFICATE) "
            "or a JSON Web Key, or a set of them."
        )
    return keys


def _of_pem(block: bytes, title: bytes) -> Key:
    if title.endswith(b"PRIVATE KEY"):
        raise BadKey(
            "This is a private key; who verifies needs the public one: "
            "`openssl pkey -in FILE -pubout`."
        )
    try:
        if title == b"CERTIFICATE":
            return of_public(load_pem_x509_certificate(block).public_key())
        return of_public(load_pem_public_key(block))
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        if isinstance(exc, BadKey):
            raise
        raise BadKey(f"It cannot be read ({title.decode()}).") from exc


def of_public(key: object, kid: str = "", only: str = "") -> Key:
    """The key that a public one is, for those algorithms that are of its kind.

    Raises:
        BadKey: If there are none.
    """
    algorithms = _algorithms(key)
    if only:
        algorithms &= {only}
    if not algorithms:
        raise BadKey(f"The key is not one for {only}.")
    assert isinstance(key, Public)
    return Key(key, algorithms, kid)


def _algorithms(key: object) -> frozenset[str]:
    match key:
        case RSAPublicKey() | RSAPrivateKey():
            if key.key_size not in RSA_BITS:
                text = f"The RSA key has {key.key_size} bits; it needs 2048 to 8192."
                raise BadKey(text)
            return frozenset(RSA)
        case EllipticCurvePublicKey() | EllipticCurvePrivateKey():
            algorithm = CURVES.get(key.curve.name)
            if algorithm is None:
                raise BadKey(f"The curve {key.curve.name} is not one of {_list()}.")
            return frozenset([algorithm])
        case (
            Ed25519PublicKey()
            | Ed448PublicKey()
            | Ed25519PrivateKey()
            | Ed448PrivateKey()
        ):
            return frozenset(["EdDSA"])
        case _:
            raise BadKey("The key is of a kind that signs no tokens.")


def _list() -> str:
    return ", ".join(CURVES)


def read_key_set(data: bytes, local: bool = False) -> list[Key]:
    """The keys of a JSON Web Key, or of a set. (RFC 7517)

    In a set, those that are for something else, or that we can't use, are left out;
    and secrets, unless it is a file of ours: a set that is published has none.

    Raises:
        BadKey: If it isn't a set, or too large.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BadKey("It is not JSON.") from exc
    if isinstance(found, dict) and "keys" not in found:
        return [_of_jwk(found, local)]
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise BadKey("It is not a JSON Web Key Set: it has no list of keys.")
    if len(entries) > MAX_KEYS:
        raise BadKey(f"It has {len(entries)} keys; {MAX_KEYS} are read at most.")
    keys = []
    for entry in entries:
        try:
            keys.append(_of_jwk(entry, local))
        except BadKey:
            continue
    return keys


def _of_jwk(entry: object, local: bool) -> Key:
    if not isinstance(entry, Mapping):
        raise BadKey("A JSON Web Key is an object.")
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or (
        not isinstance(operations, list) or not {"verify", "sign"} & {*operations}
    ):
        raise BadKey("The key is not one for signatures.")
    kid, only = entry.get("kid", ""), entry.get("alg", "")
    if not isinstance(kid, str) or not isinstance(only, str):
        raise BadKey("The kid and the alg of a key are strings.")
    kind = entry.get("kty")
    try:
        parsed = jwt.PyJWK({**entry, "alg": _parser(kind, entry)}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        # What they say may have the key in it.
        raise BadKey(f"The key cannot be read (kty {kind!r:.20}).") from None
    if kind == "oct":
        if not local:
            raise BadKey("A secret that is published is none.")
        secret = read_secret(parsed)
        algorithms = secret.algorithms & {only} if only else secret.algorithms
        if not algorithms:
            raise BadKey(f"The secret is not one for {only}.")
        return Key(secret.value, algorithms, kid)
    public = parsed.public_key() if hasattr(parsed, "public_key") else parsed
    return of_public(public, kid, only)


def _parser(kind: object, entry: Mapping[str, object]) -> str:
    """An algorithm of PyJWT's that reads keys of a kind; not the one it will be for."""
    match kind:
        case "RSA":
            return "RS256"
        case "EC":
            return "ES256"
        case "OKP":
            return "EdDSA"
        case "oct":
            return "HS256"
        case _:
            raise BadKey(f"The key is of an unknown kind (kty {kind!r:.20}).")


def read_private(data: bytes) -> tuple[Private, str]:
    """A private key (PEM, not encrypted), and the algorithm that it signs with.

    Raises:
        BadKey: If it is none.
    """
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise BadKey("It is not a private key in PEM without a password.") from exc
    algorithm = min(_algorithms(key), key=lambda name: (name[0] != "R", name))
    assert isinstance(key, Private)
    return key, algorithm
