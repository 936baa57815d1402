"""A segment tree: sums and maxima over any range of an archive's segments, in logarithmic time and without opening one.

The tree is an array of 2n nodes, leaves last, walked from the bottom up ("Efficient and easy segment trees", Codeforces, 2014).
Owned by one archive, on the engine's loop thread.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

__all__ = ["RangeSum", "SegmentTree"]

_FIRST_LEAVES = 16


class RangeSum(NamedTuple):
    """What lies in a range of segments: how many records, the bytes of their texts, and the greatest importance among them."""

    records: int
    text_bytes: int
    best_importance: float


class SegmentTree:
    """Leaves in the order in which they were appended; a dropped leaf counts nothing.

    >>> tree = SegmentTree()
    >>> for size in (3, 5, 7):
    ...     tree.append(RangeSum(1, size, 0.5))
    >>> tree.over(1, 3)
    RangeSum(records=2, text_bytes=12, best_importance=0.5)
    """

    def __init__(self) -> None:
        self._count = 0
        self._grow(_FIRST_LEAVES)

    def __len__(self) -> int:
        return self._count

    @property
    def ram_bytes(self) -> int:
        """What the tree takes in RAM."""
        return 2 * self._leaves * (2 * self._records.itemsize + self._best.itemsize)

    def append(self, leaf: RangeSum) -> None:
        """Add a leaf at the end."""
        if self._count == self._leaves:
            old = [self[place] for place in range(self._count)]
            self._grow(2 * self._leaves)
            self._count = 0
            for each in old:
                self.append(each)
        self._count += 1
        self[self._count - 1] = leaf

    def __getitem__(self, place: int) -> RangeSum:
        node = self._leaves + place
        return RangeSum(self._records[node], self._text_bytes[node], self._best[node])

    def __setitem__(self, place: int, leaf: RangeSum) -> None:
        node = self._leaves + place
        self._records[node], self._text_bytes[node], self._best[node] = leaf
        while node > 1:
            node //= 2
            left, right = 2 * node, 2 * node + 1
            self._records[node] = self._records[left] + self._records[right]
            self._text_bytes[node] = self._text_bytes[left] + self._text_bytes[right]
            self._best[node] = max(self._best[left], self._best[right])

    def over(self, start: int, end: int) -> RangeSum:
        """The sum over the leaves from `start` up to, not with, `end`."""
        records = text_bytes = 0
        best = 0.0
        low, high = start + self._leaves, end + self._leaves
        while low < high:
            for node in ((low,) if low & 1 else ()) + ((high - 1,) if high & 1 else ()):
                records += self._records[node]
                text_bytes += self._text_bytes[node]
                best = max(best, self._best[node])
            low, high = (low + 1) // 2, high // 2
        return RangeSum(records, text_bytes, best)

    def _grow(self, leaves: int) -> None:
        self._leaves = leaves
        self._records = array("q", bytes(2 * leaves * 8))
        self._text_bytes = array("q", bytes(2 * leaves * 8))
        self._best = array("d", bytes(2 * leaves * 8))
