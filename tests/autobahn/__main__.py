"""Run the Autobahn test suite: ``make autobahn``.

Its last release, 25.10.1, is for Python 2 only. So Debian 11's Python 2.7 is unpacked
into a folder of its own (nothing is installed; Debian or Ubuntu on x86-64 is needed),
and what the suite needs beside it comes from PyPI, by the pip that spoke Python 2 last.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.autobahn import echo

FOLDER = Path(".autobahn")
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEBS = (
    "python2.7 python2.7-minimal libpython2.7-minimal libpython2.7-stdlib "
    "libssl1.1 libffi7"
)
TOOLS = "pip==20.3.4 setuptools==44.1.1"
PACKAGES = (
    "autobahntestsuite==25.10.1 autobahn==0.10.9 txaio==2.1.0 Twisted==20.3.0 "
    "zope.interface==5.4.0 pyOpenSSL==20.0.1 cryptography==3.3.2 cffi==1.15.1 "
    "pycparser==2.21 ipaddress==1.0.23 enum34==1.1.10 six==1.16.0 constantly==15.1.0 "
    "incremental==21.3.0 attrs==21.4.0 Automat==20.2.0 hyperlink==21.0.0 idna==2.10 "
    "typing==3.10.0.0 klein==20.6.0 Werkzeug==1.0.1 MarkupSafe==1.1.1 Jinja2==2.11.3 "
    "Tubes==0.2.0 unittest2==1.1.0 traceback2==1.4.0 linecache2==1.0.0 argparse==1.4.0"
)
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
"""Those of RFC 6455. 12 and 13 are of compression, and take an hour."""

ARGUED = {
    "7.1.5": "a goodbye within a message is answered with 1002 and not with 1000",
    "9.3.1": "a message of more than 4,096 frames is refused with 1009",
    "9.3.2": "a message of more than 4,096 frames is refused with 1009",
    "9.3.3": "a message of more than 4,096 frames is refused with 1009",
    "9.4.1": "a message of more than 4,096 frames is refused with 1009",
    "9.4.2": "a message of more than 4,096 frames is refused with 1009",
    "9.4.3": "a message of more than 4,096 frames is refused with 1009",
}
"""What fails, and what is to be said for it: see ``README.md``."""


class Python2:
    """Python 2.7 in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.site = self.folder / "site"
        root = self.folder / "root" / "usr"
        self.program = root / "bin" / "python2.7"
        tools = [
            self.folder / f"{tool.replace('==', '-')}-py2.py3-none-any.whl"
            for tool in TOOLS.split()
        ]
        self.environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(root / "lib" / "x86_64-linux-gnu"),
            "PYTHONHOME": str(root),
            "PYTHONPATH": os.pathsep.join(map(str, [self.site, *tools])),
        }

    def run(self, *arguments: str) -> None:
        command = [str(self.program), "-W", "ignore", "-m", *arguments]
        subprocess.run(
            command, cwd=self.folder, env=self.environment, check=True, stdout=2
        )

    def prepare(self) -> None:
        """Unpack Python, and install the suite."""
        debs = self.folder / "debs"
        for name in ("debs", "lists/partial", "archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        source = f"deb [signed-by={KEYS}] http://deb.debian.org/debian bullseye main\n"
        (self.folder / "sources.list").write_text(source)
        (self.folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{self.folder}/sources.list";\n'
            'Dir::Etc::sourceparts "-";\n'
            f'Dir::State::lists "{self.folder}/lists";\n'
            f'Dir::Cache::archives "{self.folder}/archives";\n'
            'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
        )
        apt = {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf")}
        download = ["apt-get", "-q", "download", *DEBS.split()]
        subprocess.run(["apt-get", "-q", "update"], env=apt, check=True, stdout=2)
        subprocess.run(download, cwd=debs, env=apt, check=True, stdout=2)
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, self.folder / "root"], check=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        pip += ["--python-version", "2.7", "--only-binary=:all:", *TOOLS.split()]
        subprocess.run(pip, cwd=self.folder, check=True)
        install = "pip", "install", "-q", "--no-deps", "--no-build-isolation"
        for packages in (TOOLS, PACKAGES):  # setup.py asks for installed tools.
            self.run(*install, "--target", str(self.site), *packages.split())
        # pip would write a .pth file, which is not read there.
        (self.site / "zope" / "__init__.py").touch()


async def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    python = Python2(FOLDER)
    if not (python.site / "zope" / "__init__.py").exists():
        python.prepare()
    cases = sys.argv[1:] or CASES
    async with echo.serving(FOLDER) as port:
        server = {"agent": "collab", "url": f"ws://127.0.0.1:{port}/ws/echo"}
        spec = {
            "outdir": "reports",
            "servers": [server],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (FOLDER / "spec.json").write_text(json.dumps(spec))
        suite = "autobahntestsuite.wstest", "-m", "fuzzingclient", "-s", "spec.json"
        await asyncio.to_thread(python.run, *suite)
    results = json.loads((FOLDER / "reports" / "index.json").read_text())["collab"]
    by_chapter: dict[str, Counter[str]] = {}
    failed = []
    for number, result in results.items():
        chapter = by_chapter.setdefault(number.partition(".")[0], Counter())
        chapter[result["behavior"]] += 1
        if {result["behavior"], result["behaviorClose"]} & {"FAILED", "WRONG CODE"}:
            failed.append(number)
    for number, counted in sorted(by_chapter.items(), key=lambda row: int(row[0])):
        said = ", ".join(f"{count} {what}" for what, count in counted.items())
        print(f"{number:>4}  {said}")
    for number in failed:
        print(f"{number} failed: {ARGUED.get(number, 'UNEXPECTED')}")
    return len(set(failed) - ARGUED.keys())


if __name__ == "__main__":
    sys.exit(min(1, asyncio.run(main())))
