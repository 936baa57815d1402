"""The recent tier: records word for word, oldest first, with a running byte count and a ring for finding sameness.

When memories of all agents together take too much, the older ones may leave RAM for a while (`spill`). They still belong to this tier:
whoever needs one of them brings all back. Owned by one memory, on the engine's loop thread.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from troupelab.memory import policy
from troupelab.memory.record import Record
from troupelab.memory.shelf import MAX_SEGMENT_CHARS, SEGMENT_RECORDS, SPILLED, SegmentMeta, Shelf
from troupelab.text.embed import Vectors
from troupelab.text.ring import Ring, Rounded
from troupelab.text.similar import fingerprint, may_merge

__all__ = ["RING_RECORDS", "Merge", "Recent", "Taken"]

Embed: TypeAlias = Callable[[Sequence[str]], Vectors | None]

RING_RECORDS = 512
"""A new record is compared with so many at most."""


class Taken(NamedTuple):
    """Records that were taken out, oldest first, their bytes, and their vectors where those are at hand."""

    records: list[Record]
    bytes: int
    vectors: Rounded | None


class Merge(NamedTuple):
    """The record that a newer one took in, and how similar they are (1 for an identical text)."""

    twin: Record
    similarity: float


class Recent:
    """Records that know their bytes.

    Args:
        agent: whose they are.
        shelf: where older ones go when they must leave RAM.
        dims: the length of the texts' vectors; 0 where there are none.
        embed: gives texts their vectors, to find what says the same in other words; None where it cannot.
    """

    def __init__(self, agent: int, shelf: Shelf, dims: int, embed: Embed) -> None:
        self._agent = agent
        self._shelf = shelf
        self._dims = dims
        self._embed = embed
        self._here: list[Record] = []
        self._away: list[tuple[int, SegmentMeta]] = []
        self._away_up_to = -1  # the highest id that is not here
        self._ring: Ring | None = None
        self._ring_dims = 0
        self.bytes = 0
        """What all records take in RAM when they are there."""
        self._away_records = 0
        self.away_bytes = 0
        """What of it is not in RAM now."""

    def __len__(self) -> int:
        return len(self._here) + self._away_records

    def __iter__(self) -> Iterator[Record]:
        self._bring_back()
        return iter(self._here)

    @property
    def here_bytes(self) -> int:
        """What the records that are in RAM take there."""
        return self.bytes - self.away_bytes

    @property
    def ring_bytes(self) -> int:
        """What the ring takes in RAM."""
        return 0 if self._ring is None else self._ring.ram_bytes

    # ------------------------------------------------------------------ in and out

    def add(self, record: Record, vector: NDArray[np.float32] | None, at_least: float | None) -> Merge | None:
        """Add the newest record; what says the same is taken in, and told.

        Only what is of the same kind and from the same source is compared, and nothing that differs in a number, a name or
        a negation is the same.

        Args:
            record: the record.
            vector: its text's vector, where there is one.
            at_least: the cosine from which on two texts may say the same; 1 takes identical ones only, None compares nothing.
        """
        hold = self._shelf.common.hold
        if at_least is None:
            self._append(record, hold(record.text))
            return None
        print_ = fingerprint(record.text)
        ring = self._rings(at_least < 1)
        merge = self._twin(ring, record, print_, vector, at_least)
        if merge is None:
            self._append(record, hold(record.text))
            ring.add(record.id, print_, vector)
        else:
            # It has come again, and is the newest now; the longer text says all that the shorter one says.
            text = hold(max(merge.twin.text, record.text, key=len))
            # The ring is always that of the newest records as they are: whenever it is made anew, it is the same one.
            if len(record.text) > len(merge.twin.text):
                ring.forget(merge.twin.id)
                ring.add(record.id, print_, vector)
            else:
                ring.renew(merge.twin.id, record.id)
            del self._here[self._place(merge.twin.id)]
            self.bytes -= merge.twin.size_bytes
            self._shelf.common.release([merge.twin.text])
            first_id = merge.twin.first_id or merge.twin.id
            self._append(msgspec.structs.replace(record, first_id=first_id, times=merge.twin.times + 1), text)
        return merge

    def _append(self, record: Record, text: str) -> None:
        if text is not record.text:
            record = msgspec.structs.replace(record, text=text)
        self._here.append(record)
        self.bytes += record.size_bytes

    def _twin(
        self, ring: Ring, record: Record, print_: int, vector: NDArray[np.float32] | None, at_least: float
    ) -> Merge | None:
        found = [(key, 1.0) for key in ring.same(print_)]
        if vector is not None and at_least < 1 and (near := ring.similar(vector, at_least)):
            known = {key for key, _ in found}
            found += [pair for pair in near if pair[0] not in known]
        for key, similarity in found:
            other = self._find(key)
            if other is None:
                continue
            if other.kind == record.kind and other.source == record.source and may_merge(other.text, record.text):
                return Merge(other, similarity)
        return None

    def take_oldest(self, max_records: float, max_bytes: float) -> Taken:
        """Remove the oldest until at most so many records and bytes are left; returns what was removed, oldest first."""
        self._bring_back()
        taken, left = math.ceil(max(0.0, len(self._here) - max_records)), self.bytes
        if left > max_bytes:
            left -= sum([record.size_bytes for record in self._here[:taken]])
            while taken < len(self._here) and left > max_bytes:
                left -= self._here[taken].size_bytes
                taken += 1
        return self._take(taken)

    def take_before(self, step: int) -> Taken:
        """Remove those that were last heard of before a step; returns them, oldest first."""
        if not self._away and (not self._here or self._here[0].step >= step):
            return Taken([], 0, None)
        self._bring_back()
        taken = 0
        while taken < len(self._here) and self._here[taken].step < step:
            taken += 1
        return self._take(taken)

    def _take(self, count: int) -> Taken:
        taken, vectors = self._here[:count], None
        del self._here[:count]
        size = sum([record.size_bytes for record in taken])
        self.bytes -= size
        if taken and self._ring is not None:
            vectors = self._ring.vectors(np.array([record.id for record in taken], dtype=np.int64))
            self._ring.forget_up_to(taken[-1].id)
        return Taken(taken, size, vectors)

    # ------------------------------------------------------------------ looking

    def newest(self, n: int) -> list[Record]:
        """The newest `n` records, oldest of them first."""
        if n < 1:
            return []
        if self._away and (len(self._here) < n or self._here[-n].id < self._away_up_to):
            self._bring_back()
        return self._here[-n:]

    def peek(self) -> list[Record]:
        """All records, oldest first, without bringing back those that have left RAM."""
        away = [record for number, _ in self._away for record in self._shelf.records(SPILLED, self._agent, number)]
        return [*away, *self._here]

    def newest_first(self) -> Iterator[Record]:
        """All records from the newest to the oldest."""
        self._bring_back()
        return reversed(self._here)

    def _find(self, key: int) -> Record | None:
        """The record with an id; None where it has come again since, and has another id now."""
        if key <= self._away_up_to:
            self._bring_back()
        place = self._place(key)
        return self._here[place] if place < len(self._here) and self._here[place].id == key else None

    def _place(self, key: int) -> int:
        return bisect_left(self._here, key, key=_id)

    # ------------------------------------------------------------------ leaving RAM and coming back

    def spill(self) -> tuple[int, int]:
        """Let the older half of the records here leave RAM, pinned ones excepted; returns how many and their bytes."""
        half = self._here[: (len(self._here) + 1) // 2]
        gone = [record for record in half if record.kind not in policy.PINNED]
        if not gone or not self._shelf.durable:
            return 0, 0
        freed = sum(record.size_bytes for record in gone)
        self._away += self._put_away(gone)
        self._here[: len(half)] = [record for record in half if record.kind in policy.PINNED]
        self._shelf.common.release(record.text for record in gone)
        self._away_up_to = gone[-1].id
        self._away_records += len(gone)
        self.away_bytes += freed
        return len(gone), freed

    def copies(self) -> list[tuple[int, SegmentMeta]]:
        """Put copies of all records on disk, for opening the memory again; returns the blocks' numbers and what they hold."""
        self._bring_back()
        return self._put_away(self._here)

    def restore(self, records: Iterable[Record]) -> None:
        """Take in records that were put away by an earlier process."""
        for record in records:
            self._append(record, self._shelf.common.hold(record.text))

    def _put_away(self, records: Sequence[Record]) -> list[tuple[int, SegmentMeta]]:
        """Put records into as many blocks as their size asks for."""
        blocks = []
        start = chars = 0
        for end, record in enumerate(records, 1):
            chars += len(record.text)
            if chars >= MAX_SEGMENT_CHARS or end - start >= SEGMENT_RECORDS or end == len(records):
                part = records[start:end]
                size = sum(each.size_bytes for each in part)
                meta = SegmentMeta(min(each.first_step for each in part), part[-1].step, len(part), size, 1.0)
                blocks.append(self._shelf.put_segment(SPILLED, self._agent, part, meta, None))
                start, chars = end, 0
        return blocks

    @property
    def spillable_bytes(self) -> int:
        """About what `spill` would free."""
        return self.here_bytes // 2 if self._shelf.durable else 0

    def drop_ring(self) -> int:
        """Let go of the ring, which is made anew when it is next needed; returns the bytes freed."""
        freed, self._ring = self.ring_bytes, None
        return freed

    def _bring_back(self) -> None:
        if not self._away:
            return
        back: list[Record] = []
        for number, meta in self._away:
            back += self._shelf.records(SPILLED, self._agent, number)
            self._shelf.drop(SPILLED, self._agent, [number], meta.uses)
        back = [msgspec.structs.replace(record, text=self._shelf.common.hold(record.text)) for record in back]
        self._here = sorted([*back, *self._here], key=_id)
        self._away, self._away_up_to = [], -1
        self._away_records = self.away_bytes = 0

    def _rings(self, with_vectors: bool) -> Ring:
        """The ring, made of the records where there is none: the newest of them that it has room for."""
        dims = self._dims if with_vectors else 0
        if self._ring is None or self._ring_dims != dims:
            self._ring, self._ring_dims = Ring(dims, RING_RECORDS), dims
            self._bring_back()
            newest = self._here[-RING_RECORDS:]
            vectors = self._embed([record.text for record in newest]) if dims and newest else None
            for place, record in enumerate(newest):
                self._ring.add(record.id, fingerprint(record.text), None if vectors is None else vectors[place])
        return self._ring


def _id(record: Record) -> int:
    return record.id
