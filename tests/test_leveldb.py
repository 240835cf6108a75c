"""LevelDB, read without writing, on what LevelDB itself wrote (``tests/importing``)."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from collab.errors import ImportFailed, ProtocolError
from collab.leveldb import LOG_BLOCK, LevelDB, crc32c, unmask, unsnap
from tests.fuzz.files import MAGIC, Level, lay, long_keys, mask
from tests.importing import HERE
from tests.node import node_path, run_node
from tests.peers import data, uint

EVERYTHING = (b"", b"\xff" * 9)

SEED = int(
    os.environ.get("LEVELDB_SEED", random.SystemRandom().randrange(1, 2**31 - 9))
)
"""Of what LevelDB writes. When it puts tables together depends on the machine too."""


def written(folder: Path, seed: int) -> dict[bytes, bytes]:
    """Let LevelDB write what a seed decides; return what is in it then."""
    with run_node(HERE / "level.mjs", str(folder), str(seed)) as process:
        said, _ = process.communicate()
    return {
        bytes.fromhex(key): b64decode(value) for key, value in json.loads(said).items()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables and a log of several blocks, whose writer was killed."""
    for seed in count(1):
        folder = tmp_path_factory.mktemp("small") / "level"
        written(folder, seed)
        logs = [path.stat().st_size for path in folder.glob("*.log")]
        if (
            len(logs) == 1
            and logs[0] > LOG_BLOCK
            and len(list(folder.glob("*.ldb"))) > 1
        ):
            break
    return folder


@pytest.mark.parametrize("world", range(4))
def test_it_holds_what_leveldb_says(tmp_path: Path, world: int) -> None:
    seed = SEED + world
    expected = written(tmp_path / "level", seed)
    database = LevelDB(tmp_path / "level")
    found = database.read(*EVERYTHING)
    assert found == sorted(expected.items()), f"LEVELDB_SEED={seed}"


