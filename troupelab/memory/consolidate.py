"""Consolidation: old records become notes.

A `Job` is an immutable snapshot of the records to condense, taken on the loop thread; `run` is pure and may be called
on any thread; the `Consolidation` that comes out is admitted to the memory on the loop thread, at a fixed step.

The notes are extractive: records are grouped (by similarity where there is an embedder, else in their order), the key
sentences of all are chosen together, and each group's sentences are written down as one note, with who said them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from troupelab.memory.record import Note, Record
from troupelab.text.embed import Embedder, Vectors
from troupelab.text.extract import key_sentences

__all__ = ["Consolidation", "Job"]

RECORDS_A_NOTE = 8
"""A note speaks of at most so many records, so that it stays one topic and one line of a prompt."""

SAME_TOPIC = 0.35
"""The cosine from which on two records share a note: for hashed words, about a third of the content words in common."""


@dataclass(frozen=True, slots=True)
class Consolidation:
    """What a job made: notes with their vectors (one row each), and the share of the characters that they keep."""

    notes: tuple[Note, ...]
    vectors: Vectors
    kept_fraction: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """Records on their way from the recent tier to notes; `bytes` is what they took there."""

    step: int
    reason: str
    records: tuple[Record, ...]
    bytes: int
    retain_fraction: float
    embedder: Embedder | None

    def run(self) -> Consolidation:
        """Write the notes; pure, so that it can run beside the event loop."""
        began = time.perf_counter()
        texts = [record.text for record in self.records]
        kept = key_sentences(texts, self.retain_fraction, [record.source for record in self.records])
        notes = [note for group in self._groups(texts) if (note := self._note(group, kept)) is not None]
        vectors = _vectors([note.text for note in notes], self.embedder)
        before = sum(map(len, texts))
        after = sum(len(sentence) for sentences in kept for sentence in sentences)
        share = after / before if before else 1.0
        return Consolidation(tuple(notes), vectors, share, time.perf_counter() - began)

    def verbatim(self) -> Consolidation:
        """Keep every record as a note of its own: what is done when `run` failed, so that nothing is lost."""
        everything = [[record.text] for record in self.records]
        notes = [note for place in range(len(everything)) if (note := self._note([place], everything)) is not None]
        dims = 0 if self.embedder is None else self.embedder.dims
        return Consolidation(tuple(notes), np.zeros((len(notes), dims), dtype=np.float32), 1.0, 0.0)

    def _groups(self, texts: Sequence[str]) -> list[list[int]]:
        if self.embedder is None:
            return [
                list(range(first, min(first + RECORDS_A_NOTE, len(texts))))
                for first in range(0, len(texts), RECORDS_A_NOTE)
            ]
        vectors = _vectors(texts, self.embedder)
        cosines: Vectors = np.vecdot(vectors[:, np.newaxis], vectors[np.newaxis])
        similar = np.round(cosines, 5) >= SAME_TOPIC
        groups: list[list[int]] = []
        free = [True] * len(texts)
        for leader in range(len(texts)):
            if free[leader]:
                near = [place for place in np.flatnonzero(similar[leader]).tolist() if free[place] and place > leader]
                group = [leader, *near[: RECORDS_A_NOTE - 1]]
                for place in group:
                    free[place] = False
                groups.append(group)
        return groups

    def _note(self, group: Sequence[int], kept: Sequence[Sequence[str]]) -> Note | None:
        lines = [
            f"{self.records[place].source or 'It was said'}: {' '.join(kept[place])}" for place in group if kept[place]
        ]
        if not lines:
            return None
        members = [self.records[place] for place in group]
        return Note(members[0].id, members[0].step, members[-1].step, len(members), "\n".join(lines))


def _vectors(texts: Sequence[str], embedder: Embedder | None) -> Vectors:
    return np.zeros((len(texts), 0), dtype=np.float32) if embedder is None else embedder.embed(texts)
