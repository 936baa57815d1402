"""A file of replies by key, that never outgrows its cap: what a reply cache keeps on disk.

Rows stand in the order in which they were put; one that is asked for when half a cap's worth stands before it is moved
to the front. What is cut off at the other end is so the least recently used, but for this: a reply outlasts half a
cap's worth of new ones after its last use, and not always a whole one. No clock has to be written on a hit, and
neighbouring pages go together.

One thread compresses what is queued (with a dictionary, once it has seen enough to train one), makes room and commits,
in transactions so small that the log fits into its share of the cap. What `flush` has acknowledged survives the end of
the process; a loss of power may cost the newest transactions. A cache may lose replies and must not stop a run: a
damaged row is a miss and goes, a full queue takes no more, a full disk makes it read-only, and `problem` says why.

Any thread may call any method; each that reads has a read-only connection of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import sqlite3
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import NamedTuple, Self

from troupelab._platform import unlock_file
from troupelab.errors import StoreCorruptError, StoreError
from troupelab.store import replyfile
from troupelab.store.file import Codec, Trainer, lock_path, pragma
from troupelab.store.keyfilter import KeyFilter
from troupelab.store.replyfile import PAGE_BYTES, Found, Readers, shares, size_of, told, told_of, transaction

__all__ = ["ReplyFile"]

_FRAME = PAGE_BYTES + 24  # a page in the log
_QUEUE_BYTES = 16 << 20
_QUEUE_JOBS = 100_000
_LINGER_S = 0.05  # for what may still come, so that a commit has many rows
_ROWS_AT_ONCE = 64  # each statement hands Python's lock over and takes it back, which the threads that call models feel
_ROTATE_EVERY_S = 30.0
_SPARE_PAGES = 6
_NO_FLOOR = (1 << 63) - 1
_EXIT_S = 30.0
_DICTIONARY_FROM = 4 << 20  # in a smaller file a dictionary would take the room of the replies
_log = logging.getLogger("troupelab.store")


class _Job(NamedTuple):
    """What waits to be done: a payload to put; without one a key to move to the front, or a row to drop."""

    key: bytes
    size_bytes: int = 0
    created: float = 0.0
    payload: bytes | None = None
    row: int = 0


class ReplyFile:
    """The file of a cache, open as its only writer. Its thread keeps it alive until `stop` or `close`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, ReplyFile(Path(folder, "replies.sqlite")) as file:
    ...     file.put(b"sixteen bytes ..", 0.0, b"an answer"), file.flush(), file.find(b"sixteen bytes ..").payload
    (True, None, b'an answer')

    Args:
        path: the file; it and its folder are made when missing.
        max_bytes: what it may take on disk, with its write-ahead log; at least 100,000.
        max_age_s: replies older than this go (None: none does); who reads compares `Found.created`.

    Raises:
        LimitError: a cap is out of range.
        StoreError: as `troupelab.models.cache.ReplyCache.open` tells.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 500_000_000, max_age_s: float | None = None) -> None:
        self.path = Path(path).resolve()
        self.changed = threading.Condition()  # reentrant: a finalizer may stop it in any thread
        self.problem: StoreError | None = None  # why nothing is written any more
        self.entries = self.evicted = self.expired = self.refused = 0
        self.newest = self.middle = 0  # numbers of rows: of the newest, and rows below this one are moved when used
        self._floor = _NO_FLOOR  # rows from this number on are not evicted
        self._queue: deque[_Job] = deque()
        self._queue_bytes = self._queued = self._handled = 0
        self._due = 0  # how often it was asked to look at the caps, since it last was done
        self._hurried = self._closing = self._ended = False
        self._trainer: Trainer | None = Trainer()
        self._set_caps(max_bytes, max_age_s)
        self._connection, self._lock = replyfile.open_to_write(self.path)
        try:
            with told_of(self.path):
                self._begin()
        except BaseException:
            self._connection.close()
            unlock_file(self._lock, lock_path(self.path))
            raise
        _LIVE.add(self)

    @property
    def damaged(self) -> int:
        """How many rows could not be read."""
        return self._readers.damaged

    def find(self, key: bytes) -> Found | None:
        """What the file has for a key; a damaged row is None, and goes.

        Raises:
            StoreError: it is closed.
        """
        found = self._readers.find(key) if self._closing or self._known.may_have(key) else None
        if isinstance(found, int):
            if found > 0:
                self._enqueue(_Job(b"", row=found))
            return None
        if found is not None and found.row < self.middle:
            self.touch(key, len(found.payload))
        return found

    def put(self, key: bytes, created: float, payload: bytes) -> bool:
        """Queue a reply, which takes the place of an earlier one; returns at once.

        Returns:
            Whether it was queued: not when it is too large for the cap, the queue is full or there is a `problem`.

        Raises:
            StoreError: it is closed.
        """
        return self._enqueue(_Job(key, len(payload), created, payload))

    def touch(self, key: bytes, size_bytes: int) -> None:
        """Queue that a reply of the older half was used, so that it is moved to the front."""
        self._enqueue(_Job(key, size_bytes))

    def mark(self, position: int | None = None) -> None:
        """Keep what is put or moved to the front from a row on, or from now; only what was there before may be evicted.

        The cap holds all the same: where all is kept and no room is left, what is put is refused.
        """
        with self.changed:
            self._floor = self.newest + 1 if position is None else position

    def release(self) -> None:
        """Keep nothing any more, as before the first `mark`."""
        with self.changed:
            self._floor = _NO_FLOOR

    def resize(self, *, max_bytes: int, max_age_s: float | None) -> None:
        """Change the cap and the age; returns at once. A `problem` that is no damage is tried again."""
        with self.changed:
            self._set_caps(max_bytes, max_age_s)
            if not isinstance(self.problem, StoreCorruptError):
                self.problem = None
            self.changed.notify_all()

    def file_bytes(self) -> int:
        """What the file takes on disk with its write-ahead log."""
        return sum(size_of(f"{self.path}{suffix}") for suffix in ("", "-wal"))

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all that was queued before is in the file (or was refused), and the file within its cap.

        Raises:
            StoreError: nothing is written any more; see `problem`.
            TimeoutError: it takes longer than `timeout_s`.
        """
        with self.changed:
            target, self._hurried = self._queued, True
            self.changed.notify_all()
            done = self.changed.wait_for(
                lambda: self._ended or self.problem or (self._handled >= target and not self._due), timeout_s
            )
        if self.problem is not None:
            raise type(self.problem)(str(self.problem)) from self.problem
        if not done:
            raise TimeoutError(f"{self.path}: not written within {timeout_s:g} s")

    def stop(self) -> None:
        """Ask the thread to write what is queued and to end; returns at once."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()

    def close(self) -> None:
        """Write what is queued, end the thread and give the file free; a second call does nothing."""
        self.stop()
        self.thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set_caps(self, max_bytes: int, max_age_s: float | None) -> None:
        self._pages, self._log_bytes = shares(max_bytes, max_age_s)
        self._max_age_s = max_age_s
        self._due += 1

    def _begin(self) -> None:
        query = self._connection.execute
        self.entries = query("SELECT count(*) FROM reply").fetchone()[0]
        # Two questions: SQLite answers each from an end of the table, and both together by reading all of it.
        self._known = KeyFilter(key for (key,) in query("SELECT key FROM reply"))
        self._oldest = query("SELECT min(id) FROM reply").fetchone()[0] or 0
        self.newest = query("SELECT max(id) FROM reply").fetchone()[0] or 0
        self._place_middle()
        kept = query("SELECT id, checksum, data FROM dictionary").fetchall()
        whole = {number: data for number, found, data in kept if found == replyfile.checksum(b"", 0.0, number, data)}
        self._codec, self._dictionary = Codec(whole), max(whole, default=0)
        self._next_dictionary = max((each[0] for each in kept), default=0) + 1
        self._readers = Readers(self.path)
        self.thread = threading.Thread(target=self._run, name=f"replies {self.path.name}", daemon=True)
        self.thread.start()

    def _enqueue(self, job: _Job) -> bool:
        with self.changed:
            if self._closing:
                raise StoreError(f"{self.path} is closed: nothing can be written any more")
            full = self._queue_bytes + job.size_bytes > _QUEUE_BYTES or len(self._queue) >= _QUEUE_JOBS
            if self.problem is not None or full or job.size_bytes > self._log_bytes // 8:
                self.refused += job.payload is not None
                return False
            if job.payload is not None:
                self._known.add(job.key)
            self._queue.append(job)
            self._queued += 1
            self._queue_bytes += job.size_bytes
            if len(self._queue) == 1:
                self.changed.notify_all()
            return True

    def _run(self) -> None:
        try:
            while True:
                with self.changed:
                    every_s = None if self._max_age_s is None else _ROTATE_EVERY_S
                    if not self.changed.wait_for(lambda: self._queue or self._due or self._closing, every_s):
                        self._due += 1
                    if not self._due:
                        self.changed.wait_for(lambda: self._hurried or self._closing, _LINGER_S)
                    due = 0 if self._closing else self._due
                    jobs = [] if due else self._group()
                    if not jobs and not due:
                        break
                more = False
                try:
                    if self.problem is None:
                        more = self._tidy() if due else self._write(jobs)
                except Exception as error:  # whatever it is, it must not stop a run
                    self.problem = told(error, self.path)
                    _log.warning("%s; until then nothing is written", self.problem)
                with self.changed:
                    for job in jobs:
                        self._queue.popleft()
                        self._queue_bytes -= job.size_bytes
                        self.refused += self.problem is not None and job.payload is not None
                    self._handled += len(jobs)
                    self._hurried = self._hurried and bool(self._queue)
                    if due == self._due and not more:
                        self._due = 0
                    self.changed.notify_all()
        finally:
            self._end()

    def _group(self) -> list[_Job]:
        """Jobs from the head of the queue, at least one, that change no more pages than one transaction may."""
        jobs, pages = list[_Job](), 0
        for job in self._queue:
            pages += 4 + (job.size_bytes + PAGE_BYTES - 1) // 4000
            if jobs and pages > self._log_bytes // 4 // _FRAME:
                break
            jobs.append(job)
        return jobs

    def _write(self, jobs: list[_Job]) -> bool:
        """Make room for some jobs and do them in one transaction."""
        packed = [(job, *self._pack(job.payload)) for job in jobs]
        need = _SPARE_PAGES + len(jobs) // 20 + sum(len(data) * 2 // 4000 for _, _, data in packed)
        room = self._has_log()
        while room and self._used_pages() + need > self._pages:
            room = self._evict() > 0 and self._has_log()
        if not room:
            self.refused += sum(job.payload is not None for job in jobs)
            return False
        query, entries, newest = self._connection.execute, self.entries, self.newest
        with transaction(self._connection):
            while packed:
                puts = itertools.takewhile(lambda each: each[0].payload is not None, packed[:_ROWS_AT_ONCE])
                if rows := [(job.key, job.created, dictionary, data) for job, dictionary, data in puts]:
                    entries += replyfile.insert(self._connection, newest + 1, rows)
                elif (job := packed[0][0]).row:
                    entries -= query("DELETE FROM reply WHERE id = ?", (job.row,)).rowcount
                else:
                    query("UPDATE reply SET id = ? WHERE key = ?", (newest + 1, job.key))
                newest += len(rows) or 1
                packed = packed[len(rows) or 1 :]
        self.entries, self.newest = entries, newest
        self._place_middle()
        return False

    def _place_middle(self) -> None:
        """Behind it stands what has less than half a cap's worth of rows before it."""
        used, whole = self._used_pages(), self.newest - self._oldest
        self.middle = self.newest - whole * self._pages // 2 // used if used > self._pages // 2 else 0

    def _pack(self, payload: bytes | None) -> tuple[int, bytes]:
        if payload is None:
            return 0, b""
        if not self._dictionary and self._trainer is not None and self._pages * PAGE_BYTES >= _DICTIONARY_FROM:
            data = self._trainer.add("reply", payload)
            if data is not None:
                self._trainer = None
            if data:
                number = self._next_dictionary
                with transaction(self._connection):
                    values = (number, replyfile.checksum(b"", 0.0, number, data), data)
                    self._connection.execute("INSERT INTO dictionary VALUES (?, ?, ?)", values)
                self._codec.dictionaries[number], self._dictionary = data, number
        return self._dictionary, self._codec.pack(self._dictionary, payload)

    def _tidy(self) -> bool:
        """One small step towards the caps; False when there is none to do."""
        if not self._has_log():
            return False
        gone, free = 0, pragma(self._connection, "freelist_count")
        over = pragma(self._connection, "page_count") > self._pages
        if self._used_pages() > self._pages:
            gone = self._evict()
        if not gone and over and free:
            gone = min(free, max(1, self._log_bytes // 16 // _FRAME))  # each moves a page and changes up to three
            self._connection.execute(f"PRAGMA incremental_vacuum({gone})").fetchall()
        gone = gone or self._expire()
        if not gone:
            self._has_log(0)  # only now does the file itself become smaller
        return gone > 0

    def _used_pages(self) -> int:
        return int(pragma(self._connection, "page_count") - pragma(self._connection, "freelist_count"))

    def _evict(self) -> int:
        """Cut off some of the rows that were not used for longest."""
        limit = min(256, max(16, self._log_bytes // 4 // _FRAME))
        query = "SELECT id FROM reply WHERE id < ? ORDER BY id LIMIT ?"
        gone = self._cut_off([row for (row,) in self._connection.execute(query, (self._floor, limit))])
        self.evicted += gone
        return gone

    def _expire(self) -> int:
        """Cut off some of the rows that are too old. One that was moved to the front is not served, but goes later."""
        if self._max_age_s is None:
            return 0
        before = time.time() - self._max_age_s
        query = "SELECT id, created < ? FROM reply ORDER BY id LIMIT 16"
        oldest = self._connection.execute(query, (before,)).fetchall()
        gone = self._cut_off([row for row, _ in itertools.takewhile(lambda each: each[1], oldest)])
        self.expired += gone
        return gone

    def _cut_off(self, rows: list[int]) -> int:
        if not rows:
            return 0
        with transaction(self._connection):
            gone = self._connection.execute("DELETE FROM reply WHERE id <= ?", (rows[-1],)).rowcount
        self.entries -= gone
        self._oldest = rows[-1] + 1
        return gone

    def _has_log(self, at_most: int | None = None) -> bool:
        """Checkpoint the log where it is long; False where a reader keeps it from becoming short enough for more."""
        due = (self._log_bytes // 2 if self._log_bytes > 250_000 else 0) if at_most is None else at_most
        if size_of(f"{self.path}-wal") > due:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return size_of(f"{self.path}-wal") <= self._log_bytes * 3 // 4

    def _end(self) -> None:
        self._readers.close()
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        unlock_file(self._lock, lock_path(self.path))
        with self.changed:
            self._closing = self._ended = True
            self.changed.notify_all()


_LIVE: weakref.WeakSet[ReplyFile] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """At exit: what is queued is written."""
    for file in list(_LIVE):
        file.stop()
        file.thread.join(_EXIT_S)
