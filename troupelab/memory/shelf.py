"""The shelf: what memories put away on disk, and how they get it back.

It stands between the memories and the store. A block that was put away stays in RAM until the store has committed it, and is read
back through a cache with a byte cap, so that a question about the past opens a block once. Owned by one pool of
memories, on the engine's loop thread.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from troupelab.memory.codec import (
    NotesBlock,
    Place,
    decode_notes,
    decode_records,
    decode_texts,
    encode_notes,
    encode_records,
    encode_texts,
)
from troupelab.memory.record import Note, Record, text_bytes
from troupelab.memory.shared import Common

if TYPE_CHECKING:
    from troupelab.errors import StoreError
    from troupelab.store import Block, Store, Transaction

__all__ = ["MAX_SEGMENT_CHARS", "NOTES", "RECORDS", "SEGMENT_RECORDS", "SPILLED", "SegmentMeta", "Shelf"]

RECORDS, NOTES, SPILLED, TEXTS, STATE = "records", "notes", "spilled", "texts", "state"
"""The kinds of blocks: archived segments, notes, records of a recent tier that had to leave RAM, shared texts, a memory's state."""

SEGMENT_RECORDS = 512
MAX_SEGMENT_CHARS = 400_000
"""A segment is full with so many records or characters: some 55 kB on disk, and 3 ms to open."""

_ACTS_BETWEEN_SEALS = 8

EVERYBODY = -1
"""Whose blocks the shared texts are."""

_STORED_BYTES = 300  # the store's own entry of a block, its checksum in it
_OBJECT_BYTES = 200  # a block's own book-keeping in the cache or while it waits: key, tuple, entry
_Key: TypeAlias = tuple[str, int, int]


