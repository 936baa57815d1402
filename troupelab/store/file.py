"""What a store's file looks like: schema, checksums, compression, migrations, and how one is made and opened.

Four tables. `block` has a row for each block, `dictionary` the trained dictionaries, `manifest` a row for each
(kind, agent) that says which rows `block` must have, and `whole` one row that says the same of the other two. All four
change in one transaction, so at any time each row that is missing, surplus or changed shows.

A manifest adds up its rows' checksums modulo 2**128. A chain of hashes would say more (the order), but blocks are dropped
anywhere, and a chain would have to be made anew from there on. The checksums find accidents, not forgers.

Functions without state, for the modules of the store alone. Any thread may call them, each with a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
import zstandard

from troupelab._platform import sync_folder
from troupelab.errors import StoreCorruptError, StoreError, StoreFullError, StoreVersionError

APPLICATION_ID = 0x54724C62  # "TrLb"
SCHEMA_VERSION = 1
MAX_META_BYTES = 4096
MAX_PAYLOAD_BYTES = 64 << 20
ROW_OVERHEAD_BYTES = 80  # two checksums, the key, SQLite's header and the cell's pointer
ZSTD_LEVEL = 3  # on 512 records of 300 characters, level 6 saves 8 % of the bytes and takes 2.8 times as long
MODULUS = 1 << 128
_SAMPLE_BYTES, _SAMPLE_PIECE_BYTES, _SAMPLE_MAX_PER_PAYLOAD = 256 << 10, 2 << 10, 32 << 10
_DICTIONARY_BYTES = 16 << 10
_MAGIC = b"SQLite format 3\x00"
_CORRUPT_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG}
_SHORT_READ = 522  # SQLITE_IOERR_SHORT_READ: the file ends before it should

SELECT_ROWS = (
    "SELECT id, kind, agent, number, meta, raw_bytes, dictionary, length(payload), checksum, key_checksum FROM block"
)
SELECT_PAYLOADS = SELECT_ROWS.replace(" FROM", ", payload FROM")
SCHEMA = (
    # The payload stands last: SQLite reads the columns before it without touching the pages that it fills.
    """CREATE TABLE block (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, agent INTEGER NOT NULL, number INTEGER NOT NULL,
    meta BLOB NOT NULL, raw_bytes INTEGER NOT NULL, dictionary INTEGER NOT NULL, checksum BLOB NOT NULL,
    key_checksum BLOB NOT NULL, payload BLOB NOT NULL)""",
    """CREATE TABLE manifest (kind TEXT NOT NULL, agent INTEGER NOT NULL, blocks INTEGER NOT NULL,
    next_number INTEGER NOT NULL, total BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (kind, agent)) WITHOUT ROWID""",
    "CREATE TABLE dictionary (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, checksum BLOB NOT NULL, data BLOB NOT NULL)",
    """CREATE TABLE whole (id INTEGER PRIMARY KEY, manifests INTEGER NOT NULL, dictionaries INTEGER NOT NULL,
    total BLOB NOT NULL, checksum BLOB NOT NULL)""",
)
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}
"""From each older version: what makes the next one of it, called within a transaction."""


class Block(NamedTuple):
    """What the index knows of a block; `size_bytes` is what it takes on disk."""

    kind: str
    agent: int
    number: int
    meta: bytes
    size_bytes: int


class Entry(NamedTuple):
    """What stays in memory of a block."""

    row: int
    size_bytes: int
    checksum: int


class Manifest(NamedTuple):
    """What a (kind, agent) must have: how many blocks, the next one's number, and the sum of their checksums."""

    blocks: int
    next_number: int
    total: int


class Row(NamedTuple):
    """A row of the table `block` but its payload."""

    id: int
    kind: str
    agent: int
    number: int
    meta: bytes
    raw_bytes: int
    dictionary: int
    stored_bytes: int
    checksum: bytes
    key_checksum: bytes

    @property
    def block(self) -> Block:
        """What the outside sees of it."""
        size_bytes = self.stored_bytes + len(self.meta) + ROW_OVERHEAD_BYTES
        return Block(self.kind, self.agent, self.number, self.meta, size_bytes)

    @property
    def entry(self) -> Entry:
        """What the index keeps of it."""
        return Entry(self.id, self.block.size_bytes, as_number(self.key_checksum))

    def holds(self) -> bool:
        """Whether the key's checksum is that of the row."""
        return self.key_checksum == checksum(*self[1:-1])

    def holds_payload(self, packed: object) -> bool:
        """Whether the payload's checksum is that of the row with this payload."""
        return isinstance(packed, bytes) and self.checksum == checksum(*self[1:7], packed)


