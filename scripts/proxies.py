"""Print where nginx is, for the tests; install it if it is not.

It is only a program here: no server is started, and the tests write its configuration
themselves.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.databases import Programs, run

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian starts what it installs, unless this program says no."""

NGINX = Programs(
    name="nginx",
    variable="COLLAB_NGINX",
    files=("nginx",),
    usual="usr/sbin",
    package="nginx",
)


@contextmanager
def no_start() -> Iterator[None]:
    """Keep packages from starting servers."""
    if POLICY.exists():  # Somebody has decided that.
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install() -> None:
    """Get the distribution's package: needs root and apt-get, else does nothing."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    wanted = ["install", "-q", "-y", "--no-install-recommends", NGINX.package]
    with no_start():
        # A fresh machine has no list of packages, an old one's list names old ones.
        if not run("apt-get", *wait, *wanted):
            run("apt-get", *wait, "update", "-q")
            run("apt-get", *wait, *wanted)


def main() -> int:
    if NGINX.folder() is None and NGINX.variable not in os.environ:
        install()
    folder = NGINX.folder()
    if folder is None:
        print(NGINX.missing(), file=sys.stderr)
        return 1
    print(f"{NGINX.name}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
