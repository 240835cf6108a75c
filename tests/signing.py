"""Keys and tokens for tests: what an application, or an identity provider, would have.

Tokens that attack are put together by hand: a library would refuse to make them.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from collab.keys import Private

SECRET = "a secret of the tests that has more than sixty-four bytes, for HS512"

CURVES: dict[str, Callable[[], ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}


@functools.cache
def private(algorithm: str, number: int = 1) -> Private:
    """A private key for an algorithm: the same one for the same number."""
    match algorithm[:2]:
        case "RS" | "PS":
            return rsa.generate_private_key(65537, 2048)
        case "ES":
            return ec.generate_private_key(CURVES[algorithm]())
        case _:
            ed = algorithm == "Ed448"
            return (
                ed448.Ed448PrivateKey.generate()
                if ed
                else ed25519.Ed25519PrivateKey.generate()
            )


def public_pem(key: Private) -> str:
    """The public half of a key."""
    spelled = key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    return spelled.decode()


def private_pem(key: Private) -> str:
    """A whole key."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk(key: Private, **more: object) -> dict[str, Any]:
    """The public half of a key as a JSON Web Key."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        entry = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        entry = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        entry = OKPAlgorithm.to_jwk(public, as_dict=True)
    entry.pop("key_ops", None)
    return {**entry, **more}


def claims(**more: object) -> dict[str, Any]:
    """Claims with which one may write everything for an hour; ``None`` is left out."""
    said = {
        "sub": "ann",
        "documents": {"**": "write"},
        "exp": int(time.time()) + 3600,
        **more,
    }
    return {name: value for name, value in said.items() if value is not None}


def token(
    key: Private | str = SECRET,
    algorithm: str = "HS256",
    kid: str | None = None,
    /,
    **more: object,
) -> str:
    """A token with :func:`claims`."""
    headers = None if kid is None else {"kid": kid}
    return jwt.encode(claims(**more), key, algorithm, headers)


def part(content: object) -> str:
    """A part of a token: JSON, or bytes as they are, in base64url."""
    spelled = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(spelled).rstrip(b"=").decode()


def forged(
    head: object, body: object, secret: bytes | None = None, digest: str = "sha256"
) -> str:
    """A token made by hand: signed with a secret, or with nothing."""
    signed = f"{part(head)}.{part(body)}"
    if secret is None:
        return f"{signed}."
    signature = hmac.new(secret, signed.encode(), getattr(hashlib, digest)).digest()
    return f"{signed}.{part(signature)}"
