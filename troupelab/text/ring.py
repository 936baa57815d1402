"""A ring of the newest records' fingerprints and vectors: which of them say what an agent is told again?

Owned by one memory, on the engine's loop thread.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ring", "Rounded"]

_Kind = TypeVar("_Kind", bound=np.generic)

_FIRST_ROWS = 16
_SLACK = 32  # one row in so many is spare, so that old rows are moved out seldom
_HEAD = 4  # the first quarter of a vector rules out most rows
_FEW_ROWS = 160  # so few are compared as a whole at once
_SEEN_MASK = 2_047
_MARGIN = 1e-4  # float32 sums may be so far off


class Rounded(NamedTuple):
    """Unit vectors as 8-bit whole numbers, shape (n, dims), with the scale that makes each one long (0: no vector)."""

    rows: NDArray[np.int8]
    scales: NDArray[np.float32]

    @staticmethod
    def of(vectors: NDArray[np.float32]) -> Rounded:
        """The vectors as a ring would hold them, number for number."""
        peaks = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float64)
        up = np.divide(127, peaks, out=np.zeros_like(peaks), where=peaks > 0).astype(np.float32)
        rows = np.rint(vectors * up[:, np.newaxis])
        squares = np.vecdot(rows, rows).astype(np.float64)
        scales = np.divide(1, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)
        return Rounded(rows.astype(np.int8), scales.astype(np.float32))

    def unit(self) -> NDArray[np.float32]:
        """The vectors again, within 0.003 of what they were."""
        return self.rows.astype(np.float32) * self.scales[:, np.newaxis]


class Ring:
    """The newest `capacity` records' fingerprints and vectors, to look a new one up in.

    Vectors are held as 8-bit whole numbers: 280 bytes a record of 256 dims, 150 kB for 512, and nothing before the first;
    cosines are within 0.003 of the exact ones. At 512 × 256 a look-up takes 2 µs by fingerprint and 14 µs by vector, without
    a BLAS matrix product, whose threads would spin beside the event loop.

    Args:
        dims: the length of the vectors; 0 where there are none.
        capacity: how many records are held; an older one leaves when a newer comes.

    >>> from troupelab.text.similar import fingerprint
    >>> ring = Ring(dims=2)
    >>> ring.add(1, fingerprint("rain"), np.array([1, 0], dtype=np.float32))
    >>> ring.add(2, fingerprint("snow"), np.array([0, 1], dtype=np.float32))
    >>> ring.same(fingerprint("Snow")), ring.similar(np.array([0.8, 0.6], dtype=np.float32), at_least=0.7)
    ([2], [(1, 0.8)])
    """

    def __init__(self, dims: int, capacity: int = 512) -> None:
        if dims < 0 or capacity < 1:
            raise ValueError(f"a ring needs dims >= 0 and capacity >= 1, not {dims} and {capacity}")
        self._dims = dims
        self._head = dims // _HEAD
        self._capacity = capacity
        # Live rows are those from first to end: in one piece, so that a look-up is one pass and views can be given out.
        self._first = 0
        self._end = 0
        self._keys: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._fingerprints: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._rows: NDArray[np.int8] = np.zeros((0, dims), dtype=np.int8)
        self._scales: NDArray[np.float32] = np.zeros(0, dtype=np.float32)
        self._tails: NDArray[np.float32] = np.zeros(0, dtype=np.float32)
        self._seen = bytearray()  # which endings of fingerprints there may be: mostly, a look at it is enough
        self.ram_bytes = 0

    def __len__(self) -> int:
        """How many records are held."""
        return self._end - self._first

    def add(self, key: int, fingerprint: int, vector: NDArray[np.float32] | None) -> None:
        """Hold one more record; the oldest leaves when there are more than `capacity`.

        Args:
            key: the caller's id, greater than all before it.
            fingerprint: what `fingerprint` gave for its text.
            vector: its unit vector; None or zeros where it has none, and it is then never similar to anything.
        """
        if len(self) == self._capacity:
            self._first += 1
        if self._end == len(self._keys):
            self._make_room()
        place = self._end
        self._keys[place] = key
        self._fingerprints[place] = fingerprint
        self._scales[place] = 0
        self._seen[fingerprint & _SEEN_MASK] = 1
        if vector is not None and self._dims and (peak := float(np.abs(vector).max())):
            row = np.rint(vector * np.float32(127 / peak))
            self._rows[place] = row
            rest, whole = row[self._head :], float(np.vecdot(row, row))
            self._scales[place] = 1 / math.sqrt(whole)
            self._tails[place] = math.sqrt(float(np.vecdot(rest, rest)) / whole)
        self._end += 1

    def renew(self, key: int, new_key: int) -> None:
        """Hold a record that is held already as the newest one, under a key greater than all others."""
        place, last = self._place(key), self._end - 1
        for column in self._columns():
            kept = column[place].copy()
            column[place:last] = column[place + 1 : self._end]
            column[last] = kept
        self._keys[last] = new_key

    def forget(self, key: int) -> None:
        """Let go of one record that is held."""
        place = self._place(key)
        self._end -= 1
        for column in self._columns():
            column[place : self._end] = column[place + 1 : self._end + 1]

    def _place(self, key: int) -> int:
        return self._first + int(np.searchsorted(self._keys[self._first : self._end], key))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self._keys, self._fingerprints, self._rows, self._scales, self._tails

    def same(self, fingerprint: int) -> list[int]:
        """The keys with this fingerprint, newest first."""
        if not self._seen or not self._seen[fingerprint & _SEEN_MASK]:
            return []
        found = (self._fingerprints[self._first : self._end] == fingerprint).nonzero()[0]
        return self._keys[found + self._first][::-1].tolist() if found.size else []

    def similar(self, vector: NDArray[np.float32], at_least: float) -> list[tuple[int, float]]:
        """The keys whose cosine is `at_least` (above 0), each with it, rounded to 1e-5: best first, then lower keys first."""
        live, head = slice(self._first, self._end), self._head
        if len(self) <= _FEW_ROWS:
            exact = np.vecdot(self._rows[live].astype(np.float32), vector)
            exact *= self._scales[live]
            return self._found(self._keys[live], exact, at_least)
        # By Cauchy and Schwarz, the rest of two vectors adds at most the product of their lengths.
        reach = np.vecdot(self._rows[live, :head].astype(np.float32), vector[:head])
        reach *= self._scales[live]
        reach += self._tails[live] * np.sqrt(np.vecdot(vector[head:], vector[head:]))
        near = (reach >= at_least - _MARGIN).nonzero()[0]
        if not near.size:
            return []
        # Most often a few rows are near; a low `at_least` lets many through, and then a slice is cheaper than a choice.
        few = 2 * near.size < len(self)
        rows = self._rows[live].take(near, axis=0) if few else self._rows[live]
        cosines = np.vecdot(rows.astype(np.float32), vector)
        cosines *= self._scales[live][near] if few else self._scales[live]
        return self._found(self._keys[live][near] if few else self._keys[live], cosines, at_least)

    @staticmethod
    def _found(keys: NDArray[np.int64], cosines: NDArray[np.float32], at_least: float) -> list[tuple[int, float]]:
        places = (cosines >= at_least - _MARGIN).nonzero()[0]
        if not places.size:
            return []
        pairs = zip(keys[places].tolist(), cosines[places].tolist(), strict=True)
        found = [(key, cosine) for key, exact in pairs if (cosine := round(exact, 5)) >= at_least]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def forget_up_to(self, key: int) -> None:
        """Let go of every record whose key is not above this one."""
        self._first += int(np.searchsorted(self._keys[self._first : self._end], key, side="right"))

    def vectors(self, keys: NDArray[np.int64]) -> Rounded | None:
        """The vectors of some keys, in ascending order; None where one is not held, or where vectors are not."""
        held = self._keys[self._first : self._end]
        places = np.searchsorted(held, keys)
        if not self._dims or not len(keys) or places[-1] >= len(held) or (held[places] != keys).any():
            return None
        places += self._first
        return Rounded(self._rows[places], self._scales[places])

    def _make_room(self) -> None:
        """Move the live rows to the front, of larger arrays where they fill more than half of these."""
        most = self._capacity + max(1, self._capacity // _SLACK)
        rows = len(self._keys)
        if 2 * len(self) > rows:
            rows = min(most, 2 * rows)
        rows = max(rows, min(most, _FIRST_ROWS))
        live = slice(self._first, self._end)
        self._keys = _moved(self._keys, live, rows)
        self._fingerprints = _moved(self._fingerprints, live, rows)
        self._rows = _moved(self._rows, live, rows)
        self._scales = _moved(self._scales, live, rows)
        self._tails = _moved(self._tails, live, rows)
        self._first, self._end = 0, live.stop - live.start
        self._seen = bytearray(_SEEN_MASK + 1)
        for fingerprint in self._fingerprints[: self._end].tolist():
            self._seen[fingerprint & _SEEN_MASK] = 1
        self.ram_bytes = sum(column.nbytes for column in self._columns()) + len(self._seen)


def _moved(column: NDArray[_Kind], live: slice, rows: int) -> NDArray[_Kind]:
    """The live part at the front of an array of so many rows: the same one where that suffices."""
    into = column if len(column) == rows else np.zeros((rows, *column.shape[1:]), dtype=column.dtype)
    into[: live.stop - live.start] = column[live]
    return into
