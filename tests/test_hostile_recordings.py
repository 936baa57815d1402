"""Recordings that somebody else sent: cut short, made up, too large, or laid as a trap; each is refused with the reason, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from helpers import quick_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.errors import CheckpointError, StoreCorruptError, StoreError, StoreVersionError, TroupeLabError
from troupelab.folder import RUN_FILE, read_folder
from troupelab.store.file import checksum

UNIX = pytest.mark.skipif(os.name == "nt", reason="pipes with names are POSIX's")


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, whole."""
    folder = tmp_path_factory.mktemp("sent")
    quick_run(steps=4, folder=folder).start().wait(60).close()
    return folder


@pytest.fixture
def copied(sent: Path, tmp_path: Path) -> Path:
    """One of one's own, to be changed."""
    folder = tmp_path / "copied"
    shutil.copytree(sent, folder)
    return folder


def changed(folder: Path, *statements: str, values: tuple[Any, ...] = ()) -> None:
    """Change a run's file as somebody with SQLite can."""
    with contextlib.closing(sqlite3.connect(folder / RUN_FILE)) as connection:
        for statement in statements:
            connection.execute(statement, values)
        connection.commit()


def refused(folder: Path, error: type[TroupeLabError], words: str, **options: Any) -> None:
    """It is refused by a recording and by a replay alike, and the folder is as it was."""
    before = {path.name: path.lstat().st_size for path in folder.iterdir()}
    with pytest.raises(error, match=words):
        tl.Recording.open(folder, **options)
    if not options:
        with pytest.raises(error, match=words):
            tl.replay(folder)
    assert {path.name: path.lstat().st_size for path in folder.iterdir()} == before


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.97])
def test_a_truncated_file_is_refused(copied: Path, share: float) -> None:
    """Wherever it was cut, the message says that it is damaged or no store."""
    file = copied / RUN_FILE
    os.truncate(file, int(file.stat().st_size * share))
    refused(copied, StoreError, r"damaged|not a store")


@pytest.mark.parametrize(
    ("kind", "statements"),
    [
        (
            "view",
            (
                "ALTER TABLE block RENAME TO real",
                "CREATE VIEW block AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT real.* FROM n, real",
            ),
        ),
        ("trigger", ("CREATE TRIGGER extra AFTER INSERT ON block BEGIN DELETE FROM block; END",)),
        ("table", ("CREATE TABLE surplus (a, b AS (length(zeroblob(a))))",)),
        ("index", ("CREATE INDEX slow ON block (length(payload))",)),
    ],
)
def test_what_would_run_inside_sqlite_is_refused(copied: Path, kind: str, statements: tuple[str, ...]) -> None:
    """Views without end, triggers, computed columns and the like: no store has them, and they are named before they are read."""
    changed(copied, *statements)
    refused(copied, StoreError, r"no store has")
    with pytest.raises(StoreError, match="no store has"):
        tl.Store.open(copied / RUN_FILE)


@pytest.mark.parametrize("statement", ["PRAGMA user_version=99", "PRAGMA user_version=0"])
def test_another_version_is_refused(copied: Path, statement: str) -> None:
    """The message names both versions."""
    changed(copied, statement)
    refused(copied, StoreVersionError, r"version (99|0)")


def test_a_file_larger_than_it_may_be_is_refused(sent: Path) -> None:
    """Before it is read; and so is one with more acts than it may have, or a journal that unpacks to more."""
    size = (sent / RUN_FILE).stat().st_size
    refused(sent, CheckpointError, r"more than max_bytes=1000\b", max_bytes=1_000)
    refused(sent, CheckpointError, r"more than max_acts=3 acts", max_acts=3)
    tl.Recording.open(sent, max_acts=32, max_bytes=size).close()  # 8 agents, 4 steps


def forged(folder: Path, meta: bytes, raw_bytes: int, packed: bytes, kind: str = "journal") -> None:
    """Put another payload in the place of a kind's last block, with all checksums right."""
    with contextlib.closing(sqlite3.connect(folder / RUN_FILE)) as connection:
        select = (
            "SELECT id, agent, number, dictionary, key_checksum FROM block WHERE kind = ? ORDER BY number DESC LIMIT 1"
        )
        row, agent, number, _, old = connection.execute(select, (kind,)).fetchone()
        body = (kind, agent, number, meta, raw_bytes, 0)
        held = checksum(*body, packed)
        key = checksum(*body, len(packed), held)
        connection.execute(
            "UPDATE block SET meta = ?, raw_bytes = ?, dictionary = 0, payload = ?, checksum = ?, key_checksum = ? WHERE id = ?",
            (meta, raw_bytes, packed, held, key, row),
        )
        blocks, following, total, before = connection.execute(
            "SELECT blocks, next_number, total, checksum FROM manifest WHERE kind = ? AND agent = ?", (kind, agent)
        ).fetchone()
        number_of = lambda digest: int.from_bytes(digest, "big")  # noqa: E731
        total = ((number_of(total) - number_of(old) + number_of(key)) % (1 << 128)).to_bytes(16, "big")
        after = checksum(kind, agent, blocks, following, total)
        connection.execute(
            "UPDATE manifest SET total = ?, checksum = ? WHERE kind = ? AND agent = ?", (total, after, kind, agent)
        )
        manifests, dictionaries, whole = connection.execute(
            "SELECT manifests, dictionaries, total FROM whole"
        ).fetchone()
        whole = ((number_of(whole) - number_of(before) + number_of(after)) % (1 << 128)).to_bytes(16, "big")
        connection.execute(
            "UPDATE whole SET total = ?, checksum = ?", (whole, checksum(manifests, dictionaries, whole))
        )
        connection.commit()


