"""An agent's memory: one object with the tiers behind it, synchronous and bounded.

It belongs to the engine's loop thread. Consolidation is the one thing that may happen elsewhere: the memory hands out jobs
(`take_jobs`), whoever owns the memory runs them where it likes, and brings the results back (`admit`). Until then the
records of a job still count and can still be found. `settle` does all of it in place, for use without an engine.

Invariants: after any call returns no cap is exceeded; what was stored is in one tier, or in a note, or was dropped by a rule
that an event names; the same calls give the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupelab.events import Consolidated, Emit, Event, Evicted, MemorySized
from troupelab.limits import Limits
from troupelab.memory import policy
from troupelab.memory.consolidate import Consolidation, Job
from troupelab.memory.recent import Recent
from troupelab.memory.record import Note, Record
from troupelab.memory.semantic import Semantic
from troupelab.text.embed import Embedder, mean_direction
from troupelab.text.words import content_words

__all__ = ["Found", "Memory"]


class Found(NamedTuple):
    """Something that `relevant` found: a record or a note, and its score."""

    score: float
    item: Record | Note


def _nobody(event: Event) -> None:
    """Where events go when nobody asked for them."""


class Memory:
    """What one agent remembers.

    Args:
        agent: the agent's index, for events.
        limits: the limits to begin with; `begin` brings those of each step.
        embedder: for `relevant` and for grouping notes by topic; None compares words instead.
        emit: is told each consolidation and each drop.
        clock: seconds since the run's start, for the events' `at_s`.

    >>> from troupelab.ids import make_id
    >>> memory = Memory(0, Limits(recent_max_records=4))
    >>> memory.store(Record(make_id(0, n, 0), "CONVERSATION", "Elif", f"Page {n} has {n} errors.", 0) for n in range(6))
    >>> memory.settle()
    >>> [record.step for record in memory.recent(10)], memory.notes[0].text.splitlines()
    ([3, 4, 5], ['Elif: Page 0 has 0 errors.', 'Elif: Page 1 has 1 errors.', 'Elif: Page 2 has 2 errors.'])
    """

    def __init__(
        self,
        agent: int,
        limits: Limits,
        *,
        embedder: Embedder | None = None,
        emit: Emit = _nobody,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._agent = agent
        self._limits = limits
        self._embedder = embedder
        self._emit = emit
        self._clock = clock
        self._step = 0
        self._recent = Recent()
        self._semantic = Semantic(0 if embedder is None else embedder.dims)
        self._jobs: list[Job] = []
        self._out: list[Job] = []
        self.stored = 0
        """How many records were ever stored."""

    @property
    def notes(self) -> Sequence[Note]:
        """All notes, oldest first."""
        return self._semantic.notes

    def begin(self, step: int, limits: Limits) -> None:
        """Begin a step under its limits; a lowered cap is obeyed when this returns."""
        self._step = step
        if limits is not self._limits:
            self._limits = limits
            self._condense("limit lowered")
            self._drop_notes()

    def store(self, records: Iterable[Record]) -> None:
        """Remember records, in their order; the oldest go to consolidation when they pass the high water."""
        for record in records:
            self._recent.append(record)
            self.stored += 1
            self._condense("high water")

    def take_jobs(self) -> list[Job]:
        """The consolidations that have become due since the last call; each must come back through `admit`."""
        jobs, self._jobs = self._jobs, []
        self._out += jobs
        return jobs

    def admit(self, job: Job, made: Consolidation) -> None:
        """Take in what a job made: its records are now only in the notes."""
        self._out.remove(job)
        before = self._semantic.bytes
        self._semantic.add(made.notes, made.vectors)
        self._emit(
            Consolidated(
                self._clock(), job.step, self._agent, job.reason, len(job.records), len(made.notes),
                job.bytes, self._semantic.bytes - before, made.kept_fraction, made.seconds, 0,
            )
        )  # fmt: skip
        self._drop_notes()

    def settle(self) -> None:
        """Run and admit every consolidation that is due, here and now."""
        for job in self.take_jobs():
            self.admit(job, job.run())

    def recent(self, n: int) -> list[Record]:
        """The newest `n` records that are still word for word in the recent tier, oldest of them first."""
        return self._recent.newest(n)

    def last(self, kind: str) -> Record | None:
        """The newest record of a kind (TALK, CONVERSATION, …) or role (`action`, `stimulus`); None where there is none."""
        for record in self._recent.newest_first():
            if kind in (record.kind, record.role):
                return record
        return None

    def between(self, start: int, end: int) -> list[Record]:
        """The records from step `start` up to and with step `end`, oldest first."""
        waiting = [record for job in (*self._out, *self._jobs) for record in job.records]
        return [record for record in (*waiting, *self._recent) if start <= record.step <= end]

    def relevant(self, text: str, k: int = 5, *, tiers: Sequence[str] = ("notes", "records")) -> list[Found]:
        """The `k` notes and records that fit a text best: relevance x recency x importance, best first.

        Args:
            text: what to look for; a text without content words finds nothing.
            k: how many to return at most.
            tiers: `notes`, `records` or both. Records are compared on demand, so notes alone are much cheaper.
        """
        items: list[Record | Note] = []
        steps: list[NDArray[np.float64]] = []
        weights: list[NDArray[np.float64]] = []
        relevance: list[NDArray[np.float32]] = []
        if "notes" in tiers and len(self._semantic):
            items += self._semantic.notes
            steps.append(self._semantic.last_steps)
            weights.append(np.ones(len(self._semantic)))
            relevance.append(self._note_relevance([text]))
        if "records" in tiers and (records := self.between(0, self._step)):
            items += records
            steps.append(np.array([float(record.step) for record in records]))
            weights.append(np.array([policy.importance(record.kind) for record in records]))
            relevance.append(self._text_relevance([text], [record.text for record in records]))
        if not items:
            return []
        scores = policy.scores(np.concatenate(relevance), self._step - np.concatenate(steps), np.concatenate(weights))
        return [Found(float(scores[place]), items[place]) for place in policy.best(scores, items, k)]

    def recall(self, texts: Sequence[str], k: int) -> list[Note]:
        """The notes for a prompt, oldest first: the `k` that fit some texts best, or without an embedder the newest."""
        notes = self._semantic.notes
        if self._embedder is None or not texts:
            return list(notes[-k:])
        if not notes:
            return []
        ages = self._step - self._semantic.last_steps
        scores = policy.scores(self._note_relevance(texts), ages, np.ones(len(notes)))
        return sorted((notes[place] for place in policy.best(scores, notes, k)), key=lambda note: note.id)

    def size(self) -> MemorySized:
        """What the memory holds now; records on their way to notes count as recent bytes no more, but in the total."""
        waiting = sum(job.bytes for job in (*self._out, *self._jobs))
        total = self._recent.bytes + waiting + self._semantic.bytes
        return MemorySized(
            self._clock(), self._step, self._agent, len(self._recent), self._recent.bytes, 0, 0,
            len(self._semantic), self._semantic.bytes, total,
        )  # fmt: skip

    def _note_relevance(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._embedder is None:
            return self._text_relevance(texts, [note.text for note in self._semantic])
        return self._semantic.similarity(mean_direction(self._embedder.embed(texts)))

    def _text_relevance(self, texts: Sequence[str], others: Sequence[str]) -> NDArray[np.float32]:
        if self._embedder is not None:
            cosines: NDArray[np.float32] = np.vecdot(
                self._embedder.embed(others), mean_direction(self._embedder.embed(texts))
            )
            return cosines
        wanted = {word for text in texts for word in content_words(text)}
        shares = [len(wanted.intersection(content_words(other))) / max(1, len(wanted)) for other in others]
        return np.array(shares, dtype=np.float32)

    def _condense(self, reason: str) -> None:
        if policy.over_high_water(len(self._recent), self._recent.bytes, self._limits):
            held = self._recent.bytes
            taken = self._recent.take_oldest(*policy.low_water(self._limits))
            retain = self._limits.retain_fraction
            self._jobs.append(Job(self._step, reason, tuple(taken), held - self._recent.bytes, retain, self._embedder))

    def _drop_notes(self) -> None:
        cap = self._limits.semantic_max_notes
        if cap is not None and len(self._semantic) > cap:
            # The oldest note goes first: without a question to compare with, age is all that tells notes apart.
            over = len(self._semantic) - cap
            freed = self._semantic.drop(range(over))
            self._emit(Evicted(self._clock(), self._step, self._agent, "semantic_max_notes", over, freed))
