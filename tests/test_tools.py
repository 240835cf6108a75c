"""The commands for operators, run as they run them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text

from collab.migrating import REVISION
from tests import servers
from tests.databases import DatabaseServer
from tests.peers import Editor
from tests.test_cli import collab, complaint


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'collab.db'}"


def update(content: str) -> bytes:
    doc: Doc[Any] = Doc()
    found = doc.get("text", type=Text)
    found += content
    encoded: bytes = doc.get_update()
    return encoded


def shown(encoded: bytes) -> str:
    doc: Doc[Any] = Doc()
    found = doc.get("text", type=Text)
    doc.apply_update(encoded)
    return str(found)


class Tool:
    """The command, for one database."""

    def __init__(self, database: str, folder: Path) -> None:
        self.database = database
        self.folder = folder

    def run(self, *arguments: str, code: int = 0) -> str:
        done = collab(*arguments, environment={"COLLAB_DATABASE": self.database})
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        output = self.run(*arguments, "--json")
        return [json.loads(line) for line in output.splitlines()]

    def file(self, name: str, content: str) -> str:
        path = self.folder / name
        path.write_bytes(update(content))
        return str(path)

    def read(self, name: str, *options: str) -> str:
        path = self.folder / "export"
        self.run("docs", "export", name, "-o", str(path), *options)
        return shown(path.read_bytes())


@pytest.fixture
def tool(database: str, tmp_path: Path) -> Tool:
    return Tool(database, tmp_path)


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mariadb"])
def test_a_document_goes_in_and_comes_out(
    kind: str, request: pytest.FixtureRequest, database: str, tmp_path: Path
) -> None:
    if kind != "sqlite":
        server: DatabaseServer = request.getfixturevalue(kind)
        database = server.create_database()
    tool = Tool(database, tmp_path)
    assert "are not there" in tool.run("db", "check", code=1)
    assert tool.run("db", "upgrade").strip().endswith(f"at {REVISION} (before: None).")
    assert "as they should be" in tool.run("db", "check")

    tool.run(
        *("docs", "import", "notes/😀", tool.file("a", "Grüße 😀")),
        *("--metadata", '{"title": "Ünï"}', "--author", "Zoë"),
    )
    assert tool.read("notes/😀") == "Grüße 😀"
    tool.run("docs", "copy", "notes/😀", "copy")
    [one, two] = tool.lines("docs", "list")
    assert (one["name"], one["head"]) == ("copy", 1)
    assert two["name"] == "notes/😀"
    [shown] = tool.lines("docs", "show", "notes/😀")
    assert shown["metadata"] == {"title": "Ünï"}
    [row] = tool.lines("docs", "history", "notes/😀")
    assert (row["position"], row["author"]) == (1, "Zoë")

    tool.run("docs", "delete", "copy")
    assert [line["name"] for line in tool.lines("docs", "list")] == ["notes/😀"]
    path = tmp_path / "nothing"
    said = tool.run("docs", "export", "copy", "-o", str(path), code=1)
    assert "was deleted" in said
    assert not path.exists()
    tool.run("docs", "restore", "copy")
    assert tool.read("copy") == "Grüße 😀"
    tool.run("docs", "purge", "copy", "--yes")
    assert "nothing of it is left" in tool.run("docs", "restore", "copy", code=1)
    [gone, _] = tool.lines("docs", "list", "--deleted")
    assert gone["purged_at"]

    tool.run("compact", "--history", "none")
    [shown] = tool.lines("docs", "show", "notes/😀")
    assert (shown["rows"], shown["snapshots"], shown["base"]) == (0, 1, 1)
    assert tool.read("notes/😀") == "Grüße 😀"
    assert "0 damaged" in tool.run("check")
    tool.run("compact", "--rebuild")
    assert tool.read("notes/😀") == "Grüße 😀"


def test_tables_go_back_and_forth(tool: Tool) -> None:
    tool.run("db", "upgrade")
    assert tool.run("db", "upgrade").endswith(f"are up to date ({REVISION}).\n")
    assert tool.lines("db", "current") == [{"current": REVISION, "needed": REVISION}]
    tool.run("db", "downgrade", "0001", "--yes")
    assert tool.lines("db", "current") == [{"current": "0001", "needed": REVISION}]
    assert "collab db upgrade" in tool.run("docs", "list", code=2)
    assert "no way back" in tool.run("db", "downgrade", "9", "--yes", code=1)
    tool.run("db", "upgrade")
    assert tool.run("docs", "list") == ""


def test_who_is_not_asked_does_not_lose_tables(tool: Tool) -> None:
    tool.run("db", "upgrade")
    assert "Aborted" in tool.run("db", "downgrade", "base", code=1)
    assert "as they should be" in tool.run("db", "check")


def test_a_server_can_be_told_to_leave_the_tables_alone(
    tool: Tool, tmp_path: Path
) -> None:
    options = ("serve", "--port", "0", "--no-migrate")
    said = tool.run(*options, code=2)
    assert "run `collab db upgrade`" in said
    tool.run("db", "upgrade")
    with (
        servers.running(tmp_path, "--no-migrate") as server,
        Editor(f"{server.ws_url}/d") as editor,
    ):
        editor.type("x")
        editor.save()
    assert tool.read("d") == "x"


def test_a_document_is_not_overwritten(tool: Tool) -> None:
    tool.run("docs", "import", "d", tool.file("a", "one"))
    other = tool.file("b", "two")
    assert "already" in tool.run("docs", "import", "d", other, code=1)
    assert tool.read("d") == "one"
    tool.run("docs", "import", "d", other, "--merge")
    assert sorted(tool.read("d")) == sorted("onetwo")
    assert tool.read("d", "--at", "1") == "one"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["docs", "show", "nope"], "There is no document 'nope'"),
        (["docs", "export", "nope"], "document 'nope': it was deleted"),
        (["docs", "delete", "nope"], "document 'nope': it was deleted"),
        (["docs", "copy", "nope", "other"], "document 'nope': it was deleted"),
    ],
)
def test_what_is_not_there_is_named(
    tool: Tool, arguments: list[str], sentence: str
) -> None:
    tool.run("db", "upgrade")
    assert sentence in tool.run(*arguments, code=1)


def test_what_is_no_update_is_refused(tool: Tool) -> None:
    path = tool.folder / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0" * 100)
    assert "update rejected" in tool.run("docs", "import", "d", str(path), code=1)
    assert tool.run("docs", "list") == ""


def test_a_name_that_no_client_could_use_is_refused(tool: Tool) -> None:
    file = tool.file("a", "one")
    assert "relative path" in tool.run("docs", "import", "../d", file, code=1)


def test_metadata_is_json(tool: Tool) -> None:
    file = tool.file("a", "one")
    said = tool.run("docs", "import", "d", file, "--metadata", "{", code=2)
    assert "--metadata is no JSON" in said


def test_damage_is_found_and_put_away(tool: Tool) -> None:
    tool.run("docs", "import", "good", tool.file("a", "good"))
    tool.run("docs", "import", "bad", tool.file("b", "bad"))
    with sqlite3.connect(tool.folder / "collab.db") as connection:
        connection.execute(
            "UPDATE updates SET data = x'00' WHERE document_id ="
            " (SELECT id FROM documents WHERE name = 'bad')"
        )
    connection.close()
    for options in (["--dry-run"], []):
        said = tool.run("check", *options, code=1)
        assert "bad: update 1 has a wrong CRC-32" in said
    assert "0 damaged" in tool.run("check")
    [shown] = tool.lines("docs", "show", "bad")
    assert shown["quarantine"] == ["update 1 has a wrong CRC-32"]
    assert tool.read("good") == "good"


@pytest.mark.parametrize("age", ["30", "d", "-1d", "soon", "1.5d"])
def test_an_age_is_a_number_of_days_or_hours(age: str) -> None:
    said = complaint(collab("compact", f"--history={age}"))
    assert "is neither forever, none, 30d nor 12h" in said


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nosuch://x", "no database that we know"),
        ("postgresql+psycopg2://u:secret@h/d", "a driver that we don't use"),
        ("postgresql://u:secret@h", "names no database"),
        ("mysql://u:secret@127.0.0.1:1/d", "is MySQL running at 127.0.0.1:1?"),
        (
            "postgresql://u:secret@127.0.0.1:1/d",
            "is PostgreSQL running at 127.0.0.1:1?",
        ),
        ("sqlite:////no/such/folder/x.db", "must be a directory"),
    ],
)
@pytest.mark.parametrize(
    "command", [["docs", "list"], ["serve", "--port", "0"]], ids=["docs", "serve"]
)
def test_a_database_that_cannot_be_used_is_a_mistake(
    command: list[str], url: str, sentence: str
) -> None:
    done = collab(*command, "--database", url)
    assert done.returncode == 2
    said = complaint(done)
    assert sentence in said
    assert "secret" not in said