@pytest.mark.parametrize("raw_bytes", [1 << 10, 1 << 30])
def test_a_block_that_swells_is_refused_before_it_is_unpacked(copied: Path, raw_bytes: int) -> None:
    """A gigabyte of zeros, packed to a few kilobytes, says its size or lies about it: neither takes the memory."""
    packer = zstandard.ZstdCompressor(level=3).compressobj(size=1 << 30)
    packed = b"".join([packer.compress(bytes(1 << 24)) for _ in range(64)]) + packer.flush()
    forged(copied, msgspec.msgpack.encode(1), raw_bytes, packed)
    tracemalloc.start()
    try:
        refused(copied, StoreCorruptError, r"unpacks to another size")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "payload", [b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc1", msgspec.msgpack.encode([["act", 1]])]
)
def test_rows_that_are_none_are_refused(copied: Path, payload: bytes) -> None:
    """Lists a hundred thousand deep, of four billion, of a byte that means nothing, and rows of another form."""
    forged(copied, msgspec.msgpack.encode(1), len(payload), zstandard.compress(payload))
    refused(copied, StoreVersionError, r"cannot be read")


def test_a_forged_block_is_taken_where_it_is_right(copied: Path) -> None:
    """The forgery above is one: what it puts in is read, so the tests of it cannot pass by a wrong checksum."""
    payload = msgspec.msgpack.encode([])
    forged(copied, msgspec.msgpack.encode(0), len(payload), zstandard.compress(payload))
    with tl.Recording.open(copied) as recording:
        assert recording.state == "broken off"  # its last rows, which told of the end, are gone


@UNIX
@pytest.mark.parametrize("name", [RUN_FILE, f"{RUN_FILE}-wal", f"{RUN_FILE}-shm", f"{RUN_FILE}-journal"])
def test_pipes_are_not_waited_for(copied: Path, name: str) -> None:
    """A pipe in the place of a file would hold whoever opens it for ever."""
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    refused(copied, TroupeLabError, r"is no file|holds no run")


@UNIX
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_links_beside_the_file_lead_nowhere(copied: Path, tmp_path: Path, suffix: str) -> None:
    """What they name is neither read as a log nor changed."""
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    (copied / f"{RUN_FILE}{suffix}").symlink_to(mine)
    refused(copied, StoreError, r"is no file")
    assert mine.read_text() == "precious"


def test_a_progress_that_raises_ends_it(sent: Path) -> None:
    """Whoever opens a recording may end that, and nothing is held afterwards."""

    class EnoughError(Exception):
        pass

    def enough(done: int, total: int) -> None:
        raise EnoughError

    before = sorted(path.name for path in sent.iterdir())
    with pytest.raises(EnoughError):
        tl.Recording.open(sent, progress=enough)
    tl.Recording.open(sent).close()
    assert sorted(path.name for path in sent.iterdir()) == before


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from(
        ["world", "seed", "steps", "options", "limits", "overrides", "model", "scripted", "embedder", "forked_at"]
    ),
    junk=_JUNK,
    inner=st.booleans(),
    which=st.integers(0, 40),
)
def test_made_up_headers_are_refused_or_read(
    sent: Path, tmp_path_factory: pytest.TempPathFactory, field: str, junk: Any, inner: bool, which: int
) -> None:
    """Whatever a header says, reading it ends in a recording or in an error of ours."""
    folder = tmp_path_factory.mktemp("made-up")
    shutil.copytree(sent, folder, dirs_exist_ok=True)
    made: dict[str, Any] = msgspec.to_builtins(read_folder(folder)[0])
    if inner and isinstance(made[field], dict) and made[field]:
        names = sorted(made[field])
        made[field][names[which % len(names)]] = junk
    else:
        made[field] = junk
    try:
        payload = msgspec.msgpack.encode(made)
    except (OverflowError, UnicodeEncodeError):
        return
    forged(folder, msgspec.msgpack.encode(1), len(payload), zstandard.compress(payload), kind="run")
    with contextlib.suppress(TroupeLabError), tl.Recording.open(folder) as recording:
        recording.summary()
