"""``collab token``: tokens made, and explained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest

from collab.auth import Access, Visitor
from collab.tokens import Tokens
from tests.answering import fixed, site
from tests.signing import (
    SECRET,
    claims,
    forged,
    jwk,
    part,
    private,
    private_pem,
    public_pem,
    token,
)


def collab(
    *arguments: str, secret: str | None = SECRET, stdin: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run ``collab token`` to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COLLAB_")}
    environment.update(more)
    if secret is not None:
        environment["COLLAB_JWT_SECRET"] = secret
    return subprocess.run(
        [sys.executable, "-m", "collab", "token", *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def mint(*arguments: str, secret: str | None = SECRET) -> str:
    """A token, which is all that is printed."""
    result = collab("mint", *arguments, secret=secret)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    return result.stdout.strip()


async def test_what_is_minted_lets_in() -> None:
    carried = mint(
        *("--user", "ann", "--name", "Ann Lee", "--for", "5m"),
        *("--allow", "notes/*=write", "--allow", "handbook=read"),
        *("--jwt-audience", "collab", "--jwt-issuer", "me"),
    )
    tokens = Tokens(secret=SECRET, audience="collab", issuer="me", leeway=0)
    grant = await tokens(Visitor("somebody").attempt("notes/a", carried))
    assert (grant.user, grant.name, grant.access) == ("ann", "Ann Lee", Access.WRITE)
    assert grant.expires_at is not None
    assert 0 < grant.expires_at - time.time() <= 300
    grant = await tokens(Visitor("somebody").attempt("handbook", carried))
    assert grant.access is Access.READ


def test_what_is_set_for_the_server_counts_here_too() -> None:
    settings = {"COLLAB_JWT_AUDIENCE": "one two", "COLLAB_JWT_ISSUER": "me"}
    minted = collab("mint", "--allow", "d=read", **settings)
    result = collab("inspect", stdin=minted.stdout, **settings)
    assert result.returncode == 0, result.stdout
    assert "audience:   one\n" in result.stdout
    assert "issuer:     me\n" in result.stdout


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES512", "EdDSA"])
async def test_a_private_key_signs(tmp_path: Path, algorithm: str) -> None:
    file = tmp_path / "private.pem"
    file.write_text(private_pem(private(algorithm)))
    options = ["--private-key", str(file), "--kid", "k1", "--allow", "**=admin"]
    carried = mint(*options, secret=None)
    assert jwt.get_unverified_header(carried)["kid"] == "k1"
    tokens = Tokens(key=public_pem(private(algorithm)))
    grant = await tokens(Visitor("somebody").attempt("d", carried))
    assert grant.access is Access.ADMIN


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ([], "--allow"),
        (["--allow", "d"], "PATTERN=read|write|admin|none"),
        (["--allow", "d=owner"], "read, write, admin or none"),
        (["--allow", "../d=read"], "relative path"),
        (["--allow", "d=read", "--for", "1y"], "30s, 5m, 1h or 30d"),
        (["--allow", "d=read", "--for", "0s"], "30s"),
        (["--allow", "d=read", "--jwt-secret", "short"], "openssl rand"),
        (["--allow", "d=read", "--private-key", __file__], "not a private key"),
    ],
)
def test_what_cannot_be_minted_is_explained(options: list[str], hint: str) -> None:
    result = collab("mint", *options)
    assert result.returncode == 2
    assert result.stdout == ""
    assert hint in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_key_nothing_is_minted() -> None:
    result = collab("mint", "--allow", "d=read", secret=None)
    assert result.returncode == 2
    assert "COLLAB_JWT_SECRET" in result.stderr


def test_a_token_is_explained() -> None:
    carried = mint("--user", "ann", "--name", "Ann", "--allow", "notes/*=write")
    result = collab("inspect", "--document", "notes/a", stdin=f"{carried}\n")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Valid."
    assert "user:       ann" in lines
    assert "name:       Ann" in lines
    assert "signed:     HS256" in lines
    assert "allows:     notes/*: write" in lines
    assert "with 'notes/a': write" in lines
    (until,) = [line for line in lines if line.startswith("until:")]
    assert until.endswith("(in 59m)")
    assert carried.rpartition(".")[2] not in result.stdout


SECONDS = int(time.time())

BAD = {
    "expired": (token(exp=SECONDS - 7300), "the token has expired", "(2h ago)"),
    "early": (token(nbf=SECONDS + 7300), "not valid yet", "not before"),
    "other key": (token("x" * 32), "signed with another key", "ann"),
    "other kind": (token(private("RS256"), "RS256"), "no key", "RS256"),
    "audience": (token(aud="me"), "another audience", "me"),
    "not signed": (forged({"alg": "none"}, claims()), "not signed", ""),
    "no token": ("letmein", "three parts", ""),
    "nothing": ("", "three parts", ""),
    "no end": (token(exp=None), "no exp", "no end is named"),
    "list": (token(documents=["d"]), "object of patterns", ""),
    "other document": (token(documents={"e": "read"}), "not for this", "e: read"),
    "milliseconds": (token(exp=SECONDS * 1000), "seconds since 1970", "no time"),
    "terminal": (
        forged({"alg": "HS256"}, claims(sub="\x1b[2J"), SECRET.encode()),
        "sub is not a text",
        "\\x1b[2J",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_it_is_explained_why_a_token_is_not_valid(name: str) -> None:
    carried, why, more = BAD[name]
    result = collab("inspect", "--document", "d", stdin=carried)
    assert result.returncode == 1, result.stderr
    first, *_ = result.stdout.splitlines()
    assert first.startswith("Not valid: ")
    assert why in first
    assert more in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_without_a_key_a_token_is_read_and_not_believed() -> None:
    result = collab("inspect", token(), secret=None)
    assert result.returncode == 1
    assert "the signature was not checked" in result.stdout
    assert "user:       ann" in result.stdout


def test_a_program_is_answered_in_json() -> None:
    carried = token()
    said = json.loads(collab("inspect", "--json", stdin=carried).stdout)
    assert said["valid"] is True
    assert said["claims"]["sub"] == "ann"
    result = collab("inspect", "--json", stdin=f"{carried}x")
    said = json.loads(result.stdout)
    assert said["valid"] is False
    assert result.returncode == 1
    said = json.loads(collab("inspect", "--json", stdin=part(b"x")).stdout)
    assert said["claims"] is None


def test_a_token_is_explained_with_published_keys() -> None:
    with site(fixed({"keys": [jwk(private("ES256"), kid="k")]})) as published:
        options = ["inspect", "--jwks", published.url]
        carried = token(private("ES256"), "ES256", "k")
        result = collab(*options, stdin=carried, secret=None)
        assert result.returncode == 0, result.stdout
        assert "signed:     ES256, key 'k'" in result.stdout
    result = collab(*options, stdin=carried, secret=None)
    assert result.returncode == 2
    assert "Cannot check the signature" in result.stderr
