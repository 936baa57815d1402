"""The archive: what an agent no longer has word for word in RAM, in sealed segments on disk.

Records collect in an open segment, which is sealed and put away when it has `SEGMENT_RECORDS` records. Of a sealed segment only
its first and last step, its counts and its number stay in RAM: a question about some steps finds its segments by bisection
and opens those alone; sums over a range come from a segment tree and open none. Owned by one memory, on the
engine's loop thread.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from troupelab.memory import policy
from troupelab.memory.record import Record, was_between
from troupelab.memory.shelf import MAX_SEGMENT_CHARS, RECORDS, SEGMENT_RECORDS, SegmentMeta, Shelf
from troupelab.memory.tree import RangeSum, SegmentTree

__all__ = ["Archive", "Dropped"]

_DUE_RECORDS = 256
"""From so many records on, a segment is sealed when it does not meet others: agents who live alike fill theirs at once."""

_INDEX_BYTES = 40 + 32  # five columns, and an entry for the uses of shared texts where there are some


class Dropped(NamedTuple):
    """What left the archive for good: records, and the bytes of their texts."""

    records: int
    bytes: int


class Archive:
    """One agent's archive."""

    def __init__(self, agent: int, shelf: Shelf) -> None:
        self._agent = agent
        self._shelf = shelf
        self._open: list[Record] = []
        self._open_chars = self.open_bytes = 0
        self._open_from, self._open_best = sys.maxsize, 0.0
        self._numbers = array("q")
        self._first_steps = array("q")
        self._last_steps = array("q")
        self._disk = array("q")
        self._uses: dict[int, tuple[tuple[int, int], ...]] = {}
        self._tree = SegmentTree()
        self._first = 0  # the first segment that is still there
        self._floor = 0  # records last heard of before this step are gone
        self._ages: list[
            tuple[int, int]
        ] = []  # of the first segment, once some of it is gone: last step and bytes of each
        self._gone_in_first = 0
        self.records = 0
        self.disk_bytes = 0
        if shelf.durable:
            for number, meta, disk_bytes in shelf.segments(RECORDS, agent):
                self._enter(number, meta)
                self._written(number, disk_bytes)

    def __len__(self) -> int:
        return self.records

    @property
    def segments(self) -> int:
        """How many sealed segments there are."""
        return len(self._numbers) - self._first

    @property
    def ram_bytes(self) -> int:
        """What it takes in RAM: the open segment and the index."""
        return self.open_bytes + len(self._numbers) * _INDEX_BYTES + self._tree.ram_bytes + 80 * len(self._ages)

    def add(self, records: Sequence[Record]) -> None:
        """Archive records, in the order of their ids."""
        rest = list(records)
        while rest:
            part = self._fitting(rest)
            del rest[: len(part)]
            if self._open and part[0].id < self._open[-1].id:
                # Only after a crash: see Memory's reopening.
                self._open = sorted([*self._open, *part], key=_id)
            else:
                self._open += part
            self._open_chars += sum([len(record.text) for record in part])
            self.open_bytes += sum([record.size_bytes for record in part])
            again = [record.first_step for record in part if record.first_id]
            self._open_from = min(self._open_from, part[0].step, *again)
            self._open_best = max(self._open_best, *map(policy.importance, {record.kind for record in part}))
            self.records += len(part)
            if len(self._open) >= SEGMENT_RECORDS or self._open_chars >= MAX_SEGMENT_CHARS:
                self.seal()
        if len(self._open) >= _DUE_RECORDS and self._shelf.has_turn():
            self.seal()

    def _fitting(self, records: Sequence[Record]) -> list[Record]:
        """As many of some records as go into the open segment, at least one."""
        part = list(records[: SEGMENT_RECORDS - len(self._open)])
        chars = self._open_chars
        for count, record in enumerate(part, 1):
            chars += len(record.text)
            if chars >= MAX_SEGMENT_CHARS:
                return part[:count]
        return part

    def seal(self) -> int:
        """Put the open segment away; returns the bytes that it took."""
        if not self._open:
            return 0
        records, freed = self._open, self.open_bytes
        meta = SegmentMeta(self._open_from, records[-1].step, len(records), freed, self._open_best)
        number, meta = self._shelf.put_segment(RECORDS, self._agent, records, meta, self._written)
        self._enter(number, meta)
        self._shelf.common.release([record.text for record in records])
        self._open_anew()
        return freed

    def _open_anew(self) -> None:
        self._open, self._open_chars, self.open_bytes = [], 0, 0
        self._open_from, self._open_best = sys.maxsize, 0.0

    def _enter(self, number: int, meta: SegmentMeta) -> None:
        self._numbers.append(number)
        self._first_steps.append(meta.first_step)
        place = len(self._first_steps) - 2
        # What came again began before the segment ahead of it: each has the least from there on, so that it only rises.
        while place >= 0 and self._first_steps[place] > meta.first_step:
            self._first_steps[place] = meta.first_step
            place -= 1
        self._last_steps.append(meta.last_step)
        self._disk.append(0)
        if meta.uses:
            self._uses[number] = meta.uses
        self._tree.append(RangeSum(meta.records, meta.text_bytes, meta.best_importance))

    def _written(self, number: int, disk_bytes: int) -> None:
        place = bisect_left(self._numbers, number)
        if self._first <= place < len(self._numbers) and self._numbers[place] == number:
            self._disk[place] = disk_bytes
            self.disk_bytes += disk_bytes

    # ------------------------------------------------------------------ finding

    def between(self, start: int, end: int) -> Iterator[Record]:
        """The records that were heard or done from step `start` up to and with step `end`, oldest first."""
        start = max(start, self._floor)
        low, high = self._range(start, end)
        for number in self._numbers[low:high]:
            yield from _within(self._shelf.records(RECORDS, self._agent, number), start, end)
        yield from _within(self._open, start, end)

    def over(self, start: int, end: int) -> RangeSum:
        """The sums over all segments that have something of these steps, the open one too; opens none."""
        low, high = self._range(start, end)
        sealed = self._tree.over(low, high)
        mine = list(_within(self._open, start, end))
        best = max((policy.importance(record.kind) for record in mine), default=0.0)
        return RangeSum(
            sealed.records + len(mine),
            sealed.text_bytes + sum(record.size_bytes for record in mine),
            max(sealed.best_importance, best),
        )

    def _range(self, start: int, end: int) -> tuple[int, int]:
        low = bisect_left(self._last_steps, start, self._first)
        return low, max(low, bisect_right(self._first_steps, end, self._first))

    # ------------------------------------------------------------------ dropping

    def drop_before(self, step: int) -> Dropped:
        """Drop what was last heard of before a step, for good."""
        if step <= self._floor:
            return Dropped(0, 0)
        self._floor = step
        records = freed = 0
        while self._first < len(self._numbers) and self._last_steps[self._first] < step:
            dropped = self._drop_first_segment()
            records, freed = records + dropped.records, freed + dropped.bytes
        if self._first < len(self._numbers) and self._first_steps[self._first] < step:
            dropped = self._age_first_segment(step)
            records, freed = records + dropped.records, freed + dropped.bytes
        if self._open and self._open[0].step < step:
            count = bisect_left(self._open, step, key=_step)
            old, self._open = self._open[:count], self._open[count:]
            took = sum(record.size_bytes for record in old)
            self._open_chars -= sum(len(record.text) for record in old)
            self.open_bytes -= took
            self._shelf.common.release(record.text for record in old)
            records, freed = records + len(old), freed + took
            self.records -= len(old)
        return Dropped(records, freed)

    def _age_first_segment(self, step: int) -> Dropped:
        """Count what is too old in a segment of which some is not; it stays on disk until all of it is."""
        if not self._ages:
            opened = self._shelf.records(RECORDS, self._agent, self._numbers[self._first])
            self._ages = [(record.step, record.size_bytes) for record in opened]
        gone = bisect_left(self._ages, (step, 0))
        fresh = self._ages[self._gone_in_first : gone]
        self._gone_in_first = max(gone, self._gone_in_first)
        self.records -= len(fresh)
        return Dropped(len(fresh), sum(size for _, size in fresh))

    def drop_oldest_segment(self) -> Dropped:
        """Drop the oldest sealed segment, whatever its age."""
        return self._drop_first_segment() if self.segments else Dropped(0, 0)

    @property
    def oldest_step(self) -> int | None:
        """The last step that the oldest sealed segment speaks of; None where there is none."""
        return self._last_steps[self._first] if self.segments else None

    def _drop_first_segment(self) -> Dropped:
        place, number = self._first, self._numbers[self._first]
        leaf = self._tree[place]
        gone = sum(size for _, size in self._ages[: self._gone_in_first])
        dropped = Dropped(leaf.records - self._gone_in_first, leaf.text_bytes - gone)
        self._shelf.drop(RECORDS, self._agent, [number], self._uses.pop(number, ()))
        self.disk_bytes -= self._disk[place]
        self._tree[place] = RangeSum(0, 0, 0.0)
        self._ages, self._gone_in_first = [], 0
        self._first += 1
        self.records -= dropped.records
        if self._first > len(self._numbers) // 2:
            self._compact()
        return dropped

    def _compact(self) -> None:
        """Forget the columns of dropped segments."""
        leaves = [self._tree[place] for place in range(self._first, len(self._numbers))]
        for column in (self._numbers, self._first_steps, self._last_steps, self._disk):
            del column[: self._first]
        self._first = 0
        self._tree = SegmentTree()
        for leaf in leaves:
            self._tree.append(leaf)

    # ------------------------------------------------------------------ reopening

    @property
    def floor(self) -> int:
        """Records last heard of before this step are gone."""
        return self._floor

    def reopen(self, floor: int) -> None:
        """Go on with the segments that the store has, below which step everything is gone."""
        self.records = sum(self._tree[place].records for place in range(len(self._numbers)))
        self.drop_before(floor)

    @property
    def last_id(self) -> int:
        """The id of the newest record of the sealed segments; -1 where there is none."""
        if not self.segments:
            return -1
        return self._shelf.records(RECORDS, self._agent, self._numbers[-1])[-1].id


def _within(records: Sequence[Record], start: int, end: int) -> list[Record]:
    """Those of some records, which are in the order of their last steps, that were heard or done within a span of steps."""
    if start > end:
        return []
    low = bisect_left(records, start, key=_step)
    high = bisect_right(records, end, low, key=_step)
    # Of what came again later, the first time counts, too.
    again = [each for each in records[high:] if each.first_id and was_between(each, start, end)]
    return [*records[low:high], *again]


def _step(record: Record) -> int:
    return record.step


def _id(record: Record) -> int:
    return record.id
