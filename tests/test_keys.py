"""Keys, each bound to the algorithms of its kind."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from collab.keys import (
    MAX_KEYS,
    BadKey,
    read_key_set,
    read_keys,
    read_private,
    read_secret,
)
from tests.signing import jwk, part, private, private_pem, public_pem

RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


@pytest.mark.parametrize(
    ("size", "algorithms"),
    [
        (32, {"HS256"}),
        (47, {"HS256"}),
        (48, {"HS256", "HS384"}),
        (64, {"HS256", "HS384", "HS512"}),
    ],
)
def test_a_secret_is_for_what_it_is_long_enough_for(
    size: int, algorithms: set[str]
) -> None:
    assert read_secret("x" * size).algorithms == algorithms


@pytest.mark.parametrize("secret", ["", "secret", "x" * 31, b"x" * 31])
def test_a_short_secret_is_none(secret: str | bytes) -> None:
    with pytest.raises(BadKey, match="openssl rand"):
        read_secret(secret)


@pytest.mark.parametrize(
    "secret",
    [public_pem(private("RS256")), "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7 a@b"],
)
def test_a_public_key_is_no_secret(secret: str) -> None:
    with pytest.raises(BadKey, match="--jwt-key"):
        read_secret(secret)


@pytest.mark.parametrize(
    ("kind", "algorithms"),
    [
        ("RS256", RSA),
        ("ES256", {"ES256"}),
        ("ES384", {"ES384"}),
        ("ES512", {"ES512"}),
        ("EdDSA", {"EdDSA"}),
        ("Ed448", {"EdDSA"}),
    ],
)
def test_a_key_is_for_the_algorithms_of_its_kind(
    kind: str, algorithms: set[str]
) -> None:
    key = private(kind)
    (of_pem,) = read_keys(public_pem(key))
    (of_jwk,) = read_keys(json.dumps(jwk(key)))
    assert of_pem.algorithms == of_jwk.algorithms == algorithms
    assert of_pem.value == of_jwk.value == key.public_key()


def test_an_alg_narrows_it_and_never_widens_it() -> None:
    key = private("RS256")
    (narrow,) = read_keys(json.dumps(jwk(key, alg="RS512")))
    assert narrow.algorithms == {"RS512"}
    for other in ("HS256", "ES256", "none"):
        with pytest.raises(BadKey, match="not one for"):
            read_keys(json.dumps(jwk(key, alg=other)))


def test_a_file_may_have_several_keys_and_a_certificate() -> None:
    one, other = private("RS256"), private("ES256")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "collab")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(one.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(1))
        .sign(private("ES384"), hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    read = read_keys(f"# mine\n{certificate.decode()}\n{public_pem(other)}")
    assert [key.value for key in read] == [one.public_key(), other.public_key()]


def test_a_private_key_is_not_needed_and_not_wanted() -> None:
    with pytest.raises(BadKey, match="openssl pkey"):
        read_keys(private_pem(private("RS256")))


def test_of_a_private_json_web_key_the_public_half_is_taken() -> None:
    key = private("ES256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number = key.private_numbers().private_value.to_bytes(32, "big")
    (read,) = read_keys(json.dumps(jwk(key, d=part(number))))
    assert read.value == key.public_key()


@pytest.mark.parametrize(
    "data",
    [
        "",
        "hello",
        "{}",
        "[]",
        '{"keys": 1}',
        '{"keys": []}',
        '{"kty": "RSA", "n": "!", "e": "AQAB"}',
        '{"kty": "oct", "k": ""}',
        '{"kty": ["RSA"]}',
        '{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}',
        "{" * 20_000,
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    ],
)
def test_what_is_no_key_is_answered_with_a_sentence(data: str) -> None:
    with pytest.raises(BadKey, match=r"\.$"):
        read_keys(data)


def weak() -> list[str]:
    """Keys that sign no tokens, or are too weak, in PEM."""
    keys: list[Any] = [
        rsa.generate_private_key(65537, 1024).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        dsa.generate_private_key(1024).public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
    ]
    form = PublicFormat.SubjectPublicKeyInfo
    return [key.public_bytes(Encoding.PEM, form).decode() for key in keys]


def test_weak_keys_and_those_for_something_else_are_refused() -> None:
    for pem in weak():
        with pytest.raises(BadKey):
            read_keys(pem)


def test_of_a_published_set_what_can_be_used_is_taken() -> None:
    good = jwk(private("ES256"), kid="good", use="sig", key_ops=["verify"])
    entries = [
        good,
        jwk(private("RS256"), kid="encryption", use="enc"),
        jwk(private("ES384"), kid="wrapping", key_ops=["wrapKey"]),
        jwk(private("ES512"), kid=5),
        {"kty": "oct", "k": part(b"x" * 64), "kid": "secret"},
        {"kty": "AKP", "kid": "of the future"},
        "nothing",
    ]
    read = read_key_set(json.dumps({"keys": entries}).encode())
    assert [key.kid for key in read] == ["good"]


def test_a_file_of_ours_may_have_a_secret() -> None:
    entry = {"kty": "oct", "k": part(b"x" * 64), "kid": "mine", "alg": "HS512"}
    (key,) = read_keys(json.dumps({"keys": [entry]}))
    assert key.algorithms == {"HS512"}
    assert "xxxx" not in repr(key)


def test_a_set_is_bounded() -> None:
    entries = [jwk(private("ES256"))] * (MAX_KEYS + 1)
    with pytest.raises(BadKey, match="at most"):
        read_key_set(json.dumps({"keys": entries}).encode())


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("RS256", "RS256"), ("ES384", "ES384"), ("EdDSA", "EdDSA")],
)
def test_a_private_key_signs_with_an_algorithm_of_its_kind(
    kind: str, algorithm: str
) -> None:
    assert read_private(private_pem(private(kind)).encode())[1] == algorithm


def test_a_private_key_may_be_missing() -> None:
    with pytest.raises(BadKey):
        read_private(public_pem(private("RS256")).encode())
