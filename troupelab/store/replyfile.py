"""What a file of replies looks like, and how it is made, opened and read.

One table has a row for each reply, and one has the dictionaries that replies were compressed with. A row's checksum is
over its key, its time, its dictionary and its payload, so that none passes for another's. Rows and dictionaries that
are damaged are misses; only a file that SQLite cannot work with is refused.

For the modules of the store and for who reads another run's replies. Any thread may call `Readers.find`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import struct
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash
import zstandard

from troupelab._platform import lock_file, sync_folder, unlock_file
from troupelab.errors import LimitError, StoreCorruptError, StoreError, StoreLockedError, StoreVersionError
from troupelab.store.file import MAX_PAYLOAD_BYTES, connect, lock_path, pragma, translate, translated

__all__ = [
    "MIN_BYTES",
    "PAGE_BYTES",
    "Found",
    "Readers",
    "checksum",
    "insert",
    "open_to_write",
    "shares",
    "size_of",
    "told",
    "told_of",
    "transaction",
]

# Pages of 4 KB: twice as large ones hold 2 kB rows more densely, but each row also changes a page of the index.
PAGE_BYTES = 4096
MIN_BYTES = 100_000
_LARGEST_LOG_BYTES = 16 << 20
_MMAP_BYTES = 32 << 20  # mapped pages count as memory of the process
_SYNCHRONOUS = (
    "NORMAL"  # a commit waits for no disk: it outlives the process, and a loss of power costs only the newest
)
_APPLICATION_ID = 0x54724C63  # "TrLc"
_SCHEMA_VERSION = 1
_SCHEMA = (
    """CREATE TABLE reply (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, created REAL NOT NULL,
    dictionary INTEGER NOT NULL, checksum BLOB NOT NULL, payload BLOB NOT NULL)""",
    "CREATE TABLE dictionary (id INTEGER PRIMARY KEY, checksum BLOB NOT NULL, data BLOB NOT NULL)",
)
_SELECT = "SELECT id, created, dictionary, checksum, payload FROM reply WHERE key = ?"
_log = logging.getLogger("troupelab.store")


def insert(connection: sqlite3.Connection, number: int, rows: Sequence[tuple[bytes, float, int, bytes]]) -> int:
    """Put rows (key, created, dictionary, payload) in one statement; those with the same key go.

    Args:
        connection: in a transaction.
        number: of the first row.
        rows: not more than a few hundred.

    Returns:
        How many rows there are more than before.
    """
    keys = {row[0] for row in rows}
    counted = f"SELECT count(*) FROM reply WHERE key IN ({', '.join('?' * len(keys))})"  # noqa: S608 - marks only
    known: int = connection.execute(counted, [*keys]).fetchone()[0]
    values: list[object] = []
    for place, (key, created, dictionary, data) in enumerate(rows, number):
        values += (place, key, created, dictionary, checksum(key, created, dictionary, data), data)
    marks = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(rows))
    connection.execute(f"INSERT OR REPLACE INTO reply VALUES {marks}", values)  # noqa: S608 - marks only
    return len(keys) - known


class Found(NamedTuple):
    """What a file has for a key."""

    row: int
    created: float
    payload: bytes


def checksum(key: bytes, created: float, dictionary: int, packed: bytes) -> bytes:
    """What vouches for a row; the parts before the payload have fixed lengths."""
    return xxhash.xxh3_64_digest(key + struct.pack("<dq", created, dictionary) + packed)


def told(error: Exception, path: Path) -> StoreError:
    """The store's error for whatever went wrong with a file of replies."""
    told = translate(error, path)
    if isinstance(told, StoreCorruptError):
        return StoreCorruptError(f"{path} is damaged ({error}): delete it, a cache of replies may be thrown away")
    return told


def told_of(path: Path) -> contextlib.AbstractContextManager[None]:
    """Let nothing out but the store's own errors, as `told` words them."""
    return translated(path, told)


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    # Asked through SQLite: closing a file of one's own would drop SQLite's locks on it in this process.
    if pragma(connection, "application_id") != _APPLICATION_ID:
        raise StoreError(f"{path} is not a cache of replies (or its first bytes are damaged); choose another path")
    version = pragma(connection, "user_version")
    if version != _SCHEMA_VERSION:
        do = "update troupelab, or delete the file" if version > _SCHEMA_VERSION else "delete the file"
        raise StoreVersionError(f"{path} has version {version}, this TroupeLab knows {_SCHEMA_VERSION}: {do}")