class SegmentMeta(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is known of a segment without opening it; `uses` are the blocks of shared texts that it refers to, and how often."""

    first_step: int
    last_step: int
    records: int
    text_bytes: int
    best_importance: float
    uses: tuple[tuple[int, int], ...] = ()


_read_meta = msgspec.msgpack.Decoder(SegmentMeta).decode


class _Waiting(NamedTuple):
    ticket: int
    key: _Key
    content: object
    bytes: int
    written: Callable[[int, int], None] | None


class Shelf:
    """Puts blocks away and brings them back.

    Args:
        store: where blocks go, and may have been already; or what makes a fresh one when the first is put away; or None,
            which keeps nothing: there is then no archive.
        scratch: a folder for what is only a cache on disk.
    """

    def __init__(self, store: Store | Callable[[], Store] | None, scratch: Callable[[], Path] | None = None) -> None:
        self._make = store if callable(store) else None
        self._store = None if callable(store) else store
        self._fresh = self._store is None
        self._scratch = scratch
        self.common = Common()
        self._waiting: deque[_Waiting] = deque()
        self._at_hand: dict[_Key, tuple[object, int]] = {}
        self._cache: OrderedDict[_Key, tuple[object, int]] = OrderedDict()
        self._aside: OrderedDict[_Key, tuple[object, int]] = OrderedDict()
        self._aside_bytes = 0
        self._index: dict[tuple[str, int], list[Block]] | None = None
        self.cache_max_bytes = 8_000_000
        self._acts = self._sealed_at = self._blocks = 0
        self.cache_bytes = 0
        self.waiting_bytes = 0
        self.opened = 0
        """How many blocks were read from the store, for tests and curious people."""

    @property
    def durable(self) -> bool:
        """Whether there is a disk to put things on."""
        return self._make is not None or self._store is not None

    @property
    def store(self) -> Store:
        """The store, opened when it is first asked for."""
        if self._store is None:
            assert self._make is not None
            self._store = self._make()
        return self._store

    @property
    def ram_bytes(self) -> int:
        """What the shelf takes in RAM: the cache, what waits to be written, the book-keeping of shared texts and of the store."""
        return self.cache_bytes + self.waiting_bytes + self.common.ram_bytes + self._blocks * _STORED_BYTES

    @property
    def problem(self) -> StoreError | None:
        """Why the store cannot write now; None when all is well."""
        return None if self._store is None else self._store.problem

    def scratch_file(self, name: str) -> Path | None:
        """A file for what is only a cache; None where there is no disk."""
        return None if self._scratch is None else self._scratch() / name

    # ------------------------------------------------------------------ putting away

    def has_turn(self) -> bool:
        """Whether a segment may be sealed: none was for some acts, so that many at once do not hold up the event loop."""
        if self._acts - self._sealed_at < _ACTS_BETWEEN_SEALS:
            return False
        self._sealed_at = self._acts
        return True

    def put_segment(
        self,
        kind: str,
        agent: int,
        records: Sequence[Record],
        meta: SegmentMeta,
        written: Callable[[int, int], None] | None,
    ) -> tuple[int, SegmentMeta]:
        """Put records away; shared texts that lie nowhere yet go into a block of their own, in the same transaction.

        Args:
            kind: `RECORDS` or `SPILLED`.
            agent: whose they are.
            records: what to put away.
            meta: what to know of them without opening them.
            written: is told the block's number and its bytes on disk once it is there.

        Returns:
            The block's number, and the meta with the uses of shared texts filled in.
        """
        texts = [record.text for record in records]
        with self.store.transaction() as transaction:
            any_shared, new = self.common.shared(texts)
            if new:
                number = self._put(transaction, TEXTS, EVERYBODY, b"", partial(encode_texts, new), sum(map(len, new)))
                self.common.placed(new, number)
            places: list[Place | None] = [None] * len(texts)
            if any_shared:
                places = [self.common.place(text) for text in texts]
                uses = Counter(place.block for place in places if place is not None)
                meta = msgspec.structs.replace(meta, uses=tuple(uses.items()))
                self.common.refer(meta.uses)
            content = tuple(records)
            payload = partial(encode_records, content, places)
            number = self._put(transaction, kind, agent, msgspec.msgpack.encode(meta), payload, meta.text_bytes)
        self._wait(transaction.ticket, (kind, agent, number), content, meta.text_bytes, written)
        return number, meta

    def put_notes(
        self, agent: int, notes: Sequence[Note], rows: NDArray[np.int8], scales: NDArray[np.float32], embedder: str
    ) -> int:
        """Put notes with their vectors away, and the name of who made those; returns the block's number."""
        content = NotesBlock(tuple(notes), rows, scales)
        size = sum(note.size_bytes for note in notes) + rows.nbytes
        with self.store.transaction() as transaction:
            payload = partial(encode_notes, content.notes, rows, scales)
            number = self._put(transaction, NOTES, agent, embedder.encode(), payload, size)
        self._wait(transaction.ticket, (NOTES, agent, number), content, size, None)
        return number

    def put_state(self, agent: int, state: bytes, older: Sequence[int]) -> int:
        """Put an agent's state away in the place of older ones; returns the block's number."""
        with self.store.transaction() as transaction:
            number: int = transaction.put(STATE, agent, b"", state)
            transaction.drop(STATE, agent, older)
        return number

    def _put(
        self, transaction: Transaction, kind: str, agent: int, meta: bytes, payload: Callable[[], bytes], size: int
    ) -> int:
        self._blocks += 1
        return transaction.put(kind, agent, meta, payload, size_hint_bytes=size)

    def _wait(
        self, ticket: int, key: _Key, content: object, size: int, written: Callable[[int, int], None] | None
    ) -> None:
        size += _OBJECT_BYTES
        self._waiting.append(_Waiting(ticket, key, content, size, written))
        self._at_hand[key] = (content, size)
        self.waiting_bytes += size

    def reap(self) -> bool:
        """Let go of what the store has committed; tells whether there was anything."""
        self._acts += 1
        if not self._waiting:
            return False
        committed = self.store.committed
        if self._waiting[0].ticket > committed:
            return False
        while self._waiting and self._waiting[0].ticket <= committed:
            done = self._waiting.popleft()
            self._at_hand.pop(done.key, None)
            self.waiting_bytes -= done.bytes
            if done.written is not None:
                done.written(done.key[2], self.store.size_of(*done.key))
        return True

    def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until everything is on disk.

        Raises:
            StoreError: it cannot be written.
        """
        if self._waiting:
            self.store.flush(timeout_s)
            self.reap()

    def drop(self, kind: str, agent: int, numbers: Iterable[int], uses: Iterable[tuple[int, int]] = ()) -> None:
        """Drop blocks, and the shared texts that nobody refers to after that."""
        self.common.unrefer(uses)
        with self.store.transaction() as transaction:
            numbers = list(numbers)
            transaction.drop(kind, agent, numbers)
            self._blocks -= len(numbers)
            if dead := self.common.take_dead():
                transaction.drop(TEXTS, EVERYBODY, dead)
                self._blocks -= len(dead)
                for number in dead:
                    self._forget((TEXTS, EVERYBODY, number))
        for number in numbers:
            self._forget((kind, agent, number))

    # ------------------------------------------------------------------ bringing back

    def records(self, kind: str, agent: int, number: int) -> tuple[Record, ...]:
        """The records of a block.

        Raises:
            StoreCorruptError: the block is damaged.
        """
        found = self._bring((kind, agent, number), self._decode_records, _records_bytes)
        return cast(tuple[Record, ...], found)

    def notes(self, agent: int, number: int) -> NotesBlock:
        """The notes of a block.

        Raises:
            StoreCorruptError: the block is damaged.
        """
        return cast(NotesBlock, self._bring((NOTES, agent, number), decode_notes, _notes_bytes))

    def _decode_records(self, payload: bytes) -> tuple[Record, ...]:
        return decode_records(payload, self._text_at)

    def _text_at(self, place: Place) -> str:
        texts = self._bring((TEXTS, EVERYBODY, place.block), decode_texts, _texts_bytes)
        return cast(tuple[str, ...], texts)[place.at]

    def _bring(self, key: _Key, decode: Callable[[bytes], object], measure: Callable[[object], int]) -> object:
        if key in self._at_hand:
            return self._at_hand[key][0]
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key][0]
        self.opened += 1
        content = decode(self.store.read(*key))
        size = measure(content) + _OBJECT_BYTES
        if size <= self.cache_max_bytes:
            self._cache[key] = (content, size)
            self.cache_bytes += size
            self.shrink_cache(self.cache_max_bytes)
        return content

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Read blocks without a trace: what is opened meanwhile is kept in a cache of its own, of the same cap, that counts for nothing."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        self._cache, self._aside = self._aside, self._cache
        self.cache_bytes, self._aside_bytes = self._aside_bytes, self.cache_bytes

    def shrink_cache(self, max_bytes: float) -> None:
        """Let go of what was used longest ago until the cache takes at most so much."""
        while self.cache_bytes > max_bytes:
            self.cache_bytes -= self._cache.popitem(last=False)[1][1]

    def _forget(self, key: _Key) -> None:
        if key in self._cache:
            self.cache_bytes -= self._cache.pop(key)[1]
        if key in self._aside:
            self._aside_bytes -= self._aside.pop(key)[1]

    # ------------------------------------------------------------------ reopening

    def segments(self, kind: str, agent: int) -> list[tuple[int, SegmentMeta, int]]:
        """An agent's segments that were on disk when the store was opened: number, meta and bytes there, oldest first."""
        return [(block.number, _read_meta(block.meta), block.size_bytes) for block in self._found(kind, agent)]

    def note_blocks(self, agent: int) -> list[tuple[int, str]]:
        """The numbers of an agent's blocks of notes on disk when the store was opened, with the names of their vectors' embedders."""
        return [(block.number, block.meta.decode()) for block in self._found(NOTES, agent)]

    def state(self, agent: int) -> tuple[bytes | None, list[int]]:
        """An agent's newest state, None where there is none, and the numbers of all its states."""
        numbers = [block.number for block in self._found(STATE, agent)]
        return (self.store.read(STATE, agent, numbers[-1]) if numbers else None), numbers

    def _found(self, kind: str, agent: int) -> list[Block]:
        if self._fresh:
            return []
        if self._index is None:
            self._index = {}
            self.store.flush()  # where another pool has written to it just now
            for each in (RECORDS, NOTES, SPILLED, STATE):
                for block in self.store.blocks(each):
                    self._index.setdefault((each, block.agent), []).append(block)
                    if each in (RECORDS, SPILLED):
                        self.common.refer(_read_meta(block.meta).uses)
            texts = self.store.blocks(TEXTS)
            self._blocks = len(texts) + sum(map(len, self._index.values()))
            unused = [block.number for block in texts if not self.common.references(block.number)]
            if unused:
                self.drop(TEXTS, EVERYBODY, unused)
        return self._index.get((kind, agent), [])


def _records_bytes(content: object) -> int:
    return sum(record.size_bytes for record in cast(tuple[Record, ...], content))


def _notes_bytes(content: object) -> int:
    block = cast(NotesBlock, content)
    return sum(note.size_bytes for note in block.notes) + int(block.rows.nbytes)


def _texts_bytes(content: object) -> int:
    return sum(map(text_bytes, cast(tuple[str, ...], content)))
