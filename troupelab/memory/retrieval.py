"""Retrieval: finding the notes and records that fit a text, over the tiers of one memory.

What fits has a vector near the text's, or words of it, above all rare ones: vectors know what is alike, words tell names and
numbers apart. All notes are compared by both, without their texts.

It changes nothing. Owned by one memory, on the engine's loop thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from troupelab.ids import step_of
from troupelab.memory import policy
from troupelab.memory.archive import Archive
from troupelab.memory.record import Note, Record
from troupelab.memory.semantic import Semantic
from troupelab.text.embed import Vectors, mean_direction
from troupelab.text.sketch import bits_of, having, sketches

__all__ = ["Finder", "Found", "Looks"]

Embed: TypeAlias = Callable[[Sequence[str]], Vectors | None]
"""Gives vectors, or none where they cannot be had: then words alone are compared."""

_LEADS = 16
"""So many notes lead to the archived records that `relevant` compares."""


class Found(NamedTuple):
    """Something that `relevant` found: a record or a note, and its score."""

    score: float
    item: Record | Note


class _Question(NamedTuple):
    """What is looked for: a direction (where there is an embedder), and the bits of its words with how much each counts."""

    vector: NDArray[np.float32] | None
    bits: NDArray[np.intp]
    rarity: NDArray[np.float64]


class Looks:
    """What records are compared by: sketches and vectors of their texts, each made once for several questions in a row.

    Args:
        embed: gives vectors; None where words alone are compared.
    """

    def __init__(self, embed: Embed | None) -> None:
        self._embed = embed
        self._places: dict[int, int] = {}
        self._words = sketches([])
        self._vectors: Vectors | None = None

    def of(self, records: Sequence[Record], *, vectors: bool) -> tuple[NDArray[np.uint8], Vectors | None]:
        """Sketches of some records, with the names of who said them as in a note, and (where asked for and to be had) their vectors."""
        places = self._places
        if new := [record for record in records if record.id not in places]:
            words = sketches([record.text for record in new], again=True)
            names = {record.source: 0 for record in new}
            names.update(zip(names, range(len(names)), strict=True))
            words = words | sketches(list(names), again=True)[[names[record.source] for record in new]]
            found = self._embed([record.text for record in new]) if self._embed is not None and vectors else None
            if not places:
                self._words, self._vectors = words, found
            else:
                self._words = np.concatenate([self._words, words])
                lacks = self._vectors is None or found is None
                self._vectors = None if lacks else np.concatenate([self._vectors, found])
            places.update(zip((record.id for record in new), range(len(places), len(places) + len(new)), strict=True))
        rows = np.array([places[record.id] for record in records], dtype=np.intp)
        return self._words[rows], None if self._vectors is None else self._vectors[rows]


class Finder:
    """Looks through a memory's tiers."""

    def __init__(self, semantic: Semantic, archive: Archive | None, embed: Embed | None) -> None:
        self._semantic = semantic
        self._archive = archive
        self._embed = embed

    def looks(self) -> Looks:
        """For several questions while nothing changes."""
        return Looks(self._embed)

    def relevant(
        self,
        text: str,
        k: int,
        step: int,
        records: Sequence[Record],
        *,
        notes: bool,
        archive: bool,
        looks: Looks | None = None,
    ) -> list[Found]:
        """The `k` best of all notes (where `notes`), of some records, and of the archived ones to which the best notes lead.

        `looks` is given by whoever asks several times while nothing changes.
        """
        tier = self._semantic
        question, fitting = self._notes_like([text])
        if archive:
            records = [*self._led_to(fitting), *records]
        count = len(fitting) if notes else 0
        relevance, last_steps, ids = fitting[:count], tier.last_steps[:count], tier.ids[:count]
        weights = np.ones(count)
        if records:
            relevance = np.concatenate([relevance, self._records_like(question, records, looks or Looks(self._embed))])
            own_ids = np.array([record.id for record in records], dtype=np.int64)
            last_steps = np.concatenate([last_steps, step_of(own_ids)])
            weights = np.concatenate([weights, policy.importances([record.kind for record in records])])
            ids = np.concatenate([ids, own_ids])
        scores = policy.scores(relevance, step - last_steps, weights)
        return [
            Found(float(scores[place]), tier.note(place) if place < count else records[place - count])
            for place in policy.best(scores, ids, k)
        ]

    def recall(self, texts: Sequence[str], k: int, step: int) -> list[Note]:
        """The `k` notes that fit some texts best, oldest first; without an embedder or a text the newest."""
        tier = self._semantic
        if self._embed is None or not texts:
            return tier.notes[-k:]
        if not len(tier):
            return []
        _, fitting = self._notes_like(texts)
        scores = policy.scores(fitting, step - tier.last_steps, 1.0)
        return [tier.note(place) for place in sorted(policy.best(scores, tier.ids, k))]

    def _led_to(self, fitting: NDArray[np.float32]) -> list[Record]:
        """The archived records of the steps that the best notes speak of."""
        if self._archive is None or not len(fitting):
            return []
        places = policy.best(fitting.astype(np.float64).round(5), self._semantic.ids, _LEADS)
        spans = _joined((note.first_step, note.last_step) for note in map(self._semantic.note, places))
        led = {record.id: record for first, last in spans for record in self._archive.between(first, last)}
        return [led[id_] for id_ in sorted(led)]

    def _notes_like(self, texts: Sequence[str]) -> tuple[_Question, NDArray[np.float32]]:
        """What some texts ask for, and how well each note fits it."""
        bits = bits_of(texts)
        has = self._semantic.having(bits)
        rarity = policy.rarity(np.bitwise_count(np.packbits(has, axis=1)).sum(axis=1), has.shape[1])
        vectors = None if self._embed is None else self._embed(texts)
        vector = None if vectors is None else mean_direction(vectors)
        cosines = None if vector is None else self._semantic.similarity(vector)
        return _Question(vector, bits, rarity), policy.relevance(cosines, policy.overlap(has, rarity))

    def _records_like(self, question: _Question, records: Sequence[Record], looks: Looks) -> NDArray[np.float32]:
        """How well each record fits: by its text's vector, and by its words, with the name of who said it as in a note."""
        words, vectors = looks.of(records, vectors=question.vector is not None)
        overlaps = policy.overlap(having(words.T[question.bits // 8], question.bits), question.rarity)
        cosines = None if vectors is None or question.vector is None else np.vecdot(vectors, question.vector)
        return policy.relevance(cosines, overlaps)


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of steps, those that touch each other put together, so that what they cover is looked at once.

    >>> _joined([(7, 9), (0, 3), (2, 5)])
    [(0, 5), (7, 9)]
    """
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined
