"""Targets: the files of other servers, and ``collab import-from`` on them.

An input is a file. What is read of it must be in proportion to it, whatever it says of
itself; nothing may be raised but a sentence; what is imported must be loadable.
"""

from __future__ import annotations

import random
import re
import resource
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import process_time

from click.testing import CliRunner

from collab.catalog import Catalog
from collab.contents import finish
from collab.errors import ImportFailed
from collab.folding import fold_steps
from collab.importing import KINDS, Found, Unreadable
from collab.leveldb import LevelDB
from collab.store import Store
from collab.tools.chores import import_from
from tests.fuzz import HANG, Case, Finding, Slow
from tests.fuzz.files import Level, Stores, lay

MEMORY = 256 * 2**20
"""Bytes that the files of a case may take: they have some KiB."""

EVERYTHING = (b"", b"\xff" * 9)


@contextmanager
def bounded(files: int, size: int) -> Iterator[None]:
    """Measure time and memory: too much of either is a finding."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    )
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    started = process_time()
    try:
        yield
    except MemoryError:
        raise Finding(f"{size} bytes take more than {MEMORY >> 20} MiB") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    took = process_time() - started
    if took > HANG * (files + size / 16384):
        raise Slow(f"{files} files of {size} bytes took {took:.3f} s")


class Imports(ABC):
    """Files, read and imported."""

    kinds: tuple[str, ...]

    def __init__(self) -> None:
        self.cases = 0
        self.folder = tempfile.TemporaryDirectory()
        self.runner = CliRunner()

    @abstractmethod
    def make(self, chance: random.Random) -> Case:
        """Files, nearly right."""

    def run(self, case: Case) -> int:
        """Write the files, read them, and import them."""
        self.cases += 1
        found = 0
        with tempfile.TemporaryDirectory(dir=self.folder.name) as name:
            folder = Path(name) / "files"
            folder.mkdir()
            lay(case, folder)
            before = listing(folder)
            size = sum(len(spelled) for _, spelled in case)
            for kind in self.kinds:
                with bounded(len(case) + 1, size):
                    found += self.read(kind, self.path(folder))
                self.command(kind, self.path(folder), len(case) + 1, size)
            if listing(folder) != before:
                raise Finding("files were changed, or made")
        return found

    def path(self, folder: Path) -> Path:
        """What is imported."""
        return folder

    def read(self, kind: str, path: Path) -> int:
        """Read all that is there; return how many documents."""
        found = 0
        with suppress(ImportFailed), KINDS[kind](path) as source:
            for one in source:
                check_text(one.name)
                if isinstance(one, Unreadable):
                    check_sentence(one.reason)
                    continue
                assert isinstance(one, Found)
                assert all(type(update) is bytes for update in one.updates)
                found += 1
        return found

    def command(self, kind: str, path: Path, files: int, size: int) -> None:
        """Import it as an operator does; see that what came of it can be loaded."""
        if (self.cases - 1) % 50 == 0:
            # A new one, now and then: reading what is there is not what is measured.
            self.url = f"sqlite:///{self.folder.name}/{self.cases}-{kind}.db"
            store = Store(self.url)
            store.open()
            store.close()
        prefix = f"{kind}-{self.cases}/"
        options = [kind, str(path), "--database", self.url, "--prefix", prefix]
        with bounded(files + 2, size):
            done = self.runner.invoke(import_from, options)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            if isinstance(done.exception, MemoryError):
                raise Finding(f"{size} bytes take more than {MEMORY >> 20} MiB")
            raise done.exception
        if done.exit_code not in (0, 1, 2):
            raise Finding(f"exit code {done.exit_code}")
        for line in done.output.splitlines():
            check_sentence(line)
        if "Traceback" in done.output:
            raise Finding("a traceback")
        last = done.output.splitlines()[-1:]
        if done.exit_code and not (last and last[0].startswith("Error: ")):
            raise Finding(f"exit code {done.exit_code} without a sentence")
        imported = re.search(r"^(\d+) documents imported", done.output, re.MULTILINE)
        store = Store(self.url)
        try:
            names = [one.name for one in Catalog(store.database).listing()]
            ours = [name for name in names if name.startswith(prefix)]
            if imported is not None and len(ours) < int(imported[1]):
                raise Finding(f"{imported[0]}, and there are {ours}")
            for name in ours:
                stored = store.load(name)
                folded = finish(fold_steps(stored))
                if folded.damaged or folded.skipped or folded.document is None:
                    raise Finding(f"{name!r} was imported, and is damaged: {folded}")
        finally:
            store.close()

    def close(self) -> None:
        """Remove everything."""
        self.folder.cleanup()


class Levels(Imports):
    """Folders of y-leveldb."""

    kinds = ("y-leveldb",)

    def make(self, chance: random.Random) -> Case:
        wrong = chance.choice((0.0, 0.01, 0.03, 0.1))
        inputs, _ = Level(chance, wrong).make()
        return inputs

    def read(self, kind: str, path: Path) -> int:
        with suppress(ImportFailed):
            database = LevelDB(path)
            everything = database.read(*EVERYTHING)
            keys = [key for key, _ in everything]
            if keys != sorted(set(keys)):
                raise Finding("keys are not in order, or there twice")
            for key, value in everything[:: len(everything) // 8 + 1]:
                if database.read(key, key + b"\0") != [(key, value)]:
                    raise Finding(f"{key!r} is another when it is read alone")
        return super().read(kind, path)


class Databases(Imports):
    """Databases of Hocuspocus and pycrdt-store, and files of the latter."""

    kinds = ("hocuspocus-sqlite", "pycrdt-store")

    def make(self, chance: random.Random) -> Case:
        return Stores(chance, chance.choice((0.0, 0.01, 0.05, 0.15))).make()

    def path(self, folder: Path) -> Path:
        return next(iter(sorted(folder.glob("file.*"))), folder / "file.db")


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """All that is in a folder, and when it was written."""
    found = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def check_text(name: object) -> None:
    """What is called a name must be a text."""
    if type(name) is not str:
        raise Finding(f"{name!r} is a name")


def check_sentence(text: str) -> None:
    """What is said to people is a line that does nothing to their terminal."""
    if not text.isprintable():
        raise Finding(f"said to people: {text[:200]!r}")
    if len(text) > 2000:
        raise Finding(f"a sentence of {len(text)} letters: {text[:100]!r}")
