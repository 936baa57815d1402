"""Memory against a plain list: anything may happen in any order, and the promises hold after every call."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import troupelab as tl
from troupelab.events import Consolidated, Deduped, Evicted, Failed
from troupelab.ids import make_id
from troupelab.memory.pool import Pool
from troupelab.memory.record import Record
from troupelab.store import Store
from troupelab.text.embed import HashingEmbedder

AGENTS = 2
WORDS = "ferry bread lamp town price bees winter market bridge".split()
COUNTS: Counter[str] = Counter()


class Stage:
    """Two memories with what they share, and the events that they told."""

    def __init__(self, limits, embedder, folder=None):
        self.events, self.embedder, self.folder, self.limits = [], embedder, folder, limits
        self.store = None
        self.open()

    def open(self):
        if self.folder is not None:
            self.store = Store.open(self.folder / "run.sqlite")
            scratch = lambda: self.folder / "scratch"  # noqa: E731
        else:
            self.store = Store.temporary()
            scratch = None
        self.pool = Pool(
            self.store, scratch=scratch, embedder=self.embedder, emit=self.events.append, hours_per_step=0.5
        )
        self.memories = [tl.Memory(agent, self.limits, self.pool) for agent in range(AGENTS)]

    def reopen(self):
        for memory in self.memories:
            memory.save()
        self.store.close()
        self.open()

    def dropped(self, agent):
        """How many records of an agent a rule has dropped, as the events tell it."""
        mine = [event for event in self.events if isinstance(event, Evicted) and event.agent == agent and event.dropped]
        return sum(event.records for event in mine if event.what != "notes")


class MemoryAgainstAList(RuleBasedStateMachine):
    """A memory that must keep little in RAM and is often opened anew, beside one that never has to, and a list of all."""

    @initialize(embedder=st.sampled_from([None, HashingEmbedder(32)]), known=st.integers(0, 3))
    def begin(self, embedder, known):
        COUNTS["examples"] += 1
        self.folder = Path(tempfile.mkdtemp())
        self.tight = {"total_max_bytes": 50_000, "segment_cache_max_bytes": 10_000}
        self.limits = tl.Limits(recent_max_records=10, recent_max_bytes=20_000, dedup_similarity=0.9)
        self.squeezed = Stage(self.limits.replace(**self.tight), embedder, self.folder)
        self.free = Stage(self.limits.replace(total_max_bytes=None), embedder)
        self.facts = [f"Fact {number} of the town." for number in range(known)]
        self.learn(self.squeezed)
        self.learn(self.free)
        self.stored = [[] for _ in range(AGENTS)]
        self.step, self.place, self.out = 0, 0, []
        self.floor = 0.0

    def learn(self, stage):
        if self.facts:
            known = stage.pool.knowledge(self.facts)
            for memory in stage.memories:
                memory.learn(known)

    def teardown(self):
        for event in self.squeezed.events:
            COUNTS[f"{event.family} {getattr(event, 'rule', '')} {getattr(event, 'what', '')}".strip()] += 1
        for stage in (self.squeezed, self.free):
            stage.store.close()
        shutil.rmtree(self.folder)

    def both(self, agent):
        return self.squeezed.memories[agent], self.free.memories[agent]

    @rule(
        agent=st.integers(0, AGENTS - 1),
        sizes=st.lists(st.sampled_from([0, 5, 40, 300, 300]), min_size=1, max_size=15),
        kind=st.sampled_from(["CONVERSATION", "THINK", "INTERNAL_GOAL_FORMULATION"]),
        broadcast=st.booleans(),
    )
    def store(self, agent, sizes, kind, broadcast):
        texts = []
        for size in sizes:
            word = WORDS[self.place % len(WORDS)]
            texts.append(f"{word} {self.place % 7} " + " ".join(WORDS[: size % 9]) + f" {word}" * size if size else "")
            self.place += 1
        for hearer in range(AGENTS) if broadcast else [agent]:
            records = [
                Record(make_id(hearer, self.step, self.place + at), kind, "Elif", text, make_id(1, self.step, at))
                for at, text in enumerate(texts)
            ]
            self.stored[hearer] += records
            for memory in self.both(hearer):
                memory.store(records)
        self.place += len(texts)
        COUNTS["stores"] += 1

    @rule(
        changes=st.fixed_dictionaries(
            {},
            optional={
                "recent_max_records": st.integers(4, 30) | st.none(),
                "recent_max_bytes": st.integers(2_000, 40_000) | st.none(),
                "consolidate_at": st.floats(0.6, 1.0),
                "consolidate_to": st.floats(0.0, 0.4),
                "retain_fraction": st.floats(0.1, 1.0),
                "dedup_similarity": st.sampled_from([None, 0.9, 1.0]),
                "max_age_steps": st.integers(1, 9) | st.none(),
                "max_age_hours": st.sampled_from([None, 1.0, 3.0]),
                "semantic_max_notes": st.integers(1, 20) | st.none(),
            },
        ),
        steps=st.integers(1, 4),
    )
    def next_step(self, changes, steps):
        self.step += steps
        self.limits = self.limits.replace(**changes)
        by_hours = None if self.limits.max_age_hours is None else self.limits.max_age_hours / 0.5
        ages = [age for age in (self.limits.max_age_steps, by_hours) if age is not None]
        self.floor = max(self.floor, self.step - min(ages)) if ages else self.floor
        self.squeezed.limits = self.limits.replace(**self.tight)
        self.free.limits = self.limits.replace(total_max_bytes=None)
        for stage in (self.squeezed, self.free):
            for memory in stage.memories:
                memory.begin(self.step, stage.limits)
        COUNTS["limit changes"] += len(changes)

    @rule(agent=st.integers(0, AGENTS - 1))
    def episode_ends(self, agent):
        for memory in self.both(agent):
            memory.end_episode()

    @rule()
    def take_jobs(self):
        for agent in range(AGENTS):
            squeezed, free = self.both(agent)
            jobs = list(zip(squeezed.take_jobs(), free.take_jobs(), strict=True))
            self.out += [(agent, *pair) for pair in jobs]

    @rule(fail=st.booleans(), all_of_them=st.booleans())
    def admit(self, fail, all_of_them):
        if all_of_them:
            self.take_jobs()
        for _ in range(len(self.out) if all_of_them else min(1, len(self.out))):
            agent, *jobs = self.out.pop(0)
            for memory, job in zip(self.both(agent), jobs, strict=True):
                memory.admit(job, job.verbatim() if fail else job.run())

    @rule()
    def reopen(self):
        while self.out:
            self.admit(fail=False, all_of_them=True)
        for memory in self.free.memories:
            memory.settle()
        self.squeezed.reopen()
        self.learn(self.squeezed)
        COUNTS["reopenings"] += 1

    @rule(agent=st.integers(0, AGENTS - 1), n=st.integers(1, 40))
    def look(self, agent, n):
        """What is found does not depend on where things lie, nor on having been opened anew."""
        one, other = self.both(agent)
        assert one.recent(n) == other.recent(n)
        assert one.last("stimulus") == other.last("stimulus")
        assert one.between(self.step - n, self.step) == other.between(self.step - n, self.step)
        assert [note.text for note in one.notes] == [note.text for note in other.notes]
        texts = ["the ferry and the bees", "a bridge"]
        assert one.recall(texts, n) == other.recall(texts, n)
        for tiers in (("notes", "records"), ("archive",)):
            assert one.relevant("What does the ferry 3 cost?", n, tiers=tiers) == other.relevant(
                "What does the ferry 3 cost?", n, tiers=tiers
            )
        COUNTS["looks"] += 1

    @invariant()
    def caps_hold(self):
        if not hasattr(self, "limits"):
            return
        limits = self.limits
        for stage in (self.squeezed, self.free):
            for memory in stage.memories:
                size = memory.size()
                assert limits.recent_max_records is None or size.recent_records <= limits.recent_max_records
                assert limits.recent_max_bytes is None or size.recent_bytes <= limits.recent_max_bytes
                assert limits.semantic_max_notes is None or size.notes <= limits.semantic_max_notes
        pool = self.squeezed.pool
        told = any(isinstance(event, Failed) for event in self.squeezed.events)
        assert told or pool.used_bytes <= self.tight["total_max_bytes"]
        assert pool.shelf.cache_bytes <= self.tight["segment_cache_max_bytes"]

    @invariant()
    def everything_is_somewhere(self):
        """What was stored is found word for word, or an event names the rule that merged or dropped it."""
        for agent, stored in enumerate(getattr(self, "stored", ())):
            for stage in (self.squeezed, self.free):
                merges = [event for event in stage.events if isinstance(event, Deduped) and event.agent == agent]
                earlier = {event.kept_id: event.merged_id for event in merges}
                expected = {record.id: record for record in stored if record.id not in earlier.values()}
                found = stage.memories[agent].between(-1, self.step)
                assert [record.id for record in found] == sorted({record.id for record in found})
                for record in found:
                    origin = expected[record.id]
                    assert (record.kind, record.source) == (origin.kind, origin.source)
                    assert record.text == origin.text or record.times > 1
                    times, first = 1, record.id
                    while first in earlier:
                        times, first = times + 1, earlier[first]
                    assert (record.times, record.first_id or record.id) == (times, first)
                assert len(found) == len(expected) - stage.dropped(agent)
                young = {id_ for id_ in expected if tl.ids.step_of(id_) >= self.floor}
                assert young <= {record.id for record in found}

    @invariant()
    def bytes_add_up(self):
        for stage in (self.squeezed, self.free) if hasattr(self, "limits") else ():
            pool, memories = stage.pool, stage.memories
            assert pool._charged == sum(memory.ram_bytes for memory in memories)
            assert pool.shelf.waiting_bytes == sum(each.bytes for each in pool.shelf._waiting)
            for memory in memories:
                assert memory.size().recent_bytes == sum(each.size_bytes for each in memory.recent(10**6))
                done = [event for event in stage.events if isinstance(event, Consolidated)]
                assert all(event.records_in for event in done)


MemoryAgainstAList.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


class TestMemoryAgainstAList(MemoryAgainstAList.TestCase):
    """The machine as a test; prints how often it did what."""

    @classmethod
    def tearDownClass(cls):
        print("memory against a list:", dict(COUNTS))
