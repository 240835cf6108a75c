"""Node.js for tests: that of the virtual environment, with locked packages."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent
"""Where node and npm are: the virtual environment has its own."""


def node_path() -> Path:
    """The ``node`` to run."""
    return BIN / "node"


def environment() -> dict[str, str]:
    """The environment for what is written in JavaScript: it finds our node first."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    quiet = {"npm_config_audit": "false", "npm_config_fund": "false"}
    return {**os.environ, **quiet, "npm_config_loglevel": "error", "PATH": path}


def ensure_modules(folder: Path) -> None:
    """Install what a folder's lock file names, unless it is installed.

    Processes that ask at the same time wait for each other.
    """
    with (folder / "package.json").open() as manifest:
        fcntl.flock(manifest, fcntl.LOCK_EX)
        wanted = folder / "package-lock.json"
        # npm writes this one when it is done.
        installed = folder / "node_modules" / ".package-lock.json"
        if installed.exists() and installed.stat().st_mtime >= wanted.stat().st_mtime:
            return
        subprocess.run(
            [BIN / "npm", "ci"], cwd=folder, env=environment(), check=True, stdout=2
        )


def run_node(
    script: Path, *arguments: str, errors: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a script, with pipes to its input and from its output.

    The packages that stand beside it are installed first.
    """
    ensure_modules(script.parent)
    return subprocess.Popen(
        [node_path(), script, *arguments],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
    )
