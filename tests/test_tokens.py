"""JSON Web Tokens: which are good, what they allow, and those that attack."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from collab.auth import EXPIRED, MAX_TOKEN, Access, Attempt, Visitor
from collab.errors import AccessDenied
from collab.keys import BadKey
from collab.tokens import Tokens
from tests.signing import (
    SECRET,
    claims,
    forged,
    jwk,
    part,
    private,
    public_pem,
    token,
)

ALGORITHMS = [
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed448"),
]


def attempt(carried: str, document: str = "d", cookie: str = "") -> Attempt:
    headers = [("Cookie", cookie)] if cookie else []
    return Visitor.of("1.2.3.4:5", headers, "", ()).attempt(document, carried)


async def refused(tokens: Tokens, carried: str, document: str = "d") -> AccessDenied:
    """Why a token is good for nothing; nobody is told more than that it is so."""
    with pytest.raises(AccessDenied) as caught:
        await tokens(attempt(carried, document))
    assert caught.value.reason in ("permission-denied", EXPIRED)
    if len(carried) > 40:
        assert carried[-30:] not in str(caught.value)
    return caught.value


async def access(document: str, carried: str, **options: Any) -> Access | None:
    """What a token allows with a document."""
    try:
        tokens = Tokens(secret=SECRET, **options)
        return (await tokens(attempt(carried, document))).access
    except AccessDenied:
        return None


# Who, what, until when.


async def test_a_token_says_who_somebody_is_and_until_when() -> None:
    end = int(time.time()) + 60
    carried = token(name="Ann Lee", exp=end, documents={"d": "admin"})
    grant = await Tokens(secret=SECRET, leeway=5)(attempt(carried))
    assert grant.user == "ann"
    assert grant.name == "Ann Lee"
    assert grant.access is Access.ADMIN
    assert grant.expires_at == end + 5


async def test_a_token_says_what_it_is_called_and_when_it_was_made() -> None:
    tokens = Tokens(secret=SECRET)
    grant = await tokens(attempt(token(jti="t-1", iat=1700000000.5)))
    assert (grant.token_id, grant.issued_at) == ("t-1", 1700000000.5)
    # One that doesn't say is older than any that does.
    grant = await tokens(attempt(token()))
    assert (grant.token_id, grant.issued_at) == ("", 0.0)


@pytest.mark.parametrize(
    "said",
    [
        *({"iat": "1700000000"}, {"iat": True}, {"iat": -1}, {"iat": []}),
        *({"jti": 1}, {"jti": "a" * 256}, {"jti": "a\n"}, {"jti": ["t"]}),
    ],
)
async def test_what_it_could_be_revoked_by_is_not_guessed(
    said: dict[str, object],
) -> None:
    await refused(Tokens(secret=SECRET), token(**said))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_secret_verifies(algorithm: str) -> None:
    grant = await Tokens(secret=SECRET)(attempt(token(SECRET, algorithm)))
    assert grant.access is Access.WRITE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_public_key_verifies(algorithm: str, tmp_path: Path) -> None:
    key = private(algorithm)
    carried = token(key, algorithm.replace("Ed448", "EdDSA"))
    file = tmp_path / "key.json"
    file.write_text(json.dumps(jwk(key)))
    for source in (public_pem(key), file):
        assert (await Tokens(key=source)(attempt(carried))).user == "ann"
    other = token(private(algorithm, 2), algorithm.replace("Ed448", "EdDSA"))
    denied = await refused(Tokens(key=file), other)
    assert str(denied) == "the token was signed with another key"


async def test_one_of_several_keys_suffices() -> None:
    keys = [public_pem(private("RS256")), public_pem(private("ES256"))]
    tokens = Tokens(secret=SECRET, key=keys)
    for carried in (
        token(),
        token(private("RS256"), "PS256"),
        token(private("ES256"), "ES256"),
    ):
        assert (await tokens(attempt(carried))).user == "ann"


async def test_a_cookie_may_have_it_unless_it_is_elsewhere() -> None:
    tokens = Tokens(secret=SECRET, cookie="seat")
    cookie = f"a=1; seat={token(sub='bob')}; seats=2"
    assert (await tokens(attempt("", cookie=cookie))).user == "bob"
    assert (await tokens(attempt(token(), cookie=cookie))).user == "ann"
    with pytest.raises(AccessDenied):
        await tokens(attempt("", cookie=cookie.replace("seat=", "site=")))
    with pytest.raises(AccessDenied):
        await Tokens(secret=SECRET)(attempt("", cookie=cookie))


def test_without_a_key_there_is_nothing_to_verify_with(tmp_path: Path) -> None:
    with pytest.raises(BadKey):
        Tokens()
    with pytest.raises(BadKey):
        Tokens(secret="")
    with pytest.raises(BadKey, match="Cannot read"):
        Tokens(key=tmp_path / "missing")
    (tmp_path / "letter").write_text("Dear server")
    with pytest.raises(BadKey, match="letter"):
        Tokens(key=tmp_path / "letter")


@pytest.mark.parametrize("leeway", [-1, 3601, float("nan")])
def test_leeway_is_bounded(leeway: float) -> None:
    with pytest.raises(ValueError, match="leeway"):
        Tokens(secret=SECRET, leeway=leeway)


# When.


@pytest.mark.parametrize(
    ("moment", "valid"),
    [
        ({"exp": -5}, True),
        ({"exp": -20}, False),
        ({"nbf": 5}, True),
        ({"nbf": 20}, False),
        ({"iat": 5}, True),
        ({"iat": 20}, False),
    ],
)
async def test_clocks_may_differ_by_ten_seconds(
    moment: dict[str, int], valid: bool
) -> None:
    carried = token(**{name: time.time() + by for name, by in moment.items()})
    assert (await access("d", carried) is not None) is valid


async def test_who_comes_too_late_is_told_so() -> None:
    denied = await refused(Tokens(secret=SECRET), token(exp=int(time.time()) - 20))
    assert denied.reason == EXPIRED
    forged_one = forged({"alg": "HS256"}, claims(exp=1), b"x" * 32)
    assert (await refused(Tokens(secret=SECRET), forged_one)).reason != EXPIRED


@pytest.mark.parametrize(
    "exp",
    [
        None,
        0,
        -1,
        "soon",
        "4000000000",
        [4000000000],
        True,
        4000000000000,  # Milliseconds.
        10**400,
    ],
)
async def test_an_end_is_a_time(exp: object) -> None:
    assert await access("d", token(exp=exp)) is None


@pytest.mark.parametrize("exp", ["Infinity", "NaN", "1e999", "9" * 5000])
async def test_an_end_is_a_number_that_json_has(exp: str) -> None:
    body = json.dumps(claims(exp=0)).replace('"exp": 0', f'"exp": {exp}')
    assert (
        await access("d", forged({"alg": "HS256"}, body.encode(), SECRET.encode()))
        is None
    )


# For whom, and from whom.


@pytest.mark.parametrize(
    ("aud", "expected", "valid"),
    [
        ("collab", "collab", True),
        (["other", "collab"], "collab", True),
        ("collab", ["collab", "old"], True),
        ("other", "collab", False),
        ("collab2", "collab", False),
        ("colla", "collab", False),
        (None, "collab", False),
        ([], "collab", False),
        ({"collab": 1}, "collab", False),
        ([["collab"]], "collab", False),
        # It is for somebody, and we don't know that it's us. (RFC 7519, section 4.1.3)
        ("collab", (), False),
        (None, (), True),
    ],
)
async def test_a_token_is_for_an_audience(
    aud: object, expected: str | list[str], valid: bool
) -> None:
    assert (await access("d", token(aud=aud), audience=expected) is not None) is valid


@pytest.mark.parametrize(
    ("iss", "expected", "valid"),
    [
        ("https://id", "https://id", True),
        ("https://id", ["https://old", "https://id"], True),
        ("https://id/", "https://id", False),
        ("https://evil", "https://id", False),
        (["https://id"], "https://id", False),
        (None, "https://id", False),
        ("https://any", (), True),
    ],
)
async def test_a_token_is_from_an_issuer(
    iss: object, expected: str | list[str], valid: bool
) -> None:
    carried = forged({"alg": "HS256"}, claims(iss=iss), SECRET.encode())
    assert (await access("d", carried, issuer=expected) is not None) is valid


# Documents.


@pytest.mark.parametrize(
    ("documents", "document", "expected"),
    [
        ({"notes/*": "write", "handbook": "read"}, "notes/a", Access.WRITE),
        ({"notes/*": "write", "handbook": "read"}, "handbook", Access.READ),
        ({"notes/*": "write", "handbook": "read"}, "other", None),
        ({"notes/*": "write"}, "notes/a/b", None),
        ({"notes/*": "write"}, "xnotes/a", None),
        ({"notes/*": "write"}, "NOTES/a", None),
        ({"**": "admin"}, "a/b/c", Access.ADMIN),
        # The most specific one counts, whatever it says.
        ({"**": "write", "handbook": "read"}, "handbook", Access.READ),
        ({"handbook": "write", "**": "read"}, "handbook", Access.WRITE),
        ({"**": "write", "secret/**": "none"}, "secret/a", None),
        (
            {"**": "write", "secret/**": "none", "secret/a": "read"},
            "secret/a",
            Access.READ,
        ),
        ({"a*": "write", "*a": "read"}, "aba", Access.READ),
        ({"ab": "write", "ab*": "read"}, "ab", Access.WRITE),
        ({}, "d", None),
    ],
)
async def test_a_token_names_documents(
    documents: dict[str, str], document: str, expected: Access | None
) -> None:
    assert await access(document, token(documents=documents)) is expected
    # Not even one that is for everything otherwise.
    assert (
        await access(document, token(documents=documents), access=Access.ADMIN)
        is expected
    )


async def test_a_token_may_name_a_single_document() -> None:
    carried = token(documents=None, document="notes/a", access="read")
    assert await access("notes/a", carried) is Access.READ
    assert await access("notes/b", carried) is None


async def test_another_claim_may_name_them() -> None:
    carried = token(documents=None, **{"https://a.org/documents": {"d": "read"}})
    assert await access("d", carried) is None
    assert await access("d", carried, claim="https://a.org/documents") is Access.READ


async def test_a_token_that_names_none_is_good_for_what_the_operator_says() -> None:
    carried = token(documents=None)
    assert await access("d", carried) is None
    assert await access("d", carried, access=Access.READ) is Access.READ


@pytest.mark.parametrize(
    "said",
    [
        {"documents": None, "document": "d"},
        {"documents": None, "access": "read"},
        {"documents": None, "document": ["d"], "access": "read"},
        {"documents": None, "document": "*", "access": "read"},
        {"documents": None, "document": "", "access": "read"},
        {"documents": None, "document": "d", "access": ["read"]},
        {"document": "d", "access": "read"},
        {"access": "admin"},
        {"documents": ["d"]},
        {"documents": "d"},
        {"documents": True},
        {"documents": {"d": "owner"}},
        {"documents": {"d": "READ"}},
        {"documents": {"d": None}},
        {"documents": {"d": True}},
        {"documents": {"d": "write", "": "read"}},
        {"documents": {"d": "write", "a***": "read"}},
        {"documents": {"d": "write", "../x": "read"}},
        {"documents": {"d": "write", "a\nb": "read"}},
        {"documents": {"d": "write", "x" * 256: "read"}},
        {"sub": 5},
        {"sub": "a\nb"},
        {"sub": "x" * 256},
        {"name": ["Ann"]},
        {"name": "\u202eAnn"},
    ],
)
async def test_half_of_a_token_counts_for_nothing(said: dict[str, object]) -> None:
    """What cannot be read would be a guess, even if the rest allows it."""
    body = {**claims(), **said}
    if said.get("documents", 0) is None:
        del body["documents"]
    carried = forged({"alg": "HS256"}, body, SECRET.encode())
    assert await access("d", carried, access=Access.WRITE) is None


async def test_nothing_in_the_place_of_documents_is_not_all_of_them() -> None:
    body = {**claims(), "documents": None}
    carried = forged({"alg": "HS256"}, body, SECRET.encode())
    assert await access("d", carried, access=Access.WRITE) is None


# Attacks.

PUBLIC = public_pem(private("RS256"))
RSA = Tokens(key=PUBLIC)
SHARED = Tokens(secret=SECRET)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
@pytest.mark.parametrize("tokens", [RSA, SHARED], ids=["rsa", "secret"])
async def test_a_token_is_signed(tokens: Tokens, name: str) -> None:
    await refused(tokens, forged({"alg": name}, claims()))
    signed = forged({"alg": name}, claims(), SECRET.encode())
    await refused(tokens, signed)


@pytest.mark.parametrize("tokens", [RSA, SHARED], ids=["rsa", "secret"])
async def test_a_signature_is_not_taken_off(tokens: Tokens) -> None:
    head, body, _ = token().split(".")
    for stripped in (f"{head}.{body}.", f"{head}.{body}", f"{head}.{body}.AAAA"):
        await refused(tokens, stripped)


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
async def test_a_public_key_is_no_secret(digest: str) -> None:
    """Everybody has it, so everybody could sign."""
    head = {"alg": f"HS{digest[3:]}", "typ": "JWT"}
    public = private("RS256").public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = PUBLIC.encode()
    for secret in (pem, pem.strip(), pem.replace(b"\n", b"\r\n"), der):
        await refused(RSA, forged(head, claims(), secret, digest))
    both = Tokens(key=PUBLIC, secret=SECRET)
    await refused(both, forged(head, claims(), PUBLIC.encode(), digest))


async def test_a_key_of_one_kind_verifies_nothing_of_another() -> None:
    curve = Tokens(key=public_pem(private("ES256")))
    await refused(curve, token(private("RS256"), "RS256"))
    await refused(curve, token(private("ES384"), "ES384"))
    await refused(RSA, token(private("ES256"), "ES256"))
    await refused(SHARED, token(private("RS256"), "RS256"))


async def test_the_empty_secret_and_easy_ones_sign_nothing() -> None:
    for secret in (b"", b"\0", b"secret", b"\0" * 64):
        await refused(SHARED, forged({"alg": "HS256"}, claims(), secret))
        await refused(RSA, forged({"alg": "HS256"}, claims(), secret))


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/dev/null",
        "/proc/sys/kernel/randomize_va_space",
        "file:///dev/null",
        "' UNION SELECT 'secret' --",
        "1; DROP TABLE documents",
        "| sleep 20",
        "http://127.0.0.1:1/jwks.json",
        "key\r\nSet-Cookie: a=1",
        "\0",
        "x" * 4000,
    ],
)
async def test_the_name_of_a_key_is_only_compared(kid: str) -> None:
    tokens = Tokens(key=json.dumps(jwk(private("RS256"), kid="good")), secret=SECRET)
    for secret in (b"", b"secret", b"\0"):
        denied = await refused(
            tokens, forged({"alg": "HS256", "kid": kid}, claims(), secret)
        )
        assert kid not in str(denied)
    await refused(tokens, token(private("RS256"), "RS256", kid))
    assert (await tokens(attempt(token(private("RS256"), "RS256", "good")))).user


@pytest.mark.parametrize(
    "more",
    [
        {"jwk": jwk(private("RS256", 2))},
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/chain"},
        {"x5c": ["AAAA"]},
    ],
)
async def test_a_token_brings_no_key_along(more: dict[str, object]) -> None:
    carried = jwt.encode(claims(), private("RS256", 2), "RS256", more)
    denied = await refused(RSA, carried)
    assert str(denied) == "the token was signed with another key"


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"alg": None},
        {"alg": ["HS256"]},
        {"alg": {"HS256": 1}},
        {"alg": "HS256", "kid": 5},
        {"alg": "HS256", "kid": ["a"]},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "crit": []},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
        {"alg": "HS1"},
        {"alg": "RSA1_5"},
        {"alg": "dir", "enc": "A128GCM"},
        [],
        "HS256",
        None,
        b"not json",
        b"\xff\xfe",
        b'{"alg": "HS256", "alg": "none"}',
        b"[" * 5000,
        b'{"a":' * 1000,
    ],
)
async def test_a_head_is_what_it_should_be(head: object) -> None:
    carried = forged(head, claims(), SECRET.encode())
    await refused(SHARED, carried)


@pytest.mark.parametrize(
    "carried",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b.c.d.e",
        "ä.ö.ü",
        "Bearer x",
        "\0",
        " ",
        "undefined",
        "null",
        f"{part({'alg': 'HS256'})}..",
        f"{part({'alg': 'HS256'})}.!!!!.AAAA",
        f"{part({'alg': 'HS256'})}.{part(b'[' * 3000)}.AAAA",
    ],
)
async def test_what_is_no_token_is_good_for_nothing(carried: str) -> None:
    for tokens in (SHARED, RSA):
        await refused(tokens, carried)


@pytest.mark.parametrize("body", [b"[" * 4000, b'{"a":' * 900, b"{}", b"1", b"\xff"])
async def test_what_is_signed_may_still_be_nonsense(body: bytes) -> None:
    await refused(SHARED, forged({"alg": "HS256"}, body, SECRET.encode()))


async def test_a_huge_token_is_not_looked_at() -> None:
    huge = token(more="x" * MAX_TOKEN)
    began = time.process_time()
    for _ in range(100):
        assert "more than" in str(await refused(SHARED, huge * 20))
    assert time.process_time() - began < 1


async def test_a_token_is_not_changed_by_a_letter() -> None:
    head, body, signature = token(documents={"d": "read"}).split(".")
    more = part(claims(documents={"d": "admin"}))
    await refused(SHARED, f"{head}.{more}.{signature}")
    flipped = signature.replace(signature[5], "A" if signature[5] != "A" else "B")
    await refused(SHARED, f"{head}.{body}.{flipped}")
