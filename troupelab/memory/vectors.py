"""Vectors in 8 bits, each with a few bytes more behind it: rows in RAM, and older rows in a memory-mapped scratch file.

The file is a cache of what the store holds anyway: it is made anew by each process, and never read after a crash. Rows are
written as to any file, so that a full disk raises and does not kill the process, and mapped for reading only. Owned by one
semantic tier, on the engine's loop thread.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troupelab.text.embed import Vectors

__all__ = ["Rows", "quantise"]

_LEVELS = 127.0
_CHUNK_ROWS = 256
"""Rows turned into single precision at once: 256 kB, which stay in the processor's cache."""


def quantise(vectors: Vectors) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows of 8-bit numbers and a scale each: a quarter of single precision, and a cosine moves by less than 0.01."""
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / _LEVELS).astype(np.float32)
    scales[scales == 0] = 1.0
    return np.rint(vectors / scales[:, np.newaxis]).astype(np.int8), scales


class Rows:
    """A growing matrix of 8-bit rows, oldest first; the first `mapped` of them lie in a file.

    Args:
        dims: the length of a row's vector, which comes first.
        more: how many bytes are in a row behind the vector.
        file: where rows go that leave RAM; None where there is no such place.
    """

    def __init__(self, dims: int, more: int, file: Path | None) -> None:
        self._dims = dims
        self._width = dims + more
        self._file = file
        self._map: NDArray[np.int8] = np.empty((0, self._width), dtype=np.int8)
        self._room = np.empty((0, self._width), dtype=np.int8)
        self._in_room = 0
        self._file_rows = 0
        self._hot: tuple[NDArray[np.float32], NDArray[np.int8]] | None = None

    def __len__(self) -> int:
        return len(self._map) + self._in_room

    @property
    def mapped(self) -> int:
        """How many rows lie in the file."""
        return len(self._map)

    @property
    def warmed(self) -> int:
        """How many rows have a copy that is faster to search."""
        return 0 if self._hot is None else len(self._hot[0])

    @property
    def ram_bytes(self) -> int:
        """What the rows take in RAM."""
        return int(self._room.nbytes) + self.hot_bytes

    @property
    def hot_bytes(self) -> int:
        """What the faster copy takes, which a search of many rows makes for the next one."""
        return 0 if self._hot is None else int(self._hot[0].nbytes + self._hot[1].nbytes)

    @property
    def movable_bytes(self) -> int:
        """What `to_file` would free."""
        return int(self._room.nbytes) if self._file is not None else 0

    def append(self, rows: NDArray[np.int8]) -> None:
        """Add rows at the end."""
        needed = self._in_room + len(rows)
        if needed > len(self._room):
            # Half as much again: adding stays linear over all rows, and at most a third of them is spare.
            grown = np.empty((needed + needed // 2, self._width), dtype=np.int8)
            grown[: self._in_room] = self._room[: self._in_room]
            self._room = grown
        self._room[self._in_room : needed] = rows
        self._in_room = needed

    def drop_first(self, count: int) -> None:
        """Remove the oldest rows."""
        in_file = min(count, len(self._map))
        self._map = self._map[in_file:]
        self._room = self._room[count - in_file :]
        self._in_room -= count - in_file
        self._hot = None

    def newest(self, count: int) -> NDArray[np.int8]:
        """The newest rows, shape (count, dims + more)."""
        if count <= self._in_room:
            return self._room[self._in_room - count : self._in_room].copy()
        return self.all()[len(self) - count :]

    def all(self) -> NDArray[np.int8]:
        """All rows, shape (rows, dims + more)."""
        return np.concatenate([self._map, self._room[: self._in_room]])

    def replace(self, rows: NDArray[np.int8]) -> None:
        """Hold these rows and no others; all of them are in RAM then."""
        self._room, self._in_room = rows, len(rows)
        self._map, self._file_rows, self._hot = self._map[:0], 0, None

    def dot(self, vector: NDArray[Any]) -> NDArray[np.float32]:
        """The product of every row's vector with a vector, shape (rows,), in single precision.

        Row by row, not as one matrix product: that would wake all of BLAS's threads, which then spin beside the event loop.
        A row's product does not depend on where the row lies.
        """
        result = np.empty(len(self), dtype=np.float32)
        done = 0
        if self._hot is not None:
            done = len(self._hot[0])
            np.vecdot(self._hot[0], vector, out=result[:done])
        buffer = np.empty((_CHUNK_ROWS, self._dims), dtype=np.float32)
        for part, first in ((self._map, 0), (self._room[: self._in_room], len(self._map))):
            for start in range(max(0, done - first), len(part), _CHUNK_ROWS):
                chunk = part[start : start + _CHUNK_ROWS, : self._dims]
                into = buffer[: len(chunk)]
                np.copyto(into, chunk)
                np.vecdot(into, vector, out=result[first + start : first + start + len(chunk)])
        return result

    def columns(self, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Some of the bytes behind the vector (0: the first one) in every row, shape (places, rows)."""
        result = np.empty((len(places), len(self)), dtype=np.int8)
        done = 0
        if self._hot is not None:
            done = len(self._hot[0])
            np.take(self._hot[1], places, axis=0, out=result[:, :done])
        for part, first in ((self._map, 0), (self._room[: self._in_room], len(self._map))):
            if done < first + len(part):
                start = max(0, done - first)
                result[:, first + start : first + len(part)] = part[start:, self._dims :].T[places]
        return result.view(np.uint8)

    def warm(self) -> None:
        """Keep a copy with vectors in single precision and the bytes behind them turned into lines, one for each column.

        It makes a search several times faster and takes four times the room.
        """
        rows = self.all()
        self._hot = rows[:, : self._dims].astype(np.float32), np.ascontiguousarray(rows[:, self._dims :].T)

    def cool(self) -> int:
        """Drop the faster copy; returns the bytes freed."""
        freed = self.hot_bytes
        self._hot = None
        return freed

    def to_file(self) -> int:
        """Move the rows in RAM to the file; returns the bytes freed, 0 where there is no file to move them to.

        Raises:
            OSError: the disk is full; all rows are then still in RAM.
        """
        if self._file is None or not len(self._room):
            return 0
        # A file of mostly dropped rows is begun anew, by another file of that name: the old one stays while it is mapped.
        anew = self._file_rows == 0 or self._file_rows > 2 * len(self._map)
        rows = (self._map.tobytes() if anew else b"") + self._room[: self._in_room].tobytes()
        start = 0 if anew else self._file_rows
        live, freed = len(self), int(self._room.nbytes)
        mapped = _append(self._file, rows, start * self._width, anew)
        self._file_rows = start + len(rows) // self._width
        self._map = np.frombuffer(mapped, dtype=np.int8).reshape(-1, self._width)[self._file_rows - live :]
        self._room, self._in_room = self._room[:0].copy(), 0
        return freed


def _append(file: Path, rows: bytes, at: int, anew: bool) -> mmap.mmap:
    """Write rows at an offset of a file, and map all of it."""
    if anew:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
    with file.open("xb+" if anew else "rb+", buffering=0) as handle:
        handle.seek(at)
        left = memoryview(rows)
        while left:
            left = left[handle.write(left) :]
        return mmap.mmap(handle.fileno(), at + len(rows), access=mmap.ACCESS_READ)
