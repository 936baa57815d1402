"""An agent's memory: one object with the tiers behind it, synchronous and bounded.

It belongs to the engine's loop thread. Consolidation is the one thing that may happen elsewhere: the memory hands out jobs
(`take_jobs`), whoever owns the memory runs them where it likes, and brings the results back (`admit`). Until then the
records of a job still count and can still be found. `settle` does all of it in place, for use without an engine.

A record is in the recent tier until it is condensed; then it is in the archive, word for word, where there is one, and notes
speak of it. Past `max_age_steps` it lives on only in the notes. Invariants: after any call returns no cap is exceeded; what was
stored is in one tier, or was merged, condensed or dropped by a rule that an event names; the same calls give the same memory,
wherever its parts happen to lie.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from troupelab.events import Consolidated, Deduped, Evicted, Failed, MemorySized
from troupelab.limits import Limits
from troupelab.memory import policy
from troupelab.memory.archive import Archive
from troupelab.memory.consolidate import Consolidation, Job
from troupelab.memory.pool import Pool
from troupelab.memory.recent import Merge, Recent, Taken
from troupelab.memory.record import Note, Record, check_text, was_between
from troupelab.memory.retrieval import Finder, Found
from troupelab.memory.semantic import Knowledge, Semantic, vectors_of
from troupelab.memory.shelf import SPILLED, SegmentMeta
from troupelab.memory.state import STATE_VERSION, State, read_state
from troupelab.memory.tree import RangeSum
from troupelab.text.embed import Vectors

__all__ = ["Memory"]

_OWN_BYTES = 6_000
"""What a memory takes before it remembers anything: its objects and empty columns, measured with pympler."""


class Memory:
    """What one agent remembers.

    Args:
        agent: the agent's index, for events.
        limits: the limits to begin with; `begin` brings those of each step.
        pool: what it shares with the memories of others; None for one of its own, without a disk. Where the pool's store
            has this agent's memory already, it goes on from there.

    >>> from troupelab.ids import make_id
    >>> memory = Memory(0, Limits(recent_max_records=4))
    >>> memory.store(Record(make_id(0, n, 0), "CONVERSATION", "Elif", f"Page {n} has {n} errors.", 0) for n in range(6))
    >>> memory.settle()
    >>> [record.step for record in memory.recent(10)], memory.notes[0].text.splitlines()
    ([3, 4, 5], ['Elif: Page 0 has 0 errors.', 'Elif: Page 1 has 1 errors.', 'Elif: Page 2 has 2 errors.'])
    """

    def __init__(self, agent: int, limits: Limits, pool: Pool | None = None) -> None:
        self.agent = agent
        self._pool = Pool() if pool is None else pool
        self._obey(limits)
        self._shelf = self._pool.shelf
        self.step = 0
        """The step that was begun last."""
        self._recent = Recent(agent, self._shelf, self._pool.dims, self._vectors)
        self._semantic = Semantic(agent, self._pool.embedder, self._shelf)
        self.archive = Archive(agent, self._shelf) if self._shelf.durable else None
        self._finder = Finder(self._semantic, self.archive, self._vectors if self._pool.embedder else None)
        self._jobs: list[Job] = []
        self._out: list[Job] = []
        self._hits = 0.0
        self._touched = 0
        self._charged = 0
        self._diverged = False
        self._known_up_to = -1
        self._states: list[int] = []
        self._kept: list[tuple[int, SegmentMeta]] = []
        self.stored = 0
        """How many records were ever stored, merged ones too."""
        self._reopen()
        self._keep_caps()
        self._pool.join(self)
        self._pool.begin(0, limits)
        self.charge()

    @property
    def notes(self) -> Sequence[Note]:
        """All notes, oldest first."""
        return self._semantic.notes

    # ------------------------------------------------------------------ remembering

    def begin(self, step: int, limits: Limits) -> None:
        """Begin a step under its limits; a lowered cap is obeyed when this returns."""
        self.step = step
        self._pool.begin(step, limits)
        if limits is not self._limits:
            self._obey(limits)
            self._keep_caps()
            self.charge()
        if self._max_age_steps < step:
            self._grow_old(math.ceil(step - self._max_age_steps))
            self.charge()

    def _keep_caps(self) -> None:
        if self._is_over():
            self._queue("limit lowered", self._recent.take_oldest(*policy.low_water(self._limits)))
        self._drop_notes()

    def _obey(self, limits: Limits) -> None:
        self._limits = limits
        self._most_records, self._most_bytes = policy.high_water(limits)
        self._max_age_steps = policy.max_age_steps(limits, self._pool.hours_per_step)

    def store(self, records: Iterable[Record]) -> None:
        """Remember records, in their order; the oldest go to consolidation when they pass the high water.

        What says the same as a recent record of the same kind and source takes that one in. What a memory that was opened again
        has archived already is passed over.

        Raises:
            InputError: a text is no string, or too long; nothing of these records is remembered then.
        """
        records = list(records)
        if self._known_up_to >= 0:
            records = [record for record in records if record.id > self._known_up_to]
        for record in records:
            check_text(record.text)
        self._touched = self.step
        at_least = self._limits.dedup_similarity
        if at_least is None:
            self._recent.drop_ring()
        compared = at_least is not None and at_least < 1 and records
        vectors = self._vectors([record.text for record in records]) if compared else None
        for place, record in enumerate(records):
            self.stored += 1
            merge = self._recent.add(record, None if vectors is None else vectors[place], at_least)
            if merge is not None:
                self._tell_merged(record, merge)
            if self._is_over():
                self._queue("high water", self._recent.take_oldest(*policy.low_water(self._limits)))
        self.charge()

    def _tell_merged(self, record: Record, merge: Merge) -> None:
        twin, times, at_s = merge.twin, merge.twin.times + 1, self._pool.clock()
        event = Deduped(at_s, self.step, self.agent, record.id, twin.id, merge.similarity, times, twin.size_bytes)
        self._pool.emit(event)

    def _vectors(self, texts: Sequence[str]) -> Vectors | None:
        pool = self._pool
        try:
            return pool.embedder.embed(texts) if pool.embedder else None
        except Exception as error:  # an embedder may be anybody's: without vectors, only identical texts are found
            message = f"{error}; {len(texts)} texts were compared without vectors"
            pool.emit(Failed(pool.clock(), self.step, self.agent, type(error).__name__, message, 0))
            return None

    def end_episode(self) -> None:
        """Condense what is over the low water, although the high water is not reached: a scene has ended."""
        self._queue("episode end", self._recent.take_oldest(*policy.low_water(self._limits)))
        self.charge()

    def _is_over(self) -> bool:
        return len(self._recent) > self._most_records or self._recent.bytes > self._most_bytes

    def _queue(self, reason: str, taken: Taken) -> None:
        if taken.records:
            pool, retain = self._pool, self._limits.retain_fraction
            records, size, vectors = tuple(taken.records), taken.bytes, taken.vectors
            self._jobs.append(Job(self.step, reason, records, size, retain, pool.embedder, pool.notes, vectors))

    def _grow_old(self, oldest: int) -> None:
        """Let what was last heard of before a step be no longer word for word."""
        self._queue("age", self._recent.take_before(oldest))
        if self.archive is not None:
            dropped = self.archive.drop_before(oldest)
            self._tell_dropped("max_age_steps", "archived records", *dropped)

    def take_jobs(self) -> list[Job]:
        """The consolidations that have become due since the last call; each must come back through `admit`."""
        jobs, self._jobs = self._jobs, []
        self._out += jobs
        return jobs

    def admit(self, job: Job, made: Consolidation) -> None:
        """Take in what a job made: its records are now in the archive, where there is one and they are not too old."""
        self._out.remove(job)
        before = self._semantic.content_bytes
        self._semantic.add(made.notes, made.vectors)
        if self.archive is not None:
            # What is below the archive's floor has been gone for a while, even where the limit has been raised since.
            oldest = max(self.step - self._max_age_steps, self.archive.floor)
            old = bisect_left(job.records, oldest, key=_step)
            self.archive.add(job.records[old:])
            if old:
                freed = sum(record.size_bytes for record in job.records[:old])
                self._tell_dropped("max_age_steps", "records", old, freed)
                self._shelf.common.release(record.text for record in job.records[:old])
        else:
            self._shelf.common.release(record.text for record in job.records)
        self._pool.emit(
            Consolidated(
                self._pool.clock(), job.step, self.agent, job.reason, len(job.records), len(made.notes),
                job.bytes, self._semantic.content_bytes - before, made.kept_fraction, made.seconds, made.tokens,
            )
        )  # fmt: skip
        self._drop_notes()
        self.charge()

    def settle(self) -> None:
        """Run and admit every consolidation that is due, here and now."""
        for job in self.take_jobs():
            self.admit(job, job.run())

    def learn(self, known: Knowledge) -> None:
        """Know what everybody knows, unless this memory has made its own version of it."""
        if not self._diverged:
            self._semantic.learn(known)
            self._drop_notes()
            self.charge()

    def remember(self, notes: Sequence[Note]) -> None:
        """Take in notes from elsewhere (of an interview, of another memory), with vectors of their own texts."""
        self._semantic.add(notes, vectors_of(notes, self._pool.embedder))
        self._drop_notes()
        self.charge()

    def _drop_notes(self) -> None:
        cap = self._limits.semantic_max_notes
        if cap is not None and len(self._semantic) > cap:
            # The oldest note goes first: without a question to compare with, age is all that tells notes apart.
            over = len(self._semantic) - cap
            self._tell_dropped("semantic_max_notes", "notes", over, self._semantic.drop_oldest(over))
            self._diverged = True

    def _tell_dropped(self, rule: str, what: str, count: int, freed: int) -> None:
        if count:
            pool = self._pool
            pool.emit(Evicted(pool.clock(), self.step, self.agent, rule, what, count, freed, True))

    # ------------------------------------------------------------------ finding

    def recent(self, n: int) -> list[Record]:
        """The newest `n` records of the recent tier, oldest of them first."""
        away = self._recent.away_bytes
        found = self._recent.newest(n)
        if away:
            self.charge()
        return found

    def last(self, kind: str) -> Record | None:
        """The newest recent record of a kind (TALK, CONVERSATION, …) or role (`action`, `stimulus`); None where there is none."""
        away = self._recent.away_bytes
        found = next((record for record in self._recent.newest_first() if kind in (record.kind, record.role)), None)
        if away:
            self.charge()
        return found

    def between(self, start: int, end: int) -> list[Record]:
        """The records that were heard or done from step `start` up to and with step `end`, oldest first, archived ones too."""
        found = [] if self.archive is None else list(self.archive.between(start, end))
        found.extend(each for each in (*self._waiting(), *self._recent) if was_between(each, start, end))
        self.charge()
        return found

    def over(self, start: int, end: int) -> RangeSum:
        """How much the archive has of some steps (whole segments), without opening any of it."""
        return RangeSum(0, 0, 0.0) if self.archive is None else self.archive.over(start, end)

    def _waiting(self) -> Iterator[Record]:
        return (record for job in (*self._out, *self._jobs) for record in job.records)

    def relevant(self, text: str, k: int = 5, *, tiers: Sequence[str] = ("notes", "records")) -> list[Found]:
        """The `k` notes and records that fit a text best: relevance x recency x importance, best first.

        Args:
            text: what to look for; a text without content words finds nothing.
            k: how many to return at most.
            tiers: `notes`, `records` (the recent ones) and `archive` (the archived ones to which the best notes lead), any of
                them. Records are compared on demand, so notes alone are much cheaper.
        """
        records = [*self._waiting(), *self._recent] if "records" in tiers else []
        found = self._finder.relevant(text, k, self.step, records, notes="notes" in tiers, archive="archive" in tiers)
        self.charge()
        return found

    def recall(self, texts: Sequence[str], k: int) -> list[Note]:
        """The notes for a prompt, oldest first: the `k` that fit some texts best, or without an embedder the newest.

        What is recalled often is kept in RAM longer.
        """
        self._hits = self._hits * 2.0 ** (-(self.step - self._touched) / policy.HALF_LIFE_STEPS) + 1
        self._touched = self.step
        found = self._finder.recall(texts, k, self.step)
        self.charge()
        return found

    # ------------------------------------------------------------------ size, and leaving RAM

    @property
    def ram_bytes(self) -> int:
        """What the memory takes in RAM now; what it shares with others is counted in full."""
        waiting = sum([job.ram_bytes for job in (*self._out, *self._jobs)]) if self._out or self._jobs else 0
        archive = 0 if self.archive is None else self.archive.ram_bytes
        recent = self._recent.here_bytes + self._recent.ring_bytes
        return _OWN_BYTES + recent + waiting + self._semantic.ram_bytes + archive

    def size(self) -> MemorySized:
        """What the memory holds now; records on their way to notes are in the total alone."""
        archive = self.archive
        return MemorySized(
            self._pool.clock(), self.step, self.agent, len(self._recent), self._recent.bytes,
            0 if archive is None else archive.records, 0 if archive is None else archive.disk_bytes,
            len(self._semantic), self._semantic.content_bytes, self.ram_bytes,
        )  # fmt: skip

    def charge(self) -> None:
        """Tell the pool what the memory takes now."""
        now = self.ram_bytes
        more, self._charged = now - self._charged, now
        self._pool.charge(more)

    def warmth(self) -> float:
        """How dearly the memory is kept in RAM."""
        return policy.warmth(self._pool.step - self._touched, self._hits)

    def movable(self) -> dict[str, int]:
        """The bytes that could leave RAM, by what they are."""
        texts, vectors = self._semantic.movable_bytes
        return {
            "note texts": texts,
            "note vectors": vectors,
            "open segment": 0 if self.archive is None else self.archive.open_bytes,
            "recent records": self._recent.spillable_bytes,
            "dedup ring": self._recent.ring_bytes // 8 if self._shelf.durable else 0,  # dear to make anew
        }

    def move(self, what: str) -> tuple[int, int]:
        """Let something leave RAM; returns how many things, and the bytes freed."""
        before = self.ram_bytes
        count = 1
        if what == "note texts":
            count, _ = self._semantic.move_texts()
        elif what == "note vectors":
            count, _ = self._semantic.move_rows()
        elif what == "open segment" and self.archive is not None:
            count = len(self.archive)
            self.archive.seal()
        elif what == "recent records":
            count, _ = self._recent.spill()
        elif what == "dedup ring":
            self._recent.drop_ring()
        freed = before - self.ram_bytes
        self._charged -= freed
        return count, freed

    # ------------------------------------------------------------------ keeping and opening again

    def save(self) -> None:
        """Put everything on disk, so that a memory of this agent over the same store goes on from here."""
        self.settle()
        if self.archive is None:
            return
        self.archive.seal()
        self._semantic.seal()
        kept, self._kept = self._kept, self._recent.copies()
        state = State(
            STATE_VERSION, self.stored, self.step, self.archive.floor, self._hits, self._diverged,
            [number for number, _ in self._kept], self._semantic.dropped(),
        )  # fmt: skip
        self._states = [self._shelf.put_state(self.agent, msgspec.msgpack.encode(state), self._states)]
        for number, meta in kept:
            self._shelf.drop(SPILLED, self.agent, [number], meta.uses)
        self.charge()

    def _reopen(self) -> None:
        if self.archive is None:
            return
        kept, self._states = self._shelf.state(self.agent)
        state = read_state(kept)
        self.archive.reopen(state.floor)
        self._semantic.reopen(state.dropped_notes)
        for number, meta, _ in self._shelf.segments(SPILLED, self.agent):
            if number in state.recent:
                self._kept.append((number, meta))
            else:  # put away to make room by a process that ended without keeping its state
                self._shelf.drop(SPILLED, self.agent, [number], meta.uses)
        self.stored, self._hits, self._diverged = state.stored, state.hits, state.diverged
        self.step = self._touched = state.step
        # What was archived after the state was kept is in the archive alone, and comes again when it is lived through again.
        self._known_up_to = self.archive.last_id
        for number, meta in self._kept:
            archived = {record.id for record in self.archive.between(meta.first_step, meta.last_step)}
            kept_records = self._shelf.records(SPILLED, self.agent, number)
            self._recent.restore(record for record in kept_records if record.id not in archived)


def _step(record: Record) -> int:
    return record.step
