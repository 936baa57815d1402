"""The file of a simulation's trace: which call, made where, led to which state; each part of a state is there once.

A trace is a tree. An entry is a call at a place (`parent` and the hash of the call); it has what the call gave back and
the state of the simulation behind it. A program that takes another way than before makes a branch, and both replay.

A state is cut in pieces (`trace_pieces`), each stored once under its hash however many states contain it. A piece names
those that it is made of by their number, which is always below its own. `Store` keeps an index entry in memory for each
block; here are too many small pieces for that, so they lie in a table with an index of its own.

When the file is full, branches beside the current one go, those that were not used for the longest time first. The
current one keeps its beginning, for that is where a replay begins: what no longer fits is not recorded.

The module owns the file and its lock (a file beside it). Any thread may call a `TraceFile`; calls wait for each other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from troupelab._platform import lock_file, sync_folder, unlock_file
from troupelab.bridges.tinytroupe.trace_pieces import MAX_STATE_CHARS, fold, parts_of, unfold
from troupelab.errors import StoreCorruptError, StoreError, StoreLockedError, StoreVersionError
from troupelab.store.file import ZSTD_LEVEL, checksum, connect, lock_path, pragma, translate, translated
from troupelab.store.replyfile import shares, size_of, transaction

__all__ = ["MAX_BYTES", "Entry", "TraceFile", "digest"]

MAX_BYTES = 256_000_000
"""What a trace may take on disk unless told otherwise."""

_PAGE_BYTES = 4096
_APPLICATION_ID = 0x54724C74  # "TrLt"
_SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE piece (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, made_of INTEGER NOT NULL, packed BLOB NOT NULL)",
    """CREATE TABLE entry (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, call BLOB NOT NULL, output INTEGER NOT NULL,
    state INTEGER NOT NULL, used INTEGER NOT NULL, checksum BLOB NOT NULL, UNIQUE (parent, call))""",
)
_KNOWN = 50_000  # hashes whose numbers are kept in memory
_USE = """WITH RECURSIVE path (id, parent) AS (SELECT id, parent FROM entry WHERE id = ?
    UNION ALL SELECT entry.id, entry.parent FROM entry JOIN path ON entry.id = path.parent)
    UPDATE entry SET used = ? WHERE id IN (SELECT id FROM path)"""
_BESIDE = """WITH RECURSIVE path (id, parent) AS (SELECT id, parent FROM entry WHERE id = ?
    UNION ALL SELECT entry.id, entry.parent FROM entry JOIN path ON entry.id = path.parent)
    SELECT id FROM entry WHERE id NOT IN (SELECT id FROM path) ORDER BY used, id LIMIT 1"""
_DROP = """WITH RECURSIVE gone (id) AS (VALUES (?) UNION ALL SELECT entry.id FROM entry JOIN gone ON parent = gone.id)
    DELETE FROM entry WHERE id IN (SELECT id FROM gone)"""


class Entry(NamedTuple):
    """A call that was made before: its number, and where what it gave back and the state behind it lie (0: nowhere)."""

    id: int
    output: int
    state: int


def digest(text: str) -> bytes:
    """The 16 bytes that stand for a text.

    >>> len(digest("a call")), digest("a call") == digest("another")
    (16, False)
    """
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class TraceFile:
    """An open trace, its only user until it is closed.

    Args:
        path: the file; its folder is made when it is missing.
        max_bytes: what it may take on disk, at least 100,000.

    Raises:
        LimitError: `max_bytes` is out of range.
        StoreLockedError: another process or simulation has it open.
        StoreVersionError: another TroupeLab wrote it, in a way that this one cannot read.
        StoreError: it is something else, is damaged, or cannot be written.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = MAX_BYTES) -> None:
        pages, self._log_bytes = shares(max_bytes, None)
        self.path = Path(path).resolve()
        self._mutex = threading.RLock()
        self._known: dict[bytes, int] = {}
        self._packer = zstandard.ZstdCompressor(ZSTD_LEVEL)
        self._unpacker = zstandard.ZstdDecompressor()
        with translated(self.path, _told), contextlib.ExitStack() as undo:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock = lock_file(lock_path(self.path))
            except BlockingIOError:
                why = "end that simulation first, or name another cache_path"
                raise StoreLockedError(f"{self.path} is in use by another simulation: {why}") from None
            undo.callback(unlock_file, lock, lock_path(self.path))
            if not self.path.exists():
                _create(self.path)
            self._connection = undo.enter_context(contextlib.closing(connect(self.path, write=True)))
            self._check_version()
            for setting in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=OFF", f"max_page_count={pages}"):
                self._connection.execute(f"PRAGMA {setting}").fetchone()
            with transaction(self._connection):  # learns now whether the file may be written at all
                used = self._connection.execute("SELECT max(used) FROM entry").fetchone()[0]
            self._pages, self._used = pages, (used or 0) + 1
            self._closing = undo.pop_all()

    def find(self, parent: int, call: bytes) -> Entry | None:
        """What is known of a call at a place (0: the beginning); a damaged entry is none.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._mutex, translated(self.path, _told):
            query = "SELECT id, output, state, checksum FROM entry WHERE parent = ? AND call = ?"
            row = self._connection.execute(query, (parent, call)).fetchone()
        if row is None or row[3] != checksum(row[0], parent, call, row[1], row[2]):
            return None
        return Entry(*row[:3])

    def load(self, number: int) -> Any:
        """Put a value together from its pieces.

        Raises:
            StoreCorruptError: a piece is missing or is not what was written.
            StoreError: the file cannot be read.
        """
        with self._mutex, translated(self.path, _told):
            try:
                return unfold(number, self._text)
            except (RecursionError, LookupError, ValueError, TypeError, zstandard.ZstdError) as error:
                raise StoreCorruptError(f"{self.path}: a state is not what was written ({error!r})") from error

    def append(self, parent: int, call: bytes, output: object, state: object) -> int | None:
        """Record a call behind an entry; one that was there for the same call goes, with all that followed it.

        Args:
            parent: the entry before it, 0 for none.
            call: its hash.
            output: what it gave back, in JSON's values.
            state: the simulation behind it, in JSON's values; None for none.

        Returns:
            The new entry's number, or None when there is no room even without the other branches.

        Raises:
            TypeError: a value is none of JSON's.
            StoreError: the file cannot be written.
        """

        def write() -> int:
            for row in self._connection.execute(
                "SELECT id FROM entry WHERE parent = ? AND call = ?", (parent, call)
            ).fetchall():
                self._connection.execute(_DROP, row)
            last = self._connection.execute("SELECT max(id) FROM entry").fetchone()[0]
            values = (
                (last or 0) + 1,
                parent,
                call,
                fold(output, self._piece),
                0 if state is None else fold(state, self._piece),
            )
            self._connection.execute(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, self._used, checksum(*values))
            )
            return values[0]

        return self._written(parent, write)

    def amend(self, entry: int, output: object) -> int | None:
        """Change what an entry gives back and nothing else; as `append`."""

        def write() -> int:
            row = self._connection.execute("SELECT parent, call, state FROM entry WHERE id = ?", (entry,)).fetchone()
            part = fold(output, self._piece)
            values = (part, checksum(entry, row[0], row[1], part, row[2]), entry)
            self._connection.execute("UPDATE entry SET output = ?, checksum = ? WHERE id = ?", values)
            return entry

        return self._written(entry, write)

    def flush(self, entry: int) -> None:
        """See that all is on the disk even after a loss of power, and note that the way to an entry was used now.

        Raises:
            StoreError: it could not be written.
        """
        with self._mutex, translated(self.path, _told):
            with transaction(self._connection):
                self._connection.execute(_USE, (entry, self._used))
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def entries(self) -> int:
        """How many calls are recorded."""
        with self._mutex, translated(self.path, _told):
            return int(self._connection.execute("SELECT count(*) FROM entry").fetchone()[0])

    def size_bytes(self) -> int:
        """What it takes on disk with its write-ahead log."""
        return sum(size_of(f"{self.path}{suffix}") for suffix in ("", "-wal"))

    def close(self) -> None:
        """Give the file free; a second call does nothing."""
        with self._mutex:
            self._closing.close()

    def _check_version(self) -> None:
        if pragma(self._connection, "application_id") != _APPLICATION_ID:
            raise StoreError(f"{self.path} is not a trace of a simulation: move it away, or name another cache_path")
        version = pragma(self._connection, "user_version")
        if version != _SCHEMA_VERSION:
            do = "update troupelab, or delete the file"
            raise StoreVersionError(f"{self.path} has version {version}, this TroupeLab knows {_SCHEMA_VERSION}: {do}")

    def _written(self, current: int, write: Callable[[], int]) -> int | None:
        """Write in one transaction; with no room for it, drop other branches and try again."""
        with self._mutex, translated(self.path, _told):
            while True:
                try:
                    with transaction(self._connection):
                        number = write()
                except BaseException as error:
                    self._known.clear()  # it has numbers of pieces that were rolled back
                    if not self._is_full(error):
                        raise
                    if not self._make_room(current):
                        return None
                else:
                    if size_of(f"{self.path}-wal") > self._log_bytes:
                        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                    return number

    def _is_full(self, error: BaseException) -> bool:
        """Whether it was `max_bytes` that was in the way; a full disk says the same."""
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
            return False
        free_pages = shutil.disk_usage(self.path.parent).free // _PAGE_BYTES
        return bool(free_pages > self._pages - pragma(self._connection, "page_count"))

    def _make_room(self, current: int) -> bool:
        """Drop the branches beside the way to an entry that were used last the longest ago; False when there are none."""
        connection, dropped = self._connection, False
        while not dropped or pragma(connection, "freelist_count") * 8 < self._pages:
            victim = connection.execute(_BESIDE, (current,)).fetchone()
            if victim is None:
                break
            with transaction(connection):
                connection.execute(_DROP, victim)
                self._sweep()
            dropped = True
        return dropped

    def _sweep(self) -> None:
        """Remove the pieces that no entry needs; a piece's parts stand before it, so one pass from the end finds them."""
        connection = self._connection
        end = connection.execute("SELECT max(id) FROM piece").fetchone()[0] or 0
        needed = bytearray(end + 1)
        for numbers in connection.execute("SELECT output, state FROM entry"):
            for number in numbers:
                needed[number if 0 <= number <= end else 0] = 1
        for number, packed in connection.execute("SELECT id, packed FROM piece WHERE made_of ORDER BY id DESC"):
            if needed[number]:
                for part in parts_of(self._unpacked(packed)):
                    needed[part if 0 <= part < number else 0] = 1
        unused = [(number,) for number in range(1, end + 1) if not needed[number]]
        connection.executemany("DELETE FROM piece WHERE id = ?", unused)

    def _piece(self, text: str, made_of: bool) -> int:
        """The number of a piece, which is stored unless it is there."""
        data = text.encode("utf-8", "surrogatepass")
        own = blake2b(data, digest_size=16).digest()
        number = self._known.get(own)
        if number is None:
            row = self._connection.execute("SELECT id FROM piece WHERE hash = ?", (own,)).fetchone()
            if row is None:
                values = (own, made_of, self._packer.compress(data))
                number = self._connection.execute("INSERT INTO piece VALUES (NULL, ?, ?, ?)", values).lastrowid or 0
            else:
                number = int(row[0])
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[own] = number
        return number

    def _text(self, number: int) -> str:
        row = self._connection.execute("SELECT hash, packed FROM piece WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise StoreCorruptError(f"{self.path}: a piece of a state is missing")
        text = self._unpacked(row[1])
        if digest(text) != row[0]:
            raise StoreCorruptError(f"{self.path}: a piece of a state is not what was written")
        return text

    def _unpacked(self, packed: bytes) -> str:
        if not 0 <= zstandard.frame_content_size(packed) <= MAX_STATE_CHARS:
            raise StoreCorruptError(f"{self.path}: a piece of a state has an impossible size")
        return self._unpacker.decompress(packed).decode("utf-8", "surrogatepass")


def _create(path: Path) -> None:
    """Make an empty file; it appears under its name when it is complete, or not at all."""
    new = path.with_name(path.name + ".new")
    for old in (f"{path}-wal", f"{path}-shm", f"{new}-wal", f"{new}-shm", str(new)):
        Path(old).unlink(missing_ok=True)  # SQLite would play an old log into the new file
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
        for setting in (
            f"page_size={_PAGE_BYTES}",
            f"application_id={_APPLICATION_ID}",
            f"user_version={_SCHEMA_VERSION}",
        ):
            connection.execute(f"PRAGMA {setting}")
        for statement in _SCHEMA:
            connection.execute(statement)
    os.replace(new, path)
    sync_folder(path.parent)


def _told(error: Exception, path: Path) -> StoreError:
    """The store's error for whatever went wrong with a trace."""
    told = translate(error, path)
    if type(told) is StoreCorruptError and told is not error:
        return StoreCorruptError(f"{path} is damaged ({error}): move it away, and the simulation is run anew")
    return told
