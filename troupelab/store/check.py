"""Opening a store's file and reading it from end to end: to write, to verify, to salvage what is whole.

`load` reads everything but the payloads and compares it with the manifests; it never raises on what it finds, it notes
it. Opening a store refuses a file with notes, `verify` tells them, `salvage` works around them.

Functions without state, for the modules of the store alone. Any thread may call them, each with a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from troupelab._platform import lock_file, unlock_file
from troupelab.errors import StoreCorruptError, StoreError, StoreLockedError
from troupelab.store.file import (
    MODULUS,
    SCHEMA,
    SELECT_PAYLOADS,
    SELECT_ROWS,
    Block,
    Codec,
    Entry,
    Manifest,
    Row,
    as_blob,
    as_number,
    check_kind_of_file,
    checksum,
    connect,
    create,
    lock_path,
    migrate,
    pragma,
    translated,
    version_problem,
)

_BROKEN = (sqlite3.Error, MemoryError, OverflowError)


class Salvage(NamedTuple):
    """What can still be read of a damaged file, and a sentence on each thing that cannot."""

    blocks: list[tuple[Block, bytes]]
    problems: list[str]


class Contents:
    """All that a file says of itself, and what is wrong with it."""

    def __init__(self) -> None:
        self.index: dict[tuple[str, int], dict[int, Entry]] = {}
        self.manifests: dict[tuple[str, int], Manifest] = {}
        self.dictionaries: dict[int, bytes] = {}
        self.dictionary_of: dict[str, int] = {}
        self.total = 0
        self.problems: list[str] = []


def load(connection: sqlite3.Connection) -> Contents:
    """Read everything but the payloads and compare it with the manifests; what is wrong goes into `problems`."""
    contents, count = Contents(), 0
    for number, kind, found, data in _scan(connection, "SELECT id, kind, checksum, data FROM dictionary", contents):
        if found != checksum(number, kind, data):
            contents.problems.append(f"dictionary {number} is not what was written: its checksum differs")
            continue
        count, contents.total = count + 1, contents.total + as_number(found)
        contents.dictionaries[number] = data
        contents.dictionary_of[kind] = max(number, contents.dictionary_of.get(kind, 0))
    for kind, agent, blocks, next_number, total, found in _scan(connection, "SELECT * FROM manifest", contents):
        if found != checksum(kind, agent, blocks, next_number, total):
            contents.problems.append(f"the manifest of {kind}/{agent} is not what was written: its checksum differs")
            continue
        contents.total += as_number(found)
        contents.manifests[kind, agent] = Manifest(blocks, next_number, as_number(total))
    contents.total %= MODULUS
    expected = (len(contents.manifests), count, as_blob(contents.total))
    whole = list(_scan(connection, "SELECT * FROM whole", contents))
    if whole != [(1, *expected, checksum(*expected))]:
        contents.problems.append("a manifest or a dictionary is missing, surplus or changed")
    for values in _scan(connection, SELECT_ROWS, contents):
        row = Row(*values)
        if not row.holds() or not isinstance(row.id, int):  # without an id it could not be found again
            contents.problems.append(f"block {row.kind}/{row.agent}/{row.number}: its entry is not what was written")
        elif contents.index.setdefault((row.kind, row.agent), {}).setdefault(row.number, row.entry) != row.entry:
            contents.problems.append(f"block {row.kind}/{row.agent}/{row.number} is there twice")
    compare(contents)
    return contents


def compare(contents: Contents) -> None:
    """Hold the index against the manifests."""
    for key in sorted({*contents.index, *contents.manifests}):
        entries, manifest = contents.index.get(key, {}), contents.manifests.get(key, Manifest(0, 0, 0))
        if len(entries) < manifest.blocks:
            gaps = [str(number) for number in range(manifest.next_number) if number not in entries]
            lost = f"{manifest.blocks - len(entries)} of {manifest.blocks} blocks are missing or broken"
            contents.problems.append(f"{key[0]}/{key[1]}: {lost} (among the numbers {', '.join(gaps[:8])})")
        elif len(entries) > manifest.blocks or max(entries, default=-1) >= manifest.next_number:
            contents.problems.append(f"{key[0]}/{key[1]}: more blocks than the {manifest.blocks} that were written")
        elif sum(entry.checksum for entry in entries.values()) % MODULUS != manifest.total:
            contents.problems.append(f"{key[0]}/{key[1]}: other blocks than those that were written")


def _scan(connection: sqlite3.Connection, query: str, contents: Contents) -> Iterator[tuple[Any, ...]]:
    try:
        yield from connection.execute(query)
    except _BROKEN as error:
        contents.problems.append(f"{query.split()[-1]} cannot be read to its end: {error}")


def open_to_write(
    path: Path, may_create: bool, durable: bool, after_connect: Callable[[sqlite3.Connection], object] | None
) -> tuple[sqlite3.Connection, Contents, int]:
    """The connection that writes, what the file holds, and the lock; see `Store.open` for what it raises."""
    with translated(path), contextlib.ExitStack() as undo:
        if may_create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise StoreError(f"{path} does not exist")
        try:
            lock = lock_file(lock_path(path))
        except BlockingIOError:
            raise StoreLockedError(_who_holds(path)) from None
        undo.callback(unlock_file, lock, lock_path(path))
        if not path.exists():
            create(path)
        check_kind_of_file(path)
        _refuse_links_to_elsewhere(path)
        connection = undo.enter_context(contextlib.closing(connect(path, write=True)))
        refuse_foreign_schema(connection, path)
        migrate(connection, path)
        if pragma(connection, "journal_mode=WAL") != "wal" or pragma(connection, "auto_vacuum") != 2:
            raise StoreError(f"{path} cannot be written as a store: its folder or its header does not allow it")
        # FULL: what was acknowledged survives a loss of power. A temporary store does not survive the process anyway.
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA journal_size_limit=4194304")
        connection.execute("PRAGMA secure_delete=OFF")
        if after_connect is not None:
            after_connect(connection)
        connection.execute("BEGIN IMMEDIATE")  # learns now whether the file may be written at all
        connection.execute("ROLLBACK")
        contents = load(connection)
        refuse_damaged(contents, path)
        undo.pop_all()
        return connection, contents, lock


def refuse_damaged(contents: Contents, path: Path) -> None:
    """Raise StoreCorruptError, with the first few problems, where there are any."""
    if contents.problems:
        more = f" (and {len(contents.problems) - 3} more)" if len(contents.problems) > 3 else ""
        found = "; ".join(contents.problems[:3]) + more
        raise StoreCorruptError(f"{path} is damaged: {found}. Store.salvage(path) gets out what is still whole")


def _who_holds(path: Path) -> str:
    holder = ""
    with contextlib.suppress(OSError), lock_path(path).open("rb") as file:
        holder = file.read(20).decode("ascii", "replace").strip()
    if not holder:  # whoever only reads leaves no name
        return f"{path} is being read or opened by somebody else: wait until that is done, or choose another path"
    who = "this process" if holder == str(os.getpid()) else f"process {holder}"
    return f"{path} is open for writing in {who}: close that store first, or choose another path"


@contextlib.contextmanager
def opened_to_look(path: Path, *, beside_writer: bool = True) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing, beside a writer or, where that is not wanted, only without one."""
    with translated(path), contextlib.ExitStack() as stack:
        if not path.is_file():
            raise StoreError(f"{path} is not a file")
        # Where nobody writes, nobody may begin to (others may look), and SQLite need not put its own files beside this one. A folder that
        # cannot be written (any other OSError) has no writer either.
        alone = True
        try:
            stack.callback(unlock_file, lock_file(lock_path(path), shared=True), lock_path(path))
        except BlockingIOError:
            if not beside_writer:
                raise StoreLockedError(_who_holds(path)) from None
            alone = False
        except OSError:
            pass
        if not beside_writer:
            check_kind_of_file(path)
        _refuse_links_to_elsewhere(path)
        immutable = alone and not path.with_name(path.name + "-wal").exists()
        connection = stack.enter_context(contextlib.closing(connect(path, write=False, immutable=immutable)))
        refuse_foreign_schema(connection, path)
        connection.execute("BEGIN")  # one state of the file for all questions, whatever a writer does meanwhile
        yield connection


