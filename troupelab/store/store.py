"""The store: the one place that touches disk. One SQLite file a run, one thread that writes it, compressed blocks.

It keeps blocks of bytes and knows nothing of what they mean. A block has a kind, an agent and a number, a small index
entry (`meta`) and a payload. What is put is queued; the writer compresses it and commits everything that waits as one
transaction, and `committed` tells up to which ticket all is on the disk. A crash loses what was not committed and never
half a transaction. Every byte that is read back was checked against what was written.

The file is open in one store at a time (a lock file beside it, with the process id, says so). The modules beside this
one: `file` (what the file looks like), `writer` (the thread), `check` (verify and salvage).

Any thread may call any method of a store; each that reads has a read-only connection of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from troupelab.errors import StoreCorruptError, StoreError
from troupelab.store import check
from troupelab.store.check import Salvage
from troupelab.store.file import (
    MAX_META_BYTES,
    MAX_PAYLOAD_BYTES,
    SELECT_PAYLOADS,
    SELECT_ROWS,
    Block,
    Codec,
    Entry,
    Row,
    check_payload,
    connect,
    translated,
)
from troupelab.store.writer import LIVE, Drop, Put, Writer

__all__ = ["MAX_META_BYTES", "MAX_PAYLOAD_BYTES", "Block", "Salvage", "Store", "Transaction"]

_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_MMAP_BYTES = 32 << 20  # all readers of a store together: mapped pages count as memory of the process
_EXIT_S = 30.0


class Transaction:
    """Puts and drops that become durable together or not at all; belongs to one thread.

    `ticket` is 0 until the with-block has ended, and stays 0 when it ended with an exception.
    """

    def __init__(self, writer: Writer) -> None:
        self.ticket = 0
        self._writer = writer
        self._operations: list[Put | Drop] | None = []

    def put(
        self, kind: str, agent: int, meta: bytes, payload: bytes | Callable[[], bytes], *, size_hint_bytes: int = 0
    ) -> int:
        """Add a block.

        Args:
            kind: what sort of block: lower-case letters, digits and _, at most 32 characters.
            agent: whose it is; -1 for all.
            meta: what `blocks` gives back without reading the payload, at most 4,096 bytes.
            payload: at most 64 MB; a callable is called once, on the writer's thread.
            size_hint_bytes: what a callable's payload counts in `queue_bytes`.

        Returns:
            The block's number: 0, 1, 2, … for each kind and agent. An abandoned transaction leaves a gap.

        Raises:
            StoreError: an argument is out of range; nothing was added.
        """
        name = _checked(kind, agent)
        if not isinstance(meta, bytes) or len(meta) > MAX_META_BYTES:
            raise StoreError(f"block {name}: meta must be at most {MAX_META_BYTES} bytes")
        if not callable(payload):
            check_payload(payload, f"block {name}")
            size_hint_bytes = len(payload)
        operations = self._open()
        number = self._writer.next_number(kind, agent)
        operations.append(Put(kind, agent, number, meta, payload, size_hint_bytes))
        return number

    def drop(self, kind: str, agent: int, numbers: Iterable[int]) -> None:
        """Remove blocks; those that are gone already are passed over.

        Raises:
            StoreError: a number was never given to a block of this kind and agent; nothing was added.
        """
        name, numbers = _checked(kind, agent), list(numbers)
        end = self._writer.next_numbers.get((kind, agent), 0)
        unknown = [number for number in numbers if not 0 <= number < end]
        if unknown:
            raise StoreError(f"block {name}/{unknown[0]} cannot be dropped: there never was one")
        self._open().append(Drop(kind, agent, numbers))

    def _open(self) -> list[Put | Drop]:
        if self._operations is None:
            raise StoreError("the transaction has ended: begin another")
        return self._operations

    def _end(self, *, commit: bool) -> None:
        operations, self._operations = self._open(), None
        if commit:
            self.ticket = self._writer.enqueue(operations)


class Store:
    """The file of a run, open for writing. Made by `Store.open` or `Store.temporary`.

    >>> with Store.temporary() as store:
    ...     number, ticket = store.put("records", 3, b"steps 0-9", b"what agent 3 remembers")
    ...     store.flush()
    ...     store.committed >= ticket, store.read("records", 3, number), store.blocks("records")[0].meta
    (True, b'what agent 3 remembers', b'steps 0-9')
    """

    def __init__(self, writer: Writer) -> None:
        self.path = writer.path
        self._writer = writer
        self._own = threading.local()
        self._closed = False
        # Not at exit: there the thread has to be waited for, which must not happen wherever a collection may run.
        weakref.finalize(self, writer.stop).atexit = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        create: bool = True,
        _after_connect: Callable[[sqlite3.Connection], object] | None = None,
    ) -> Self:
        """Open a file, or begin one, as its only writer.

        Args:
            path: the file; its folder is made when it is missing.
            create: whether to begin a new one where there is none.

        Raises:
            StoreLockedError: another store has it open.
            StoreVersionError: a newer TroupeLab wrote it.
            StoreCorruptError: something in it is missing or changed; the message says what.
            StoreFullError: there is no room for a new one.
            StoreError: it is not a store, or cannot be read and written.
        """
        where = Path(path).resolve()
        return cls(Writer(where, *check.open_to_write(where, create, True, _after_connect), None))

    @classmethod
    def temporary(cls) -> Self:
        """Open an empty store in a folder of its own that goes when the store is closed, forgotten, or Python ends."""
        with translated(Path(tempfile.gettempdir())):
            folder = Path(tempfile.mkdtemp(prefix="troupelab-")).resolve()
        path = folder / "store.sqlite"
        try:
            return cls(Writer(path, *check.open_to_write(path, True, False, None), folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Collect puts and drops; they are queued together when the with-block ends without an exception."""
        transaction = Transaction(self._writer)
        try:
            yield transaction
        except BaseException:
            transaction._end(commit=False)
            raise
        transaction._end(commit=True)

    def put(
        self, kind: str, agent: int, meta: bytes, payload: bytes | Callable[[], bytes], *, size_hint_bytes: int = 0
    ) -> tuple[int, int]:
        """Put one block as a transaction of its own; see `Transaction.put`.

        Returns:
            The block's number, and the ticket that `committed` reaches when it is durable.
        """
        transaction = Transaction(self._writer)
        number = transaction.put(kind, agent, meta, payload, size_hint_bytes=size_hint_bytes)
        transaction._end(commit=True)
        return number, transaction.ticket

    @property
    def committed(self) -> int:
        """Every transaction with a ticket up to this one is durable.

        A payload that cannot be made holds it below its ticket for good, though what comes later is still written.
        """
        return self._writer.committed

    @property
    def queue_bytes(self) -> int:
        """Bytes of payload that wait to be committed."""
        return self._writer.queue_bytes

    @property
    def problem(self) -> StoreError | None:
        """Why the writer is stuck now, or what it can never write; None when all is well."""
        return self._writer.stuck or self._writer.lost

    def size_of(self, kind: str, agent: int, number: int) -> int:
        """What a block takes on disk, in bytes; 0 while (or when) it is not in the file."""
        entry = self._entry(kind, agent, number)
        return entry.size_bytes if entry else 0

    def blocks(self, kind: str) -> list[Block]:
        """What is committed of a kind, ordered by agent and number.

        Raises:
            StoreCorruptError: an entry is missing or changed in the file.
        """
        before = self._keys(kind)
        found: dict[tuple[int, int], Block] = {}
        for values in self._query(SELECT_ROWS + " WHERE kind = ?", kind):
            row = Row(*values)
            if not row.holds():
                raise StoreCorruptError(f"{self.path}: the entry of {kind}/{row.agent}/{row.number} was changed")
            found[row.agent, row.number] = row.block
        # What came or went meanwhile is in one of the two and may be in the file or not.
        with self._writer.commit_lock:
            after = self._keys(kind)
        missing = sorted((before & after).difference(found))
        if missing:
            raise StoreCorruptError(f"{self.path}: block {kind}/{missing[0][0]}/{missing[0][1]} is missing")
        return [found[key] for key in sorted(after.intersection(found))]

    def read(self, kind: str, agent: int, number: int) -> bytes:
        """The payload of a committed block.

        Raises:
            StoreCorruptError: the file does not hold what was written.
            StoreError: there is no such block (or not yet), or the file cannot be read.
        """
        for _ in range(2):
            entry = self._entry(kind, agent, number)
            if entry is None:
                raise StoreError(f"{self.path}: there is no block {kind}/{agent}/{number} (yet)")
            for values in self._query(SELECT_PAYLOADS + " WHERE id = ?", entry.row):
                row = Row(*values[:-1])
                if row[1:4] == (kind, agent, number):
                    return self._reader().codec.unpack(row, values[-1])
            # The writer may have dropped it an instant ago: then the index says so as soon as it is done.
            with self._writer.commit_lock:
                pass
        raise StoreCorruptError(f"{self.path}: block {kind}/{agent}/{number} is missing")

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all that was queued before is durable; a stuck writer tries once more first.

        Raises:
            StoreFullError: there is no room on the disk.
            StoreError: the writer cannot go on, or a payload could not be made.
            TimeoutError: it takes longer than `timeout_s`.
        """
        writer = self._writer
        with writer.changed:
            target, begun = writer.last_ticket, writer.attempts
            writer.wake()
            writer.changed.wait_for(
                lambda: writer.handled >= target or writer.ended or (writer.stuck and writer.failed_attempt > begun),
                timeout_s,
            )
            problem = writer.lost or (writer.stuck if writer.handled < target else None)
            if problem is not None:
                raise type(problem)(str(problem)) from problem
            if writer.handled < target:
                raise TimeoutError(f"{self.path}: not written within {timeout_s:g} s")

    def retry(self) -> None:
        """Let a stuck writer try again now; returns at once."""
        self._writer.wake()

    def file_bytes(self) -> int:
        """What the file takes on disk with its write-ahead log."""
        total = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                total += self.path.with_name(self.path.name + suffix).stat().st_size
        return total

    def close(self) -> None:
        """Write what is queued, end the thread and give the file free. A second call does nothing.

        Raises:
            StoreError: blocks could not be written; the file and its lock are free all the same.
        """
        writer = self._writer
        if self._closed:
            return
        self._closed = True
        writer.stop()
        writer.thread.join()
        problem = writer.stuck or writer.lost
        if problem is not None:
            waiting = sum(isinstance(operation, Put) for job in writer.queue for operation in job.operations)
            what = f"closed with {waiting} blocks not written: " if waiting else ""
            raise type(problem)(f"{what}{problem}") from problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @classmethod
    def verify(cls, path: str | Path) -> list[str]:
        """Read all of a file, open or not, and say everything that is wrong; empty when it is sound.

        Raises:
            StoreError: it cannot be read at all.
        """
        return check.verify(Path(path).resolve())

    @classmethod
    def salvage(cls, path: str | Path) -> Salvage:
        """Get every block out of a damaged file whose checksums hold, and learn what is missing; changes nothing.

        Raises:
            StoreError: there is no such file.
        """
        return check.salvage(Path(path).resolve())

    def _entry(self, kind: str, agent: int, number: int) -> Entry | None:
        return self._writer.index.get((kind, agent), {}).get(number)

    def _keys(self, kind: str) -> set[tuple[int, int]]:
        index = self._writer.index.copy()
        return {(agent, number) for (own, agent), entries in index.items() if own == kind for number in entries.copy()}

    def _query(self, query: str, value: object) -> list[tuple[Any, ...]]:
        with translated(self.path):
            reader = self._reader()
            with reader.lock:
                return reader.connection.execute(query, (value,)).fetchall()

    def _reader(self) -> _Reader:
        reader: _Reader | None = getattr(self._own, "reader", None)
        if reader is None:
            with self._writer.changed:
                if self._writer.closing:
                    raise StoreError(f"{self.path} is closed: nothing can be read any more")
                # Half of what is left, so that the first reader (of a run: its loop) has the most.
                left = _MMAP_BYTES - sum(other.mmap_bytes for other in self._writer.readers)
                reader = self._own.reader = _Reader(self._writer, left // 2)
                self._writer.readers.add(reader)
        return reader


class _Reader:
    """A thread's read-only connection; goes with the thread or with the store."""

    def __init__(self, writer: Writer, mmap_bytes: int) -> None:
        self.mmap_bytes = mmap_bytes
        self.lock = threading.Lock()  # free but for the moment in which the store closes it
        self.codec = Codec(writer.dictionaries)
        self.connection = connect(writer.path, write=False, mmap_bytes=mmap_bytes)

    def close(self) -> None:
        with self.lock:
            self.connection.close()

    def __del__(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()


def _checked(kind: str, agent: int) -> str:
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise StoreError(f"a kind is 1 to 32 characters of a-z, 0-9 and _, beginning with a letter, not {kind!r}")
    if not isinstance(agent, int) or not -1 <= agent < 1 << 31:
        raise StoreError(f"an agent is a whole number from -1 to {(1 << 31) - 1}, not {agent!r}")
    return f"{kind}/{agent}"


def _end_all() -> None:
    """At exit: what is queued is written, and temporary files go."""
    writers = list(LIVE)
    for writer in writers:
        writer.stop()
    for writer in writers:
        writer.thread.join(_EXIT_S)


atexit.register(_end_all)
