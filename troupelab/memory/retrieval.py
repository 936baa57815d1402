"""Retrieval: finding the notes and records that fit a text, over the tiers of one memory.

It changes nothing. Owned by one memory, on the engine's loop thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupelab.memory import policy
from troupelab.memory.archive import Archive
from troupelab.memory.record import Note, Record
from troupelab.memory.semantic import Semantic
from troupelab.text.embed import Embedder, mean_direction
from troupelab.text.words import content_words

__all__ = ["Finder", "Found"]

_LEADS = 16
"""So many notes lead to the archived records that `relevant` compares."""


class Found(NamedTuple):
    """Something that `relevant` found: a record or a note, and its score."""

    score: float
    item: Record | Note


class Finder:
    """Looks through a memory's tiers."""

    def __init__(self, semantic: Semantic, archive: Archive | None, embedder: Embedder | None) -> None:
        self._semantic = semantic
        self._archive = archive
        self._embedder = embedder

    def relevant(
        self, text: str, k: int, step: int, records: Sequence[Record], *, notes: bool, archive: bool
    ) -> list[Found]:
        """The `k` best of all notes (where `notes`), of some records, and of the archived ones to which the best notes lead."""
        tier = self._semantic
        fitting = self._notes_like([text]) if len(tier) and (notes or archive) else np.zeros(0, dtype=np.float32)
        if archive:
            records = [*self._led_to(fitting), *records]
        count = len(fitting) if notes else 0
        relevance, last_steps, ids = fitting[:count], tier.last_steps[:count], tier.ids[:count]
        weights = np.ones(count)
        if records:
            relevance = np.concatenate([relevance, self._texts_like([text], [record.text for record in records])])
            last_steps = np.concatenate([last_steps, [float(record.step) for record in records]])
            weights = np.concatenate([weights, [policy.importance(record.kind) for record in records]])
            ids = np.concatenate([ids, np.array([record.id for record in records], dtype=np.int64)])
        scores = policy.scores(relevance, step - last_steps, weights)
        return [
            Found(float(scores[place]), tier.note(place) if place < count else records[place - count])
            for place in policy.best(scores, ids, k)
        ]

    def recall(self, texts: Sequence[str], k: int, step: int) -> list[Note]:
        """The `k` notes that fit some texts best, oldest first; without an embedder or a text the newest."""
        tier = self._semantic
        if self._embedder is None or not texts:
            return tier.notes[-k:]
        if not len(tier):
            return []
        scores = policy.scores(self._notes_like(texts), step - tier.last_steps, 1.0)
        return [tier.note(place) for place in sorted(policy.best(scores, tier.ids, k))]

    def _led_to(self, fitting: NDArray[np.float32]) -> list[Record]:
        """The archived records of the steps that the best notes speak of."""
        if self._archive is None or not len(fitting):
            return []
        led: dict[int, Record] = {}
        for place in policy.best(fitting.astype(np.float64).round(5), self._semantic.ids, _LEADS):
            note = self._semantic.note(place)
            led.update((record.id, record) for record in self._archive.between(note.first_step, note.last_step))
        return [led[id_] for id_ in sorted(led)]

    def _notes_like(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._embedder is None:
            return self._texts_like(texts, [note.text for note in self._semantic.notes])
        return self._semantic.similarity(mean_direction(self._embedder.embed(texts)))

    def _texts_like(self, texts: Sequence[str], others: Sequence[str]) -> NDArray[np.float32]:
        if self._embedder is not None:
            wanted = mean_direction(self._embedder.embed(texts))
            cosines: NDArray[np.float32] = np.vecdot(self._embedder.embed(others), wanted)
            return cosines
        words = {word for text in texts for word in content_words(text)}
        shares = [len(words.intersection(content_words(other))) / max(1, len(words)) for other in others]
        return np.array(shares, dtype=np.float32)