class _Reader:
    """A thread's read-only connection; goes with the thread or when the file is closed."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.Lock()  # free but for the moment in which the file is closed
        self._unpackers: dict[int, zstandard.ZstdDecompressor] = {}
        self.connection = connect(path, write=False, mmap_bytes=_MMAP_BYTES)
        try:
            _check_version(self.connection, path)
        except sqlite3.OperationalError:
            self.connection.close()
            # A folder in which SQLite cannot put its own files has no writer either.
            self.connection = connect(path, write=False, immutable=True)
            _check_version(self.connection, path)

    def find(self, key: bytes) -> Found | int | None:
        """What the file has; only the row's number where that is damaged."""
        with self.lock:
            values = self.connection.execute(_SELECT, (key,)).fetchone()
            if values is None:
                return None
            row, created, dictionary, own, packed = values
            whole = isinstance(created, float) and isinstance(dictionary, int) and isinstance(packed, bytes)
            if not whole or own != checksum(key, created, dictionary, packed):
                return int(row)
            unpacker = self._unpackers.get(dictionary) or self._unpacker(dictionary)
            if unpacker is None or not 0 <= zstandard.frame_content_size(packed) <= MAX_PAYLOAD_BYTES:
                return int(row)
            return Found(row, created, unpacker.decompress(packed))

    def _unpacker(self, dictionary: int) -> zstandard.ZstdDecompressor | None:
        data = None
        if dictionary:
            query = "SELECT checksum, data FROM dictionary WHERE id = ?"
            own, found = self.connection.execute(query, (dictionary,)).fetchone() or (b"", b"")
            if not isinstance(found, bytes) or own != checksum(b"", 0.0, dictionary, found):
                return None
            data = zstandard.ZstdCompressionDict(found)
        unpacker = self._unpackers[dictionary] = zstandard.ZstdDecompressor(dict_data=data)
        return unpacker

    def close(self) -> None:
        with self.lock:
            self.connection.close()

    def __del__(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()


class Readers:
    """A file of replies to read only, beside its writer or without one; one connection a thread.

    Raises:
        StoreError: there is no such file, or it is none of replies; see `ReplyFile.open`.
    """

    def __init__(self, path: str | Path, *, check: bool = True) -> None:
        self.path = Path(path).resolve()
        self.damaged = 0
        self._own = threading.local()
        self._all: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False
        if check:
            with told_of(self.path):
                if not self.path.is_file():
                    raise StoreError(f"{self.path} is not a file: the cache to read from was moved or never made")
                self._reader()

    def find(self, key: bytes) -> Found | int | None:
        """What the file has for a key: None for nothing, only the row's number where that row is damaged.

        A page that cannot be read is nothing as well: a cache must not stop a run.

        Raises:
            StoreError: it is closed.
        """
        try:
            reader: _Reader = getattr(self._own, "reader", None) or self._reader()
            found = reader.find(key)
        except (sqlite3.Error, zstandard.ZstdError, MemoryError, OverflowError) as error:
            if self._closed:
                raise StoreError(f"{self.path} is closed: nothing can be read any more") from error
            _log.warning("%s", told(error, self.path))
            found = -1
        if isinstance(found, int):
            self.damaged += 1
        return found

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            self._closed = True
            readers = list(self._all)
        for reader in readers:
            reader.close()

    def _reader(self) -> _Reader:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path} is closed: nothing can be read any more")
            reader = self._own.reader = _Reader(self.path)
            self._all.add(reader)
        return reader


def shares(max_bytes: int, max_age_s: float | None) -> tuple[int, int]:
    """How many pages of a cap are the file's, and how many bytes the log's.

    Half of the log's part is for what waits to be checkpointed, a quarter for one transaction, a quarter for error.

    Raises:
        LimitError: a cap is out of range.
    """
    if max_bytes < MIN_BYTES:
        raise LimitError(f"max_bytes of a cache of replies must be at least {MIN_BYTES}, not {max_bytes!r}")
    if max_age_s is not None and not max_age_s > 0:
        raise LimitError(f"max_age_s of a cache of replies must be above 0, or None, not {max_age_s!r}")
    log_bytes = min(max(max_bytes // 8, min(max_bytes * 2 // 5, 256_000)), _LARGEST_LOG_BYTES)
    return (max_bytes - log_bytes) // PAGE_BYTES, log_bytes


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of a block's statements or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise


def size_of(path: str) -> int:
    """A file's bytes; 0 where there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def open_to_write(path: Path) -> tuple[sqlite3.Connection, int]:
    """The connection that writes, and the lock."""
    with told_of(path), contextlib.ExitStack() as undo:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = lock_file(lock_path(path))
        except BlockingIOError:
            why = (
                "is in use as a cache by another run: close that one first, choose another path, or read it as a parent"
            )
            raise StoreLockedError(f"{path} {why}") from None
        undo.callback(unlock_file, lock, lock_path(path))
        if not path.exists():
            _create(path)
        connection = undo.enter_context(contextlib.closing(connect(path, write=True)))
        _check_version(connection, path)
        if pragma(connection, "journal_mode=WAL") != "wal":
            raise StoreError(f"{path} cannot be written as a cache: its folder does not allow it")
        for setting in (
            f"synchronous={_SYNCHRONOUS}",
            "wal_autocheckpoint=0",
            "secure_delete=OFF",
            "busy_timeout=1000",
        ):
            connection.execute(f"PRAGMA {setting}")
        with transaction(connection):  # learns now whether the file may be written at all
            pass
        undo.pop_all()
        return connection, lock


def _create(path: Path) -> None:
    """Make an empty file; it appears under its name when it is complete, or not at all."""
    new = path.with_name(path.name + ".new")
    for old in (f"{path}-wal", f"{path}-shm", f"{new}-wal", f"{new}-shm", str(new)):
        Path(old).unlink(missing_ok=True)  # SQLite would play an old log into the new file
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
        settings = (f"page_size={PAGE_BYTES}", "auto_vacuum=INCREMENTAL", f"application_id={_APPLICATION_ID}")
        for setting in (*settings, f"user_version={_SCHEMA_VERSION}"):
            connection.execute(f"PRAGMA {setting}")
        for statement in _SCHEMA:
            connection.execute(statement)
    os.replace(new, path)
    sync_folder(path.parent)