def _refuse_links_to_elsewhere(path: Path) -> None:
    """SQLite opens what lies beside a file by these names, and would wait for ever for who writes into a pipe."""
    for suffix in ("-wal", "-shm", "-journal"):
        beside = path.with_name(path.name + suffix)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(beside.lstat().st_mode):
                raise StoreError(
                    f"{beside} is no file: nothing of that name is written by a store; remove it, or do not trust {path}"
                )


def refuse_foreign_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse tables that no store has: a view, a trigger or a computed column in the place of ours would run what somebody else wrote.

    Raises:
        StoreError: there are such; the message names the first.
    """
    for kind, name, statement in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if statement not in (*SCHEMA, None):
            raise StoreError(
                f"{path} is not a store of TroupeLab: it has a {kind} {name[:40]!r} that no store has; choose another path"
            )


def verify(path: Path) -> list[str]:
    """Read everything and say what is wrong."""
    with opened_to_look(path) as connection:
        problem = version_problem(connection, path)
        if problem:
            return [str(problem)]
        contents = load(connection)
        for _, payload in _payloads(connection, contents):
            if isinstance(payload, StoreError):
                contents.problems.append(str(payload))
        for (text,) in _scan(connection, "PRAGMA integrity_check", contents):
            if text != "ok":
                contents.problems.append(f"SQLite: {text}")
        return list(dict.fromkeys(contents.problems))


def salvage(path: Path) -> Salvage:
    """Get out every block whose checksums hold."""
    blocks: dict[tuple[str, int, int], tuple[Block, bytes]] = {}
    try:
        with opened_to_look(path) as connection:
            contents = load(connection)
            for row, payload in _payloads(connection, contents):
                if isinstance(payload, bytes):
                    blocks.setdefault(row[1:4], (row.block, payload))
                else:
                    contents.problems.append(str(payload))
    except StoreError as error:
        if not path.is_file():
            raise
        return Salvage(sorted(blocks.values()), [str(error)])
    return Salvage(sorted(blocks.values()), list(dict.fromkeys(contents.problems)))


def _payloads(connection: sqlite3.Connection, contents: Contents) -> Iterator[tuple[Row, bytes | StoreError]]:
    """Every row that can be read, with its payload or what is wrong with it."""
    codec, query, last = Codec(contents.dictionaries), SELECT_PAYLOADS, 0
    try:
        for values in connection.execute(query):
            last = values[0]
            yield _unpacked(codec, values)
    except _BROKEN:
        # The rest row by row: behind a broken page there may be whole ones. No row has a number above the count of
        # blocks ever written; where the manifests cannot tell either, the rows known to the index must do.
        known = [entry.row for entries in contents.index.values() for entry in entries.values()]
        with contextlib.suppress(*_BROKEN):
            known += [number for (number,) in connection.execute("SELECT id FROM block ORDER BY id DESC LIMIT 1")]
        end = max([sum(manifest.next_number for manifest in contents.manifests.values()), *known], default=0)
        for number in range(last + 1, end + 1):
            with contextlib.suppress(*_BROKEN):
                for values in connection.execute(f"{query} WHERE id = ?", (number,)):
                    yield _unpacked(codec, values)


def _unpacked(codec: Codec, values: tuple[Any, ...]) -> tuple[Row, bytes | StoreError]:
    row = Row(*values[:-1])
    try:
        return row, codec.unpack(row, values[-1])
    except StoreError as error:
        return row, error
