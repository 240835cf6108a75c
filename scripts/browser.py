"""Print the path of a Chromium for the tests; fetch one if this machine has none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def installed() -> str | None:
    """The Chromium that this machine has, or that ``COLLAB_CHROMIUM`` names."""
    chosen = os.environ.get("COLLAB_CHROMIUM")
    if chosen:
        return chosen
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def from_debian() -> str | None:
    """Chromium from the distribution's packages: needs root and apt-get."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return None
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium"],
    ):
        print("+", *command, file=sys.stderr)
        if subprocess.run(command, env=environment, stdout=sys.stderr).returncode:
            return None
    return installed()


def from_playwright() -> str | None:
    """The build that Playwright downloads into the user's cache."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    if not Path(path).exists():
        command = [sys.executable, "-m", "playwright", "install", "chromium"]
        print("+", *command, file=sys.stderr)
        if subprocess.run(command, stdout=sys.stderr).returncode:
            return None
    return path


def main() -> int:
    path = installed() or from_debian() or from_playwright()
    if path is None or not os.access(path, os.X_OK):
        print(
            "The tests need Chromium and could not get one: install it, or set "
            "COLLAB_CHROMIUM to its path.",
            file=sys.stderr,
        )
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
