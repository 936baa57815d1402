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
from troupelab.text.embed import Embedder, Vectors, mean_direction
from troupelab.text.extract import key_sentences

__all__ = ["Consolidation", "Job"]

RECORDS_A_NOTE = 8
"""A note speaks of at most so many records, so that it stays one topic and one line of a prompt."""

FEWEST_A_NOTE = 4
"""What is alike in fewer records is written down with its neighbours: a note's vector alone takes as much as a short record."""

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
        vectors = None if self.embedder is None else self.embedder.embed(texts)
        noted = [
            (note, group)
            for group in (_in_order(range(len(texts))) if vectors is None else _groups(vectors))
            if (note := self._note(group, kept)) is not None
        ]
        before = sum(map(len, texts))
        after = sum(len(sentence) for sentences in kept for sentence in sentences)
        share = after / before if before else 1.0
        rows = _directions(vectors, [group for _, group in noted])
        return Consolidation(tuple(note for note, _ in noted), rows, share, time.perf_counter() - began)

    def verbatim(self) -> Consolidation:
        """Keep every record as a note of its own: what is done when `run` failed, so that nothing is lost."""
        everything = [[record.text] for record in self.records]
        notes = [note for place in range(len(everything)) if (note := self._note([place], everything)) is not None]
        dims = 0 if self.embedder is None else self.embedder.dims
        return Consolidation(tuple(notes), np.zeros((len(notes), dims), dtype=np.float32), 1.0, 0.0)

    def _note(self, group: Sequence[int], kept: Sequence[Sequence[str]]) -> Note | None:
        lines = [
            f"{self.records[place].source or 'It was said'}: {' '.join(kept[place])}" for place in group if kept[place]
        ]
        if not lines:
            return None
        members = [self.records[place] for place in group]
        return Note(members[0].id, members[0].step, members[-1].step, len(members), "\n".join(lines))


def _groups(vectors: Vectors) -> list[list[int]]:
    """Put together what is alike (each leader with its next of kin), and what is alone with its neighbours in time."""
    cosines: Vectors = np.vecdot(vectors[:, np.newaxis], vectors[np.newaxis])
    similar = np.round(cosines, 5) >= SAME_TOPIC
    groups: list[list[int]] = []
    alone: list[int] = []
    free = [True] * len(vectors)
    for leader in range(len(vectors)):
        if free[leader]:
            near = [place for place in np.flatnonzero(similar[leader]).tolist() if free[place] and place > leader]
            group = [leader, *near[: RECORDS_A_NOTE - 1]]
            for place in group:
                free[place] = False
            if len(group) >= FEWEST_A_NOTE:
                groups.append(group)
            else:
                alone += group
    return groups + _in_order(sorted(alone))


def _in_order(places: Sequence[int]) -> list[list[int]]:
    return [list(places[first : first + RECORDS_A_NOTE]) for first in range(0, len(places), RECORDS_A_NOTE)]


def _directions(vectors: Vectors | None, groups: Sequence[Sequence[int]]) -> Vectors:
    """Each note's vector: the direction that its records have in common, which costs no second embedding."""
    if vectors is None or not groups:
        return np.zeros((len(groups), 0 if vectors is None else vectors.shape[1]), dtype=np.float32)
    return np.stack([mean_direction(vectors[list(group)]) for group in groups])