def test_a_range_holds_its_first_key_and_not_its_end(small: Path) -> None:
    database = LevelDB(small)
    everything = database.read(*EVERYTHING)
    keys = [key for key, _ in everything]
    for at in range(0, len(keys), 29):
        for until in range(at, len(keys), 31):
            found = database.read(keys[at], keys[until])
            assert found == everything[at:until]


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A folder in which all keys are set to a number, to the next, without an end."""
    folder = tmp_path / "level"
    with run_node(HERE / "level.mjs", str(folder), "for-ever") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        try:
            yield folder
        finally:
            process.kill()


def test_a_busy_writer_is_seen_at_moments_that_were(busy: Path) -> None:
    before = -1
    manifests: set[bytes] = set()
    while len(manifests) < 20:
        database = LevelDB(busy)
        manifests.add(database.version.manifest)
        numbers = {int(value.split()[0]) for _, value in database.read(*EVERYTHING)}
        assert len(numbers) == 1
        assert min(numbers) >= before
        before = min(numbers)


def test_reading_goes_on_when_a_table_is_replaced(busy: Path) -> None:
    database = LevelDB(busy)
    while len(database.tables) < 2:
        database = LevelDB(busy)
    version = database.version
    names = {f"{table.number:06}.ldb" for table in database.tables}
    while names <= set(os.listdir(busy)):
        time.sleep(0.001)
    assert len(database.read(*EVERYTHING)) == 30
    assert database.version is not version


def test_a_log_that_ends_anywhere_holds_what_is_whole(
    tmp_path: Path, small: Path
) -> None:
    folder = shutil.copytree(small, tmp_path / "level")
    (path,) = folder.glob("*.log")
    log = path.read_bytes()
    before = -1
    for end in [*range(0, len(log), 997), len(log)]:
        path.write_bytes(log[:end])
        database = LevelDB(folder)
        assert len(database.recent) >= before
        before = len(database.recent)
    assert LevelDB(folder).read(*EVERYTHING) == LevelDB(small).read(*EVERYTHING)


def test_a_log_with_a_wrong_byte_is_damaged(tmp_path: Path, small: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "level")
    (path,) = folder.glob("*.log")
    log = bytearray(path.read_bytes())
    log[len(log) // 3] ^= 1
    path.write_bytes(log)
    with pytest.raises(ImportFailed, match="wrong checksum; restore a backup"):
        LevelDB(folder)


def test_a_table_with_a_wrong_byte_is_damaged_there_and_nowhere_else(
    tmp_path: Path, small: Path
) -> None:
    folder = shutil.copytree(small, tmp_path / "level")
    everything = dict(LevelDB(small).read(*EVERYTHING))
    path = max(folder.glob("*.ldb"), key=lambda path: path.stat().st_size)
    table = bytearray(path.read_bytes())
    table[len(table) // 2] ^= 1
    path.write_bytes(table)
    database = LevelDB(folder)
    readable: dict[bytes, bytes] = {}
    for key in everything:
        with suppress(ImportFailed):
            readable |= database.read(key, key + b"\0")
    assert readable.items() < everything.items()
    assert readable
    with pytest.raises(ImportFailed, match="wrong checksum; restore a backup"):
        database.read(*EVERYTHING)


@pytest.mark.parametrize("kind", ["*.ldb", "*.log", "MANIFEST-*"])
def test_a_missing_file_is_missed(tmp_path: Path, small: Path, kind: str) -> None:
    folder = shutil.copytree(small, tmp_path / "level")
    next(folder.glob(kind)).unlink()
    with pytest.raises(ImportFailed, match="restore a backup"):
        LevelDB(folder).read(*EVERYTHING)


def test_a_table_that_is_cut_short_is_damaged(tmp_path: Path, small: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "level")
    for path in folder.glob("*.ldb"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImportFailed, match="is too short; restore a backup"):
        LevelDB(folder).read(*EVERYTHING)


def test_reading_changes_nothing(small: Path) -> None:
    def all_of_it() -> dict[str, tuple[bytes, int]]:
        return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in small.iterdir()}

    before = all_of_it()
    LevelDB(small).read(*EVERYTHING)
    assert all_of_it() == before


def test_the_repair_that_is_advised_repairs(tmp_path: Path, small: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "level")
    (path,) = folder.glob("*.log")
    log = bytearray(path.read_bytes())
    log[len(log) // 3] ^= 1
    path.write_bytes(log)
    script = "require('classic-level').ClassicLevel.repair(process.argv[1])"
    subprocess.run([node_path(), "-e", script, folder], cwd=HERE, check=True)
    found = dict(LevelDB(folder).read(*EVERYTHING))
    assert found


# Files that somebody made to look like a LevelDB.

SIZE = 2**40
"""Bytes that something says it has."""


def crafted(
    folder: Path,
    *blocks: bytes,
    index: Callable[[bytes], bytes] = lambda places: places,
    level: int = 0,
) -> Path:
    """A LevelDB with one table, of blocks whose places are told by its index."""
    writer = Level(random.Random(0), 0.0)
    table = bytearray()
    places = []
    for number, block in enumerate(blocks):
        place = uint(len(table)) + uint(len(block))
        places.append((b"k%03d" % number + b"\xff" * 8, index(place)))
        table += sealed(block)
    written = writer.block(places)
    where = uint(len(table)) + uint(len(written))
    table += sealed(written)
    table += (b"\x00\x00" + where).ljust(40, b"\x00") + MAGIC.to_bytes(8, "little")
    keys = data(b"a" + bytes(8)) + data(b"z" + bytes(8))
    edit = b"\x07" + uint(level) + uint(10) + uint(len(table)) + keys
    folder.mkdir()
    (folder / "000010.ldb").write_bytes(table)
    (folder / "000009.log").write_bytes(b"")
    (folder / "MANIFEST-000002").write_bytes(writer.log([b"\x02\x09" + edit]))
    (folder / "CURRENT").write_bytes(b"MANIFEST-000002\n")
    return folder


def sealed(block: bytes) -> bytes:
    """A block that is not compressed, and its trailer."""
    return block + b"\x00" + mask(crc32c(block + b"\x00")).to_bytes(4, "little")


def block_of(*keys: bytes) -> bytes:
    """A block in which these are set to nothing."""
    writer = Level(random.Random(0), 0.0)
    return writer.block([(key + b"\x01" + bytes(7), b"") for key in keys])


FIRST = b"\x00" + uint(len(block_of(b"a")))
"""The place of a block at the beginning."""


def test_what_is_crafted_is_read(tmp_path: Path) -> None:
    folder = crafted(tmp_path / "level", block_of(b"a"), block_of(b"k0001", b"k001"))
    found = LevelDB(folder).read(*EVERYTHING)
    assert found == [(b"a", b""), (b"k0001", b""), (b"k001", b"")]


@pytest.mark.parametrize(
    ("blocks", "options", "says"),
    [
        ([block_of(b"a")], {"index": lambda _: b"\x00" + uint(SIZE)}, "is too short"),
        ([block_of(b"a")], {"index": lambda _: uint(SIZE) + b"\x09"}, "is too short"),
        (
            [block_of(b"a")] * 2,
            {"index": lambda _: FIRST},
            "blocks that are not",
        ),
        ([block_of(b"b", b"a")], {}, "keys that are not in order"),
        ([block_of(b"a", b"a")], {}, "keys that are not in order"),
        ([block_of(b"k1")], {}, "keys that are not in order"),
        ([block_of(b"k0001")] * 2, {}, "keys that are not in order"),
        ([long_keys()], {}, "keys that are too long for their block"),
        ([block_of(b"a")], {"level": 5000}, "a table in level 5000"),
    ],
)
def test_what_it_says_of_itself_is_not_believed(
    tmp_path: Path, blocks: list[bytes], options: dict[str, Any], says: str
) -> None:
    folder = crafted(tmp_path / "level", *blocks, **options)
    with pytest.raises(ImportFailed, match=says):
        LevelDB(folder).read(*EVERYTHING)


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST-000002", "000009.log"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = crafted(tmp_path / "level", block_of(b"a"))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ImportFailed, match=f"{name} is no file; restore a backup"):
        LevelDB(folder)


def test_a_table_that_never_ends_is_not_read(tmp_path: Path) -> None:
    folder = crafted(tmp_path / "level", block_of(b"a"))
    (folder / "000010.ldb").unlink()
    (folder / "000010.ldb").symlink_to("/dev/zero")
    with pytest.raises(ImportFailed, match="is no file; restore a backup"):
        LevelDB(folder).read(*EVERYTHING)


@pytest.mark.parametrize("name", ["\u00b2.log", "-1.log", "1e9.log", "x.log"])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    folder = crafted(tmp_path / "level", block_of(b"a"))
    (folder / name).write_bytes(b"no log")
    assert LevelDB(folder).read(*EVERYTHING) == [(b"a", b"")]


@pytest.mark.parametrize("seed", range(40))
def test_without_breaking_its_rules_the_writer_writes_what_is_read(
    tmp_path: Path, seed: int
) -> None:
    inputs, expected = Level(random.Random(f"{SEED}/{seed}"), 0.0).make()
    lay(inputs, tmp_path)
    found = LevelDB(tmp_path).read(*EVERYTHING)
    assert found == sorted(expected.items()), f"LEVELDB_SEED={SEED}"


# The pieces, against values that are not ours.


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_a_checksum_is_unmasked_as_leveldb_masks() -> None:
    crc = crc32c(b"foo")
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF  # util/crc32c.h
    assert masked != crc
    assert unmask(masked) == crc


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("00", b""),
        ("03 08 616263", b"abc"),
        ("40 f0 3f" + "61" * 64, b"a" * 64),
        ("0a 04 6162 11 02", b"ab" * 5),
        ("0a 04 6162 1e 0200", b"ab" * 5),
        ("0a 04 6162 1f 02000000", b"ab" * 5),
    ],
)
def test_snappy_is_decompressed(compressed: str, plain: bytes) -> None:
    assert unsnap(bytes.fromhex(compressed)) == plain


@pytest.mark.parametrize("compressed", ["05 08 616263", "08 08 616263 0d 04"])
def test_what_is_not_snappy_is_refused(compressed: str) -> None:
    with pytest.raises(ProtocolError):
        unsnap(bytes.fromhex(compressed))