class Codec:
    """Packs and unpacks payloads; belongs to one thread (zstd's contexts may not be shared)."""

    def __init__(self, dictionaries: dict[int, bytes]) -> None:
        self.dictionaries = dictionaries
        self._packers: dict[int, zstandard.ZstdCompressor] = {}
        self._unpackers: dict[int, zstandard.ZstdDecompressor] = {}

    def pack(self, dictionary: int, payload: bytes) -> bytes:
        """Compress with a dictionary (0: with none)."""
        packer = self._packers.get(dictionary)
        if packer is None:
            packer = zstandard.ZstdCompressor(ZSTD_LEVEL, dict_data=self._dictionary(dictionary), write_dict_id=False)
            self._packers[dictionary] = packer
        return packer.compress(payload)

    def unpack(self, row: Row, packed: object) -> bytes:
        """Check and decompress what a row holds; never more than the row's checked size.

        Raises:
            StoreCorruptError: a checksum is not that of the row, or its dictionary is missing.
        """
        name = f"block {row.kind}/{row.agent}/{row.number}"
        if not row.holds() or not isinstance(packed, bytes) or not row.holds_payload(packed):
            raise StoreCorruptError(f"{name} is not what was written: its checksum differs")
        if row.dictionary and row.dictionary not in self.dictionaries:
            raise StoreCorruptError(f"{name} cannot be read: its dictionary {row.dictionary} is missing or broken")
        unpacker = self._unpackers.get(row.dictionary)
        if unpacker is None:
            unpacker = zstandard.ZstdDecompressor(dict_data=self._dictionary(row.dictionary))
            self._unpackers[row.dictionary] = unpacker
        try:
            # The frame's own size decides how much memory is taken, so it is compared first.
            if not zstandard.frame_content_size(packed) == row.raw_bytes <= MAX_PAYLOAD_BYTES:
                raise StoreCorruptError(f"{name} cannot be read: it unpacks to another size than was written")
            return unpacker.decompress(packed)
        except zstandard.ZstdError as error:
            raise StoreCorruptError(f"{name} cannot be unpacked: {error}") from error

    def _dictionary(self, dictionary: int) -> zstandard.ZstdCompressionDict | None:
        return zstandard.ZstdCompressionDict(self.dictionaries[dictionary]) if dictionary else None


class Trainer:
    """Gathers samples of each kind until they are enough for a dictionary; belongs to one thread."""

    def __init__(self) -> None:
        self._samples: dict[str, list[bytes | bytearray | memoryview]] = {}

    def add(self, kind: str, payload: bytes) -> bytes | None:
        """Take pieces of a payload.

        Returns:
            A dictionary as soon as there are enough pieces (b"" when nothing repeats in them), until then None.
        """
        samples = self._samples.setdefault(kind, [])
        head = payload[:_SAMPLE_MAX_PER_PAYLOAD]
        samples += [head[at : at + _SAMPLE_PIECE_BYTES] for at in range(0, len(head), _SAMPLE_PIECE_BYTES)]
        if sum(map(len, samples)) < _SAMPLE_BYTES:
            return None
        del self._samples[kind]
        try:
            return zstandard.train_dictionary(_DICTIONARY_BYTES, samples).as_bytes()
        except zstandard.ZstdError:
            return b""


def check_payload(payload: object, name: str) -> None:
    """Refuse what no block can hold.

    Raises:
        StoreError: not bytes, or too many of them.
    """
    if not isinstance(payload, bytes):
        raise StoreError(f"{name}: the payload must be bytes, not {type(payload).__name__}")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise StoreError(
            f"{name}: a payload has at most {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}: cut it in parts"
        )


def checksum(*parts: object) -> bytes:
    """Hash parts with their types and lengths, so that none can pass for another."""
    hasher = xxhash.xxh3_128()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        hasher.update(f"{type(part).__name__}{len(data)}:".encode())
        hasher.update(data)
    return hasher.digest()


def as_number(digest: bytes) -> int:
    """A checksum as a number that can be added up."""
    return int.from_bytes(digest, "big")


def as_blob(total: int) -> bytes:
    """A sum as it stands in the file."""
    return total.to_bytes(16, "big")


def translate(error: Exception, path: Path) -> StoreError:
    """The store's own error for one of SQLite, the operating system, or anything unforeseen."""
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno in _no_room()):
        return StoreFullError(f"{path} cannot be written: no room is left ({error}); make some, and it goes on")
    if code is not None and (code & 0xFF in _CORRUPT_CODES or code == _SHORT_READ):
        return StoreCorruptError(f"{path} is damaged ({error}); Store.salvage(path) gets out what is still whole")
    if isinstance(error, (sqlite3.Error, OSError)):
        return StoreError(f"{path} cannot be used ({error}); look at the disk and at who may write there")
    return StoreError(f"{path} cannot be used: unforeseen {type(error).__name__}: {error}")


