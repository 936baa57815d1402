"""The writer of a store: one thread that takes what is queued, compresses it and commits it in groups.

It owns the only connection that writes, and it alone checkpoints the write-ahead log: SQLite before 3.51.3 can lose a
transaction when two connections checkpoint at once. What every other thread sees of it (index, `committed`, `problem`)
changes after a commit, in one step each.

A transaction leaves the queue when it is committed and not before, so a full disk loses nothing and keeps the order.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from troupelab._platform import unlock_file
from troupelab.errors import StoreError
from troupelab.store.check import Contents
from troupelab.store.file import (
    MODULUS,
    Codec,
    Entry,
    Manifest,
    Row,
    Trainer,
    as_blob,
    as_number,
    check_payload,
    checksum,
    lock_path,
    manifest_checksum,
    pragma,
    translate,
    write_whole,
)

LIVE: weakref.WeakSet[Writer] = weakref.WeakSet()
"""Every writer whose thread may still run, for the interpreter's exit."""

_Fresh = dict[tuple[str, int], dict[int, Entry | None]]  # entries that a commit adds; None: drops
_log = logging.getLogger("troupelab.store")
_GROUP_BYTES = 8 << 20  # payload in one commit: what a crash can cost, and what compressing holds in memory
_CHECKPOINT_BYTES = 4 << 20
_VACUUM_PAGES = 256  # freed between two looks at the queue: about 1 MB, some milliseconds
_SPARE_PAGES = 64  # left for the next blocks while it is open
_RETRY_FIRST_S, _RETRY_LAST_S = 0.2, 5.0


@dataclass(slots=True, eq=False)
class Put:
    """A block on its way to the disk: `payload` until it is compressed, then `packed`."""

    kind: str
    agent: int
    number: int
    meta: bytes
    payload: bytes | Callable[[], bytes] | None
    size_bytes: int
    packed: tuple[Row, bytes] | None = None


@dataclass(slots=True, eq=False)
class Drop:
    """Blocks that shall go."""

    kind: str
    agent: int
    numbers: list[int]


@dataclass(slots=True, eq=False)
class Job:
    """A transaction in the queue; `error` when it can never be written."""

    ticket: int
    operations: list[Put | Drop]
    size_bytes: int
    error: StoreError | None = None


