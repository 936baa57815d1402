"""The exact cache: the same request is not paid for twice, within a run, between runs, and after a crash.

`reply_key` says which requests are the same. `ReplyCache` keeps replies under their keys: those used last in memory,
all of them in a file of their own (`troupelab.store.replies`), within caps that may change at any time. Nothing is
unpickled: a reply is a short row of checked bytes.

Any thread may call anything here. A hit from the file takes some 10 µs, so that the loop may ask; what is put is
written by the file's own thread.
"""

from __future__ import annotations

import json
import struct
import sys
import threading
import time
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Self

import msgspec
import xxhash

from troupelab.errors import StoreError
from troupelab.models.model import Reply, Request, Schema
from troupelab.store.replies import ReplyFile
from troupelab.store.replyfile import Found, Readers

__all__ = ["CacheStats", "Cached", "ReplyCache", "reply_key"]

_KEY_VERSION = b"1"
_SLOT_BYTES = 700  # of Python's objects around a reply's text, measured
_schemas: dict[int, tuple[Schema, bytes]] = {}
_MOST_SCHEMAS = 64


def reply_key(request: Request, *, model: str, seed: int, share_identical: bool) -> bytes:
    """Sixteen bytes that are the same for two requests only if one reply may serve both.

    Args:
        request: its messages, temperature, max_tokens, schema and further parameters count; whose it is and why does not.
        model: the model's identity: its name, and whatever else makes its replies different.
        seed: the run's seed: runs with the same one share replies, others do not.
        share_identical: whether equal requests of different agents share one reply where it is drawn (temperature
            above 0); otherwise `request.seed`, of the run's seed, the agent and the call, keeps replicates apart.

    >>> one, other = Request("act", 0, 0, 0, 0, 5, ()), Request("act", 1, 0, 0, 0, 6, ())
    >>> def key(request: Request, share: bool) -> bytes:
    ...     return reply_key(request, model="m", seed=7, share_identical=share)
    >>> key(one, True) == key(other, True), key(one, False) == key(other, False)
    (True, False)
    """
    drawn = request.temperature > 0 and not share_identical
    parts = [
        _KEY_VERSION,
        model.encode("utf-8", "surrogatepass"),
        struct.pack("<d", request.temperature),
        b"%d" % request.max_tokens,
        _schema_part(request.schema) if request.schema is not None else b"",
        b"call %d" % request.seed if drawn else b"run %d" % seed,
    ]
    if request.extra:
        parts.append(json.dumps(request.extra, sort_keys=True, default=str).encode())
    for message in request.messages:
        parts += message.role.encode("utf-8", "surrogatepass"), message.content.encode("utf-8", "surrogatepass")
    # All lengths first, and how many there are: no two lists of parts look alike.
    count = len(parts)
    digest = xxhash.xxh3_128(struct.pack(f"<{count + 1}Q", count, *map(len, parts)))
    for part in parts:
        digest.update(part)
    return digest.digest()


def _schema_part(schema: Schema) -> bytes:
    known = _schemas.get(id(schema))
    if known is None:
        if len(_schemas) >= _MOST_SCHEMAS:
            _schemas.clear()
        canonical = json.dumps([schema.name, schema.schema], sort_keys=True, separators=(",", ":"))
        # With the schema itself, so that its id stays its own.
        known = _schemas[id(schema)] = schema, xxhash.xxh3_128_digest(canonical.encode())
    return known[1]


class Cached(msgspec.Struct, frozen=True, gc=False):
    """A reply, how long it had taken, and when it came (seconds since 1970)."""

    reply: Reply
    latency_s: float
    created_at: float


class CacheStats(msgspec.Struct, frozen=True):
    """What a cache did since it was opened, and holds; `refused` were not written, `damaged` could not be read."""

    hits_ram: int
    hits_disk: int
    hits_parent: int
    misses: int
    puts: int
    refused: int
    evicted: int
    expired: int
    damaged: int
    entries: int
    bytes: int
    ram_bytes: int
    seconds_saved: float

    @property
    def hits(self) -> int:
        """Hits of all three kinds."""
        return self.hits_ram + self.hits_disk + self.hits_parent