def _no_room() -> set[int]:
    import errno

    return {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextlib.contextmanager
def translated(path: Path, by: Callable[[Exception, Path], StoreError] = translate) -> Iterator[None]:
    """Let nothing out but the store's own errors, in the words of `by`."""
    try:
        yield
    except (sqlite3.Error, OSError, MemoryError, ValueError, TypeError, OverflowError) as error:
        raise by(error, path) from error


def lock_path(path: Path) -> Path:
    """The file that is locked for a store.

    Not the store's own: POSIX drops every lock that a process has on a file as soon as it closes any descriptor of it,
    and those are the locks that SQLite relies on.
    """
    return path.with_name(path.name + ".lock")


def create(path: Path) -> None:
    """Make an empty store; the file appears under its name when it is complete, or not at all."""
    new = path.with_name(path.name + ".new")
    # SQLite would play a write-ahead log that an earlier file of this name left behind into the new one.
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    new.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
            # Both only work before the first table.
            connection.execute("PRAGMA page_size=4096")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("BEGIN")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            for statement in SCHEMA:
                connection.execute(statement)
            write_whole(connection, 0, 0, 0)
            connection.execute("COMMIT")
            can_shrink = pragma(connection, "auto_vacuum") == 2
            connection.execute("PRAGMA journal_mode=WAL")
        if not can_shrink:
            raise StoreError(f"{path} cannot be made: this SQLite cannot give room back (auto_vacuum)")  # noqa: TRY301
        os.replace(new, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def connect(path: Path, *, write: bool, immutable: bool = False, mmap_bytes: int = 0) -> sqlite3.Connection:
    """Open a connection that any thread may use, one at a time."""
    mode = "mode=rw" if write else "mode=ro&immutable=1" if immutable else "mode=ro"
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, isolation_level=None, check_same_thread=False)
    connection.text_factory = _text
    # A damaged length must not make SQLite ask for a gigabyte.
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_PAYLOAD_BYTES + (1 << 20))
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        if not write:
            connection.execute("PRAGMA query_only=ON")
            connection.execute("PRAGMA cache_size=-512")
            connection.execute(f"PRAGMA mmap_size={mmap_bytes}")
    except BaseException:
        connection.close()
        raise
    return connection


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")  # a damaged text is found by its checksum


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    """One value of SQLite's settings."""
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def check_kind_of_file(path: Path) -> None:
    """Refuse what is no store, before SQLite touches it.

    Only for who holds the lock: closing a file drops the locks that SQLite has on it in this process.

    Raises:
        StoreError: a folder, or a file of something else.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder; a store is a file")
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(_MAGIC) or header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise StoreError(f"{path} is not a store of TroupeLab (or its first bytes are damaged); choose another path")


def version_problem(connection: sqlite3.Connection, path: Path) -> StoreVersionError | None:
    """Why this TroupeLab cannot use the file's version, or None."""
    version = pragma(connection, "user_version")
    if version > SCHEMA_VERSION:
        return StoreVersionError(
            f"{path} has version {version}, this TroupeLab knows {SCHEMA_VERSION}: update troupelab"
        )
    if any(step not in MIGRATIONS for step in range(version, SCHEMA_VERSION)):
        return StoreVersionError(f"{path} has version {version}, which this TroupeLab ({SCHEMA_VERSION}) cannot read")
    return None


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring an older file to this version in one transaction.

    Raises:
        StoreVersionError: the version is unknown here.
        StoreError: a migration failed; the file is as it was.
    """
    problem = version_problem(connection, path)
    if problem:
        raise problem
    version = pragma(connection, "user_version")
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, SCHEMA_VERSION):
            MIGRATIONS[step](connection)
            connection.execute(f"PRAGMA user_version={step + 1}")
        connection.execute("COMMIT")
    except Exception as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise StoreError(f"{path} stays at version {version}: the migration failed ({error})") from error


def manifest_checksum(key: tuple[str, int], manifest: Manifest) -> bytes:
    """The checksum of a manifest's row."""
    return checksum(*key, manifest.blocks, manifest.next_number, as_blob(manifest.total))


def write_whole(connection: sqlite3.Connection, manifests: int, dictionaries: int, total: int) -> None:
    """Write the one row that vouches for manifests and dictionaries."""
    row = (manifests, dictionaries, as_blob(total % MODULUS))
    connection.execute("INSERT OR REPLACE INTO whole VALUES (1, ?, ?, ?, ?)", (*row, checksum(*row)))
