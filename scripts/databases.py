"""Print where the database servers for the tests are; install them if they are not.

PostgreSQL and MariaDB are only programs here: nothing is started, and the tests make
their databases themselves, in directories of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/collab-tests.conf")
"""Debian's PostgreSQL makes a database at its installation and starts a server for it,
unless a file here says no."""


@dataclass(frozen=True)
class Programs:
    """The programs of a server, which lie in one directory."""

    name: str
    variable: str
    """The environment variable that names the directory."""
    files: tuple[str, ...]
    usual: str
    """Where else than in ``PATH`` they may be: a pattern of directories below ``/``."""
    package: str
    """The package of Debian that has them."""

    def folder(self) -> Path | None:
        """The directory, if this machine has one with all the programs."""
        if chosen := os.environ.get(self.variable):
            folders = [Path(chosen)]
        else:
            folders = [Path(path) for path in os.get_exec_path()]
            folders += sorted(Path("/").glob(self.usual), key=version, reverse=True)
        return next((one for one in folders if self.lie_in(one)), None)

    def lie_in(self, folder: Path) -> bool:
        return all(os.access(folder / file, os.X_OK) for file in self.files)

    def missing(self) -> str:
        """What to do about it if they are not there."""
        if chosen := os.environ.get(self.variable):
            return f"{self.variable} is {chosen}: no {' and '.join(self.files)} there."
        return (
            f"The tests need {self.name} ({', '.join(self.files)}) and could not get "
            f"it: install it (on Debian, as root: apt-get install {self.package}), or "
            f"set {self.variable} to the directory of its programs."
        )


POSTGRES = Programs(
    name="PostgreSQL",
    variable="COLLAB_POSTGRES",
    files=("postgres", "initdb"),
    usual="usr/lib/postgresql/*/bin",
    package="postgresql",
)
MARIADB = Programs(
    name="MariaDB",
    variable="COLLAB_MARIADB",
    files=("mariadbd",),
    usual="usr/sbin",
    package="mariadb-server-core",
)
SERVERS = (POSTGRES, MARIADB)


def version(folder: Path) -> list[int]:
    """The numbers in a path: 15 comes after 9."""
    return [int(number) for number in re.findall(r"\d+", str(folder))]


@contextmanager
def no_cluster() -> Iterator[None]:
    """Keep PostgreSQL's package from making a database and starting a server."""
    made = not NO_CLUSTER.parent.exists()
    NO_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
    NO_CLUSTER.write_text("create_main_cluster = false\n")
    try:
        yield
    finally:
        NO_CLUSTER.unlink()
        if made:
            NO_CLUSTER.parent.rmdir()


def install(packages: Sequence[str]) -> None:
    """Get the distribution's packages: needs root and apt-get, else does nothing."""
    if not packages or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    wanted = ["install", "-q", "-y", "--no-install-recommends", *packages]
    with no_cluster():
        # A fresh machine has no list of packages, an old one's list names old ones.
        if not run("apt-get", *wait, *wanted):
            run("apt-get", *wait, "update", "-q")
            run("apt-get", *wait, *wanted)


def run(*command: str) -> bool:
    print("+", *command, file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return not subprocess.run(command, env=environment, stdout=sys.stderr).returncode


def main() -> int:
    packages = [
        one.package
        for one in SERVERS
        if one.folder() is None and one.variable not in os.environ
    ]
    if not shutil.which("strace"):
        # Without it, the test that looks when an edit is written is skipped.
        packages.append("strace")
    install(packages)
    for one in SERVERS:
        folder = one.folder()
        if folder is None:
            print(one.missing(), file=sys.stderr)
        else:
            print(f"{one.name}: {folder}")
    return int(any(one.folder() is None for one in SERVERS))


if __name__ == "__main__":
    sys.exit(main())