class _Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A reply as it stands in the file; texts as bytes, since half a surrogate pair is no text to msgpack."""

    text: bytes
    tokens_in: int
    tokens_out: int
    cost_usd: float
    model: bytes
    tokens_cached: int
    latency_s: float


class _Slot:
    """A reply in memory; `row` is about where its last use stands in the file."""

    __slots__ = ("cached", "row", "size_bytes")

    def __init__(self, cached: Cached, row: int) -> None:
        self.cached = cached
        self.row = row
        self.size_bytes = sys.getsizeof(cached.reply.text) + _SLOT_BYTES


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Row).decode


def _pack(reply: Reply, latency_s: float) -> bytes:
    text, model = reply.text.encode("utf-8", "surrogatepass"), reply.model.encode("utf-8", "surrogatepass")
    row = _Row(text, reply.tokens_in, reply.tokens_out, reply.cost_usd, model, reply.tokens_cached, latency_s)
    return _encode(row)


def _unpack(found: Found) -> Cached | None:
    """The reply in a row; None where another version wrote something else there."""
    try:
        row = _decode(found.payload)
        text, model = row.text.decode("utf-8", "surrogatepass"), row.model.decode("utf-8", "surrogatepass")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    reply = Reply(text, row.tokens_in, row.tokens_out, row.cost_usd, model, row.tokens_cached)
    return Cached(reply, row.latency_s, found.created)


class ReplyCache:
    """Replies by key, in memory and in a file of their own. Made by `ReplyCache.open`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, ReplyCache.open(Path(folder, "replies.sqlite")) as cache:
    ...     key = bytes(16)
    ...     missed = cache.get(key)
    ...     cache.put(key, Reply("Hello.", 3, 2, 0.0, "scripted"), latency_s=0.3)
    ...     missed, cache.get(key).text, cache.stats().seconds_saved
    (None, 'Hello.', 0.3)
    """

    def __init__(self, file: ReplyFile, parent: Readers | None, max_age_s: float | None, ram_bytes: int) -> None:
        self.path = file.path
        self._file = file
        self._parent = parent
        self._max_age_s = max_age_s
        self._most_ram_bytes = ram_bytes
        self._lock = threading.Lock()
        self._hot: OrderedDict[bytes, _Slot] = OrderedDict()
        self._hits = {"ram": 0, "disk": 0, "parent": 0}
        self._ram_bytes = self._misses = self._puts = 0
        self._seconds_saved = 0.0
        # A forgotten cache is written and ends; at exit the file does that itself.
        weakref.finalize(self, file.stop).atexit = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        max_bytes: int = 500_000_000,
        max_age_s: float | None = None,
        parent: str | Path | None = None,
        ram_bytes: int = 16_000_000,
    ) -> Self:
        """Open a cache, or begin one.

        Args:
            path: its file; one run at a time may have it open.
            max_bytes: what it may take on disk, at least 100,000; what was not asked for longest goes first.
            max_age_s: an older reply is a miss (None: none is too old).
            parent: another cache's file, to look into where this one has nothing; it is only read, and may be in use.
            ram_bytes: what replies in memory may take.

        Raises:
            LimitError: a cap is out of range.
            StoreLockedError: another one has it open.
            StoreVersionError: another TroupeLab wrote it.
            StoreCorruptError: it is damaged; the message says that it may be deleted.
            StoreFullError: there is no room for a new one.
            StoreError: a file is something else, or cannot be used.
        """
        readers = None if parent is None else Readers(parent)
        try:
            return cls(ReplyFile(path, max_bytes=max_bytes, max_age_s=max_age_s), readers, max_age_s, ram_bytes)
        except BaseException:
            if readers is not None:
                readers.close()
            raise

    def get(self, key: bytes) -> Reply | None:
        """The reply under a key, or None; see `find`."""
        cached = self.find(key)
        return None if cached is None else cached.reply

    def find(self, key: bytes) -> Cached | None:
        """The reply under a key with what it had taken, or None; a damaged row is None, counted, and goes.

        Raises:
            StoreError: the cache is closed.
        """
        with self._lock:
            slot = self._hot.get(key)
            if slot is not None and not self._fresh(slot.cached.created_at):
                slot = None
            if slot is not None:
                self._hot.move_to_end(key)
                self._count("ram", slot.cached)
        if slot is None:
            return self._find_on_disk(key)
        if slot.row < self._file.middle:
            slot.row = self._file.newest
            self._file.touch(key, slot.size_bytes)
        return slot.cached

    def put(self, key: bytes, reply: Reply, *, latency_s: float = 0.0) -> None:
        """Keep a reply; returns at once. What does not fit in the file is kept in memory alone, and counted as refused.

        Args:
            key: of `reply_key`.
            reply: what came.
            latency_s: how long it took, for the seconds that a hit saves.

        Raises:
            StoreError: the cache is closed.
        """
        cached = Cached(reply, latency_s, time.time())
        self._file.put(key, cached.created_at, _pack(reply, latency_s))
        with self._lock:
            self._puts += 1
            self._keep(key, cached)

    @property
    def position(self) -> int:
        """Where the next reply will stand at the earliest, for `mark`."""
        return self._file.newest + 1

    def mark(self, position: int | None = None) -> None:
        """Keep what is put from a position on (or from now) until the next `mark`, whatever is evicted: a crash then costs no call twice.

        Called when the acts whose replies came before that position are committed: those replies may go again, as may all that were
        there before. The cap holds all the same: where what is kept fills it, more is refused.
        """
        self._file.mark(position)

    def release(self) -> None:
        """Keep nothing in particular any more, as before the first `mark`."""
        self._file.release()

    def resize(self, *, max_bytes: int, max_age_s: float | None) -> None:
        """Change both caps; returns at once, and the file follows in small steps. A disk that was full is tried again.

        Raises:
            LimitError: a cap is out of range; nothing was changed.
        """
        self._file.resize(max_bytes=max_bytes, max_age_s=max_age_s)
        self._max_age_s = max_age_s

    @property
    def problem(self) -> StoreError | None:
        """Why the file is only read and not written any more (a full disk, say); None when all is well."""
        return self._file.problem

    def stats(self) -> CacheStats:
        """What it did so far, and what it holds."""
        file, hits = self._file, self._hits
        return CacheStats(
            hits_ram=hits["ram"],
            hits_disk=hits["disk"],
            hits_parent=hits["parent"],
            misses=self._misses,
            puts=self._puts,
            refused=file.refused,
            evicted=file.evicted,
            expired=file.expired,
            damaged=file.damaged + (self._parent.damaged if self._parent else 0),
            entries=file.entries,
            bytes=file.file_bytes(),
            ram_bytes=self._ram_bytes,
            seconds_saved=self._seconds_saved,
        )

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until what was put is in the file, and the file within its cap.

        Raises:
            StoreError: nothing is written any more; see `problem`.
            TimeoutError: it takes longer than `timeout_s`.
        """
        self._file.flush(timeout_s)

    def close(self) -> None:
        """Write what waits and give the file free; a second call does nothing."""
        self._file.close()
        if self._parent is not None:
            self._parent.close()

    def __len__(self) -> int:
        """How many replies the file holds."""
        return self._file.entries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find_on_disk(self, key: bytes) -> Cached | None:
        kind, found = "disk", self._file.find(key)
        cached = _unpack(found) if found is not None else None
        if (cached is None or not self._fresh(cached.created_at)) and self._parent is not None:
            kind, inherited = "parent", self._parent.find(key)
            cached = _unpack(inherited) if isinstance(inherited, Found) else None
        with self._lock:
            if cached is None or not self._fresh(cached.created_at):
                self._misses += 1
                return None
            self._count(kind, cached)
            self._keep(key, cached)
            return cached

    def _fresh(self, created_at: float) -> bool:
        return self._max_age_s is None or time.time() - created_at <= self._max_age_s

    def _count(self, kind: str, cached: Cached) -> None:
        self._hits[kind] += 1
        self._seconds_saved += cached.latency_s

    def _keep(self, key: bytes, cached: Cached) -> None:
        old = self._hot.pop(key, None)
        slot = _Slot(cached, self._file.newest)
        self._ram_bytes += slot.size_bytes - (old.size_bytes if old else 0)
        self._hot[key] = slot
        while self._ram_bytes > self._most_ram_bytes:
            self._ram_bytes -= self._hot.popitem(last=False)[1].size_bytes