class Writer:
    """All of a store but its readers; it does not know the `Store`, so that a forgotten one can go."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, contents: Contents, lock: int, folder: Path | None
    ) -> None:
        self.path = path
        self.index = contents.index
        self.dictionaries = contents.dictionaries
        self.readers: weakref.WeakSet[Any] = weakref.WeakSet()
        self.changed = threading.Condition()  # reentrant: a finalizer may run in any thread, even in one that holds it
        self.commit_lock = threading.Lock()  # held while the file is ahead of the index
        self.committed = 0
        self.handled = 0  # as `committed`, but past what can never be written
        self.last_ticket = 0
        self.queue_bytes = 0
        self.stuck: StoreError | None = None
        self.lost: StoreError | None = None
        self.attempts = 0
        self.failed_attempt = 0
        self.closing = False
        self.ended = False
        self.next_numbers = {key: manifest.next_number for key, manifest in contents.manifests.items()}
        self.queue: deque[Job] = deque()
        self._woken = False
        self._connection = connection
        self._lock = lock
        self._folder = folder
        self._manifests = contents.manifests
        self._total = contents.total
        self._dictionary_of = contents.dictionary_of
        self._dictionaries_in_file = len(contents.dictionaries)
        self._new_dictionaries: list[tuple[int, str, bytes, bytes]] = []
        self._trainer = Trainer()
        self._codec = Codec(self.dictionaries)
        self._log_bytes = 0
        self._vacuum_due = self._must_shrink()
        self.thread = threading.Thread(target=self._run, name=f"store {path.name}", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:  # no more threads: the file must not stay locked
            self._end()
            raise
        LIVE.add(self)

    def next_number(self, kind: str, agent: int) -> int:
        """Hand out a number, for good."""
        with self.changed:
            number = self.next_numbers.get((kind, agent), 0)
            self.next_numbers[kind, agent] = number + 1
            return number

    def enqueue(self, operations: list[Put | Drop]) -> int:
        """Queue a transaction and give its ticket."""
        with self.changed:
            if self.closing:
                why = f" ({self.stuck})" if self.stuck else ""
                raise StoreError(f"{self.path} is closed: nothing can be written any more{why}")
            self.last_ticket += 1
            size_bytes = sum(operation.size_bytes for operation in operations if isinstance(operation, Put))
            job = Job(self.last_ticket, operations, size_bytes)
            self.queue.append(job)
            self.queue_bytes += job.size_bytes
            self.changed.notify_all()
            return job.ticket

    def wake(self) -> None:
        """Let a stuck writer try now."""
        with self.changed:
            self._woken = True
            self.changed.notify_all()

    def stop(self) -> None:
        """Ask the thread to write what is queued and to end; returns at once."""
        with self.changed:
            self.closing = self._vacuum_due = True
            self.changed.notify_all()

    def _run(self) -> None:
        delay_s = _RETRY_FIRST_S
        try:
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.queue or self.closing or self._vacuum_due)
                    jobs, closing = self._group(), self.closing
                    self.attempts += bool(jobs)
                if jobs:
                    try:
                        self._write(jobs)
                    except Exception as error:
                        if not self._wait_stuck(translate(error, self.path), delay_s):
                            break
                        delay_s = min(2 * delay_s, _RETRY_LAST_S)
                    else:
                        delay_s = _RETRY_FIRST_S
                        self._vacuum_due = self._must_shrink()
                        self._checkpoint()
                elif self._vacuum_due:
                    self._vacuum()
                elif closing:
                    break
        except Exception as error:  # no known way leads here; whoever waits has to learn of it all the same
            _log.exception("%s: the writer ends", self.path)
            self.stuck = translate(error, self.path)
        finally:
            self._end()

    def _wait_stuck(self, problem: StoreError, delay_s: float) -> bool:
        """Tell what is wrong and wait for the time to try again; False when the store is to close."""
        with self.changed:
            if self.stuck is None or str(self.stuck) != str(problem):
                _log.warning("%s", problem)
            self.stuck = problem
            self.failed_attempt = self.attempts
            self.changed.notify_all()
            if self.closing:
                return False
            self.changed.wait_for(lambda: self._woken or self.closing, delay_s)
            self._woken = False
            return True

    def _group(self) -> list[Job]:
        """Whole transactions from the head of the queue, at least one."""
        jobs, size_bytes = list[Job](), 0
        for job in self.queue:
            size_bytes += job.size_bytes
            if jobs and size_bytes > _GROUP_BYTES:
                break
            jobs.append(job)
        return jobs

    def _write(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._prepare(job)
        manifests: dict[tuple[str, int], Manifest] = {}
        fresh: _Fresh = {}
        connection = self._connection
        try:
            self._roll_back()  # only after a roll-back that failed as well
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                for operation in job.operations if job.error is None else ():
                    key = (operation.kind, operation.agent)
                    manifest = manifests.get(key) or self._manifests.get(key) or Manifest(0, 0, 0)
                    entries = fresh.setdefault(key, {})
                    if isinstance(operation, Put):
                        manifests[key] = self._insert(operation, manifest, entries)
                    else:
                        manifests[key] = self._delete(operation, manifest, entries)
            total = self._write_manifests(manifests)
            with self.commit_lock:
                connection.execute("COMMIT")
                self._publish(manifests, fresh, total)
        except BaseException:
            self._roll_back()
            raise
        self._finish(jobs)

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:  # a full disk has ended it already
                self._connection.execute("ROLLBACK")

    def _prepare(self, job: Job) -> None:
        """Compress what a transaction puts; what cannot be made marks it as lost."""
        if job.error is not None:
            return
        for operation in job.operations:
            if not isinstance(operation, Put) or operation.payload is None:
                continue
            name = f"block {operation.kind}/{operation.agent}/{operation.number}"
            try:
                payload = operation.payload() if callable(operation.payload) else operation.payload
                check_payload(payload, name)
            except Exception as error:
                job.error = StoreError(f"{self.path}: {name} can never be written, nor what was put with it: {error!r}")
                job.error.__cause__ = error
                return
            dictionary = self._dictionary_for(operation.kind, payload)
            packed = self._codec.pack(dictionary, payload)
            head = (operation.kind, operation.agent, operation.number, operation.meta, len(payload), dictionary)
            own = checksum(*head, packed)
            row = Row(0, *head, len(packed), own, checksum(*head, len(packed), own))
            operation.packed, operation.payload = (row, packed), None

    def _insert(self, put: Put, manifest: Manifest, entries: dict[int, Entry | None]) -> Manifest:
        assert put.packed is not None
        row, packed = put.packed
        values = (*row[1:7], row.checksum, row.key_checksum, packed)
        cursor = self._connection.execute("INSERT INTO block VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        entry = entries[put.number] = row._replace(id=cursor.lastrowid or 0).entry
        next_number = max(manifest.next_number, put.number + 1)
        return Manifest(manifest.blocks + 1, next_number, (manifest.total + entry.checksum) % MODULUS)

    def _delete(self, drop: Drop, manifest: Manifest, entries: dict[int, Entry | None]) -> Manifest:
        stored = self.index.get((drop.kind, drop.agent), {})
        for number in drop.numbers:
            entry = entries[number] if number in entries else stored.get(number)
            if entry is None:
                continue
            if not self._connection.execute("DELETE FROM block WHERE id = ?", (entry.row,)).rowcount:
                _log.warning("%s: %s/%s/%s was missing already", self.path, drop.kind, drop.agent, number)
            entries[number] = None
            manifest = Manifest(manifest.blocks - 1, manifest.next_number, (manifest.total - entry.checksum) % MODULUS)
        return manifest

    def _write_manifests(self, manifests: dict[tuple[str, int], Manifest]) -> int:
        """Write what vouches for the rows, and give the new sum of it all."""
        total, count = self._total, len({*self._manifests, *manifests})
        for dictionary in self._new_dictionaries:
            self._connection.execute("INSERT INTO dictionary VALUES (?, ?, ?, ?)", dictionary)
            total += as_number(dictionary[2])
        for key, manifest in manifests.items():
            own = manifest_checksum(key, manifest)
            values = (*key, manifest.blocks, manifest.next_number, as_blob(manifest.total), own)
            self._connection.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?, ?, ?, ?, ?)", values)
            total += as_number(own)
            if key in self._manifests:
                total -= as_number(manifest_checksum(key, self._manifests[key]))
        write_whole(self._connection, count, self._dictionaries_in_file + len(self._new_dictionaries), total)
        return total % MODULUS

    def _publish(self, manifests: dict[tuple[str, int], Manifest], fresh: _Fresh, total: int) -> None:
        self._total = total
        self._manifests.update(manifests)
        self._dictionaries_in_file += len(self._new_dictionaries)
        self._new_dictionaries = []
        for key, entries in fresh.items():
            stored = self.index.setdefault(key, {})
            for number, entry in entries.items():
                if entry is not None:
                    stored[number] = entry
                    self._log_bytes += entry.size_bytes
                else:
                    stored.pop(number, None)

    def _finish(self, jobs: list[Job]) -> None:
        with self.changed:
            for job in jobs:
                self.queue.popleft()
                self.queue_bytes -= job.size_bytes
                if job.error is not None and self.lost is None:
                    self.lost = job.error
                    _log.error("%s", job.error)
                if self.lost is None:
                    # Stays below a lost ticket for good: it says that all before it is on the disk.
                    self.committed = job.ticket
            self.handled = jobs[-1].ticket
            self.stuck = None
            self.changed.notify_all()

    def _dictionary_for(self, kind: str, payload: bytes) -> int:
        """The dictionary for a kind's next block: 0 until enough samples were seen to train one."""
        dictionary = self._dictionary_of.get(kind)
        if dictionary is not None:
            return dictionary
        data = self._trainer.add(kind, payload)
        if not data:
            if data is not None:
                self._dictionary_of[kind] = 0
            return 0
        dictionary = max(self.dictionaries, default=0) + 1
        self.dictionaries[dictionary] = data
        self._dictionary_of[kind] = dictionary
        self._new_dictionaries.append((dictionary, kind, checksum(dictionary, kind, data), data))
        return dictionary

    def _checkpoint(self) -> None:
        if self._log_bytes < _CHECKPOINT_BYTES:
            return
        # Passive: it does not wait for readers. What it leaves is asked for again a quarter of the way later.
        self._log_bytes = _CHECKPOINT_BYTES * 3 // 4
        with self._logged("checkpoint"):
            _, pages, done = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages == done:
                self._log_bytes = 0

    def _vacuum(self) -> None:
        self._vacuum_due = False  # until the next drop, should this fail
        with self._logged("vacuum"):
            pages = min(pragma(self._connection, "freelist_count"), _VACUUM_PAGES)
            self._connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
            self._vacuum_due = self._must_shrink()
            self._log_bytes += pages * 4096
        self._checkpoint()

    def _must_shrink(self) -> bool:
        with self._logged("vacuum"):
            return bool(pragma(self._connection, "freelist_count") > (0 if self.closing else _SPARE_PAGES))
        return False

    @contextlib.contextmanager
    def _logged(self, doing: str) -> Iterator[None]:
        """For what may fail without harm: everything acknowledged is in the log, which SQLite reads as well."""
        try:
            yield
        except sqlite3.Error as error:
            _log.warning("%s: %s put off: %s", self.path, doing, error)

    def _end(self) -> None:
        for reader in list(self.readers):
            reader.close()
        with self._logged("checkpoint"):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        with self._logged("closing"):
            self._connection.close()
        unlock_file(self._lock, lock_path(self.path))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        with self.changed:
            self.closing = self.ended = True
            self.changed.notify_all()
