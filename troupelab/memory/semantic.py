"""The semantic tier: notes with their vectors, searched exactly.

Owned by one memory, on the engine's loop thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troupelab.memory.record import Note
from troupelab.text.embed import Vectors

__all__ = ["Semantic"]


_LEVELS = 127.0


class Semantic:
    """Notes, oldest first, and a matrix with one row a note (no columns where there is no embedder).

    Rows are kept as 8-bit numbers with a scale each, which costs a quarter of single precision and moves a cosine by less
    than 0.01; all arithmetic is in single precision.
    """

    def __init__(self, dims: int) -> None:
        self._notes: list[Note] = []
        self._room = np.empty((0, dims), dtype=np.int8)
        self._scales = np.empty(0, dtype=np.float32)
        self._last_steps = np.empty(0)
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._notes)

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes)

    @property
    def notes(self) -> Sequence[Note]:
        """All notes, oldest first; not to be changed."""
        return self._notes

    @property
    def last_steps(self) -> NDArray[np.float64]:
        """The last step that each note speaks of, shape (notes,)."""
        return self._last_steps

    def add(self, notes: Sequence[Note], vectors: Vectors) -> None:
        """Add notes with their vectors, one row each."""
        count = len(self._notes)
        needed = count + len(notes)
        if needed > len(self._room):
            # Half as much again: adding stays linear over all notes, and at most a third of the rows is spare.
            grown = np.empty((needed + needed // 2, self._room.shape[1]), dtype=np.int8)
            grown[:count] = self._room[:count]
            self._room = grown
        scales = (np.abs(vectors).max(axis=1, initial=0.0) / _LEVELS).astype(np.float32)
        scales[scales == 0] = 1.0
        self._room[count:needed] = np.rint(vectors / scales[:, np.newaxis]).astype(np.int8)
        self._scales = np.append(self._scales, scales)
        self._notes.extend(notes)
        self._last_steps = np.append(self._last_steps, [float(note.last_step) for note in notes])
        self.bytes += sum(note.size_bytes(vector) for note, vector in zip(notes, self._room[count:needed], strict=True))

    def drop(self, places: Sequence[int]) -> int:
        """Remove the notes at these places; returns the bytes that they took."""
        vectors = self._room[: len(self._notes)]
        freed = sum(self._notes[place].size_bytes(vectors[place]) for place in places)
        gone = set(places)
        keep = [place for place in range(len(self._notes)) if place not in gone]
        self._room = vectors[keep]
        self._scales = self._scales[keep]
        self._last_steps = self._last_steps[keep]
        self._notes = [self._notes[place] for place in keep]
        self.bytes -= freed
        return freed

    def similarity(self, vector: NDArray[Any]) -> NDArray[np.float32]:
        """The cosine of every note with a unit vector, shape (notes,).

        Row by row, not as one matrix product: that would wake all of BLAS's threads, which then spin beside the event loop.
        """
        result: NDArray[np.float32] = np.vecdot(self._room[: len(self._notes)].astype(np.float32), vector)
        return result * self._scales
