"""Consolidation: old records become notes.

A `Job` is an immutable snapshot of the records to condense, taken on the loop thread; `run` is pure and may be called
on any thread; the `Consolidation` that comes out is admitted to the memory on the loop thread, at a fixed step.

The notes are extractive: records are grouped (by similarity where there is an embedder, else in their order), the key
sentences of all are chosen together, and each group's sentences are written down as one note, with who said them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from troupelab.memory import policy
from troupelab.memory.record import Note, Record
from troupelab.text.embed import Embedder, Vectors, mean_direction, same_topic
from troupelab.text.extract import key_sentences
from troupelab.text.ring import Rounded
from troupelab.text.words import analyse

__all__ = ["Consolidation", "Job"]

RECORDS_A_NOTE = 8
"""A note speaks of at most so many records, so that it stays one topic and one line of a prompt."""

FEWEST_A_NOTE = 4
"""What is alike in fewer records is written down with its neighbours: a note's vector alone takes as much as a short record."""

MAX_NOTE_CHARS = 8_000
"""A note of more text is cut into several, so that none fills a prompt."""


@dataclass(frozen=True, slots=True)
class Consolidation:
    """What a job made: notes with their vectors (one row each), and the share of the characters that they keep."""

    notes: tuple[Note, ...]
    vectors: Vectors
    kept_fraction: float
    seconds: float
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """Records on their way from the recent tier to notes; `bytes` is what they took there."""

    step: int
    reason: str
    records: tuple[Record, ...]
    bytes: int
    retain_fraction: float
    embedder: Embedder | None
    notes: bool = True
    vectors: Rounded | None = None

    @property
    def embeds(self) -> bool:
        """Whether `run` asks the embedder for vectors."""
        return self.notes and self.vectors is None and self.embedder is not None

    @property
    def ram_bytes(self) -> int:
        """What the job takes in RAM while it waits."""
        return self.bytes + (0 if self.vectors is None else int(self.vectors.rows.nbytes))

    def run(self) -> Consolidation:
        """Write the notes; pure, so that it can run beside the event loop."""
        began = time.perf_counter()
        if not self.notes:
            return Consolidation((), _directions(None, []), math.nan, 0.0)  # nothing was condensed
        texts = [record.text for record in self.records]
        kept = key_sentences(texts, self.retain_fraction, [record.source for record in self.records])
        pinned = [place for place, record in enumerate(self.records) if record.kind in policy.PINNED]
        for place in pinned:
            kept[place] = [texts[place]]
        free = [place for place in range(len(texts)) if place not in set(pinned)]
        vectors = None
        if self.vectors is not None:
            vectors = self.vectors.unit()
        elif self.embedder is not None:
            vectors = Rounded.of(self.embedder.embed(texts)).unit()  # the same numbers, wherever they come from
        groups = (
            _in_order(free)
            if vectors is None or self.embedder is None
            else _groups(vectors, free, same_topic(self.embedder))
        )
        noted = [
            (note, group) for group in [*groups, *([place] for place in pinned)] for note in self._notes(group, kept)
        ]
        before = sum(map(len, texts))
        after = sum(len(sentence) for sentences in kept for sentence in sentences)
        share = after / before if before else 1.0
        rows = _directions(vectors, [group for _, group in noted])
        return Consolidation(tuple(note for note, _ in noted), rows, share, time.perf_counter() - began)

    def written(self, lines: Sequence[str], tokens: int, seconds: float) -> Consolidation:
        """Take what somebody else (a model) wrote about the records, one note a line.

        What it left out of the numbers and names, and all that is pinned, is added from the records, so that no fact is lost.
        """
        texts = [record.text for record in self.records]
        claimed = {fact for line in lines for sentence in analyse(line) for fact in sentence.facts}
        missing = [
            [sentence.text for sentence in analyse(text) if not claimed.issuperset(sentence.facts)] for text in texts
        ]
        for place, record in enumerate(self.records):
            if record.kind in policy.PINNED:
                missing[place] = [record.text]
        first, last = self.records[0], self.records[-1]
        told = [Note(first.id, first.first_step, last.step, len(texts), line) for line in lines]
        rest = [note for group in _in_order(range(len(texts))) for note in self._notes(group, missing)]
        notes = (*told, *rest)
        dims = 0 if self.embedder is None else self.embedder.dims
        vectors = np.zeros((len(notes), dims), dtype=np.float32)
        if self.embedder is not None and notes:
            vectors = self.embedder.embed([note.text for note in notes])
        share = sum(len(note.text) for note in notes) / max(1, sum(map(len, texts)))
        return Consolidation(notes, vectors, share, seconds, tokens)

    def verbatim(self) -> Consolidation:
        """Keep every record as a note of its own: what is done when `run` failed, so that nothing is lost."""
        everything = [[record.text] for record in self.records]
        notes = [note for place in range(len(everything)) for note in self._notes([place], everything)]
        dims = 0 if self.embedder is None else self.embedder.dims
        return Consolidation(tuple(notes), np.zeros((len(notes), dims), dtype=np.float32), 1.0, 0.0)

    def _notes(self, group: Sequence[int], kept: Sequence[Sequence[str]]) -> list[Note]:
        """What is kept of a group of records as one note, or as several where that would be too long."""
        lines = [
            f"{self.records[place].source or 'It was said'}: {' '.join(kept[place])}" for place in group if kept[place]
        ]
        members = [self.records[place] for place in group]
        pinned = members[0].kind in policy.PINNED
        first_step = min(record.first_step for record in members)
        return [
            Note(members[0].id, first_step, members[-1].step, len(members), text, pinned)
            for text in _cut("\n".join(lines))
        ]


def _cut(text: str) -> list[str]:
    """A text in pieces of at most `MAX_NOTE_CHARS`, cut at a space where there is one; none of nothing."""
    pieces = []
    while len(text) > MAX_NOTE_CHARS:
        end = max(text.rfind(" ", 0, MAX_NOTE_CHARS), text.rfind("\n", 0, MAX_NOTE_CHARS))
        end = end if end > 0 else MAX_NOTE_CHARS
        pieces.append(text[:end])
        text = text[end:].lstrip()
    return [*pieces, text] if text else pieces


def _groups(vectors: Vectors, places: Sequence[int], alike: float) -> list[list[int]]:
    """Put together what is alike (each leader with its next of kin), and what is alone with its neighbours in time."""
    cosines: Vectors = np.vecdot(vectors[:, np.newaxis], vectors[np.newaxis])
    similar = np.round(cosines, 5) >= alike
    groups: list[list[int]] = []
    alone: list[int] = []
    free = [False] * len(vectors)
    for place in places:
        free[place] = True
    for leader in places:
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
