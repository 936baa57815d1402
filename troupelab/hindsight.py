"""Hindsight: what an act did to its agent's memory, found by living through the journal again for that agent alone.

Nothing more is stored for it while a run goes on: the journal says what everybody did, and memory, prompt and all that happened to the
records follow from that. What others did is only delivered, not remembered, so that little has to be compared or embedded.
It works on a stage, a store and a thread of its own and touches nothing of the run; any thread may call it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from troupelab.engine.actor import Actor
from troupelab.engine.ahead import Ahead
from troupelab.engine.clock import Clock
from troupelab.engine.consolidator import Consolidator
from troupelab.engine.fates import Causes, Tiers, fates_of, noted, what_changed
from troupelab.engine.moment import Moment, Noted, RecordFate, Sizes
from troupelab.engine.parts import Parts, Teller
from troupelab.engine.past import Past
from troupelab.engine.standing import Standing
from troupelab.errors import CheckpointError, RunError
from troupelab.events import Deduped, Event, MemorySized
from troupelab.folder import read_setup
from troupelab.limits import Limits
from troupelab.livelimits import LiveLimits
from troupelab.memory.consolidate import Consolidation, Job
from troupelab.memory.pool import Pool
from troupelab.memory.record import Record
from troupelab.models.model import ChatMessage
from troupelab.models.pipeline import Pipeline
from troupelab.models.scripted import ScriptedModel
from troupelab.people.acts import Action, Message
from troupelab.people.agent import Agent
from troupelab.people.stage import Stage
from troupelab.telemetry.journal import ActRow, AsideRow, EndRow, EventRow, StateRow, ToldRow, read_rows
from troupelab.text.embed import Embedder

if TYPE_CHECKING:
    from troupelab.store import Store

__all__ = ["look_back"]

_ALL = 2**31
_LAST_STEP = 2**22 - 1
_FOREIGN = "The persons are TinyTroupe's, whose prompts cannot be rebuilt: this is what was kept of the act."
_OTHER = (
    "The prompt that was rebuilt is not the one that was sent: the embedder or the version of TroupeLab is another, or notes were made "
    "in another way, so records and prompt may differ from what they were."
)
_UNWRITTEN = (
    "The notes of this act are the model's to write, and are not in the journal yet: those shown were extracted."
)


class _Read(NamedTuple):
    """What of a journal matters for one agent up to one act: rows to live through, the act, its events, what another engine kept."""

    rows: list[ActRow | AsideRow | ToldRow]
    act: ActRow | None
    events: list[Event]
    kept: list[StateRow]
    is_foreign: bool


def look_back(
    reading: AbstractContextManager[Store | None],
    agent: int,
    step: int,
    *,
    embedder: Embedder | None,
    steps: int | None = None,
    trimmed: Sequence[tuple[int, int]] = (),
) -> Moment:
    """Live through a run's journal again for one agent, up to an act, and tell what that act did to its memory.

    Args:
        reading: gives the store that holds the run's header and journal, and is left as soon as they are read; gives None for a run that
            has yet to begin.
        agent: whose act, by index.
        step: which act; the number of the run's steps for what follows after its last.
        embedder: the run's own, for memories to be the same.
        steps: how many steps the run has, where it has played all of them.
        trimmed: how many of the agent's oldest archived records `archive_max_bytes` has dropped, as (step, records): that cap is of all agents
            together, and does not follow from one of them.

    Raises:
        RunError: the agent has not finished that step.
        CheckpointError: the journal was full before, or there is no run in the store.
        StoreError: it cannot be read.
    """
    with reading as store:
        if store is None:
            raise RunError("this run has yet to begin: there is nothing to look back on")
        past = Past(store)
        found = _read(store, past, agent, step, steps)
    if found.is_foreign:
        return _foreign(past, found, agent, step)
    with ThreadPoolExecutor(1, thread_name_prefix="troupelab-hindsight") as worker:
        return worker.submit(_alone, past, found, agent, step, embedder, trimmed).result()


def _read(store: Store, past: Past, agent: int, step: int, steps: int | None) -> _Read:
    count = len(past.done)
    if not 0 <= agent < count or step < 0:
        raise RunError(f"there is no agent {agent} or no step {step}: agents are numbered from 0 to {count - 1}")
    rows: list[ActRow | AsideRow | ToldRow] = []
    act: ActRow | None = None
    kept: list[StateRow] = []
    events: list[Event] = []
    is_foreign, full = False, False
    for row in read_rows(store):
        if isinstance(row, EventRow):
            if getattr(row.event, "agent", -1) == agent and getattr(row.event, "step", -1) == step:
                events.append(row.event)
        elif isinstance(row, StateRow):
            is_foreign = True
            if (row.agent, row.step) == (agent, step):
                kept.append(row)
        elif isinstance(row, EndRow):
            full = True
        elif act is None and (
            isinstance(row, ActRow)
            or (isinstance(row, AsideRow) and row.agent == agent)
            or (isinstance(row, ToldRow) and agent in row.to)
        ):
            rows.append(row)
            if isinstance(row, ActRow) and (row.agent, row.step) == (agent, step):
                act = row
    reached = past.done[agent]
    if act is None and full:
        raise CheckpointError(
            f"the journal was full before this: of this agent, it has the steps before {reached}, and what came after is not known"
        )
    if act is None and not (step == steps == min(past.done)):
        had = f"the steps up to {reached - 1}" if reached else "no step"
        raise RunError(f"this agent has finished {had} in the journal: there is no step {step} of it to look back on")
    return _Read(rows, act, events, kept, is_foreign)


def _foreign(past: Past, found: _Read, agent: int, step: int) -> Moment:
    """What there is of an act of another engine's person."""
    act = found.act
    name = str(past.header.world["agents"][agent].get("persona", {}).get("name", agent))
    records = tuple(RecordFate(-1, "stored", value, "", "", step) for row in found.kept for value in row.values)
    notes = tuple(
        Noted(note, step, step, 0, step, step + 1, "TinyTroupe's consolidation")
        for row in found.kept
        for note in row.notes
    )
    start_s, end_s = (0.0, 0.0) if act is None else (act.start_s, act.end_s)
    reply, error = ("", "") if act is None else (_as_json(act), act.error)
    return Moment(
        name,
        step,
        start_s,
        end_s,
        None,
        None,
        None,
        (),
        reply,
        error,
        (),
        records,
        notes,
        (),
        tuple(found.events),
        False,
        _FOREIGN,
    )


def _as_json(act: ActRow) -> str:
    actions = [dict(zip(("type", "content", "target"), each, strict=True)) for each in act.actions]
    return json.dumps({"actions": actions, "cognitive_state": act.state}, ensure_ascii=False, indent=1)


def _alone(
    past: Past, found: _Read, agent: int, step: int, embedder: Embedder | None, trimmed: Sequence[tuple[int, int]]
) -> Moment:
    from troupelab.store import Store

    with Store.temporary() as store, asyncio.Runner() as runner:
        return runner.run(_Look(past, found, store, agent, step, embedder, trimmed).go())


class _Alone(Pool):
    """A pool without the caps that hold for all agents together: only one of them remembers here."""

    def begin(self, step: int, limits: Limits) -> None:
        """Begin a step."""
        self.step = max(self.step, step)


class _Witness(Consolidator):
    """A consolidator that knows what it was given."""

    def __init__(self, parts: Parts, ahead: Ahead, past: Past) -> None:
        super().__init__(parts, ahead, past.notes)
        self.stop(now=False)  # no model is asked: what it wrote is in the journal
        self.seen: list[tuple[Job, asyncio.Future[Consolidation]]] = []

    def _start(self, agent: Agent, job: Job, place: int) -> asyncio.Future[Consolidation]:
        outcome = super()._start(agent, job, place)
        self.seen.append((job, outcome))
        return outcome

    def made(self, step: int) -> list[tuple[Job, Consolidation]]:
        """What was made of what an act let go, once it has been admitted."""
        return [
            (job, job.verbatim() if outcome.cancelled() or outcome.exception() else outcome.result())
            for job, outcome in self.seen
            if job.step == step
        ]


class _Looking(Actor):
    """An actor that keeps the last prompt."""

    prompt: tuple[ChatMessage, ...] = ()

    def _prompt(self, agent: Agent, step: int, heard: Sequence[Message]) -> tuple[ChatMessage, ...]:
        self.prompt = super()._prompt(agent, step, heard)
        return self.prompt


class _Look:
    """One look back."""

    def __init__(
        self,
        past: Past,
        found: _Read,
        store: Store,
        agent: int,
        step: int,
        embedder: Embedder | None,
        trimmed: Sequence[tuple[int, int]],
    ) -> None:
        self.past, self.found, self.step = past, found, step
        world, limits, options = read_setup(past)
        # Only what this agent hears matters; how many others hear the same does not.
        heard_by = tuple(
            each if index == agent else tuple(other for other in each if other == agent)
            for index, each in enumerate(world.audience)
        )
        world = replace(world, audience=heard_by)
        self.limits = LiveLimits(limits, agents=world.agent_names)
        past.restore(self.limits)
        options = options._replace(ask_every=0)
        self.told: list[Event] = []
        clock, teller = Clock(), Teller(self.told.append)
        pool = _Alone(
            store, scratch=lambda: store.path.parent / "scratch", embedder=embedder, notes=options.notes != "off",
            emit=teller.emit, clock=clock.now, hours_per_step=world.step_minutes / 60,
        )  # fmt: skip
        self.stage = Stage(world, self.limits, pool=pool, emit=teller.emit, clock=clock.now)
        pipeline = Pipeline(ScriptedModel(), self.limits, emit=teller.emit, clock=clock.live)
        parts = Parts(self.stage, pipeline, self.limits, options, past.header.seed, clock, teller)
        standing = Standing(pipeline.sender.limiter, teller.emit, clock, held_s=0.0, step=-1)
        self.troubles: list[str] = []
        ahead = Ahead(embedder, self._without_vectors, standing.go)
        self.consolidator = _Witness(parts, ahead, past)
        self.actor = _Looking(parts, self.consolidator, ahead, standing)
        self.agent = self.stage.agents[agent]
        self._trimmed = list(trimmed)
        self._gone: set[int] = set()

    def _without_vectors(self, kind: str, sentence: str) -> bool:
        self.troubles.append(sentence)
        return False

    async def go(self) -> Moment:
        """Live up to the act, and through it."""
        try:
            return await self._go()
        finally:
            self.consolidator.close()

    async def _go(self) -> Moment:
        stage, agent, step, act = self.stage, self.agent, self.step, self.found.act
        for opened in {event.step for event in stage.world.stimuli}:
            stage.open_step(opened)
        for row in self.found.rows:
            if row is not act:
                await self._live(row)
        had = self._sizes()
        await self.consolidator.admit(agent)
        self._trim(step - 1)
        before = self._tiers()
        heard = agent.hear(step)
        actions = () if act is None else tuple(Action(*each) for each in act.actions)
        news = {record.id: record for record in agent.to_remember(step, heard, actions)}
        strays, came = self.actor.strays, len(self.told)
        if act is None:
            await self._deliver(heard)
        else:
            await self.actor.relive(act)
        after = self._sizes()
        await self.consolidator.admit(agent)
        gone = frozenset(self._trim(step))
        settled = self._tiers()
        events = [each for each in self.told[came:] if getattr(each, "agent", -1) == agent.index]
        made = self.consolidator.made(step)
        causes = self._causes(before, news)
        fates = fates_of(
            step, before, settled, news, [each for each in events if isinstance(each, Deduped)], made, causes, gone
        )
        earlier = noted(self.consolidator.made(step - 1), None, step)
        remark = self._remark(self.actor.strays > strays, made)
        start_s, end_s = (act.start_s, act.end_s) if act is not None else (self.past.last_s, self.past.last_s)
        return Moment(
            agent.name, step, start_s, end_s, had, after, self._sizes(),
            tuple((each.role, each.content) for each in self.actor.prompt) if act is not None else (),
            "" if act is None else _as_json(act), "" if act is None else act.error, tuple(heard), tuple(fates),
            (*earlier, *noted(made, causes, step + 1)), tuple(causes.changed.values()),
            (*self.found.events, *(each for each in events if not isinstance(each, MemorySized))), not remark, remark,
        )  # fmt: skip

    async def _live(self, row: ActRow | AsideRow | ToldRow) -> None:
        agent = self.agent
        if isinstance(row, AsideRow):
            agent.remember_aside(row.kind, row.source, row.text)
        elif isinstance(row, ToldRow):
            self.stage.tell(row.step, row.sequence, row.kind, row.source, row.text, [agent.index])
        elif row.agent == agent.index:
            await self.actor.relive(row)
            self._trim(row.step)
            self.told.clear()
        else:
            other = self.stage.agents[row.agent]
            other.take(row.step)  # who reached out to it can be talked to by it
            self.stage.deliver(other, row.step, tuple(Action(*each) for each in row.actions))

    async def _deliver(self, heard: Sequence[Message]) -> None:
        """What follows after the last step: what was said in it is remembered."""
        agent, step = self.agent, self.step
        agent.memory.begin(step, self.limits.at_step(step, agent.name))
        agent.commit(step, heard, ())
        self.consolidator.start(agent)

    def _trim(self, step: int) -> set[int]:
        """Leave out what `archive_max_bytes` had dropped by a step: the oldest, which is all that is known of it; returns the ids."""
        due = [records for at, records in self._trimmed if at <= step]
        self._trimmed = [(at, records) for at, records in self._trimmed if at > step]
        if not due or self.agent.memory.archive is None:
            return set()
        left = [each.id for each in self.agent.memory.archive.between(0, _LAST_STEP) if each.id not in self._gone]
        gone = set(left[: sum(due)])
        self._gone |= gone
        return gone

    def _tiers(self) -> Tiers:
        memory = self.agent.memory
        archived = () if memory.archive is None else memory.archive.between(0, _LAST_STEP)
        return Tiers(
            {record.id: record for record in memory.recent(_ALL)},
            {record.id: record for record in archived if record.id not in self._gone},
            list(memory.notes),
        )

    def _sizes(self) -> Sizes:
        told = self.agent.memory.size()
        archived = 0
        if told.archive_records:
            archived = told.archive_records
            if self._gone and self.agent.memory.archive is not None:
                there = self.agent.memory.archive.between(0, _LAST_STEP)
                archived = sum(record.id not in self._gone for record in there)
        return Sizes(told.recent_records, told.recent_bytes, archived, told.notes, told.note_bytes)

    def _causes(self, before: Tiers, news: dict[int, Record]) -> Causes:
        name, step, world = self.agent.name, self.step, self.stage.world
        now = self.limits.at_step(step, name)
        earlier = self.limits.at_step(step - 1, name) if step else now
        rows = [row for row in self.past.limits if row.from_step == step and (row.agents is None or name in row.agents)]
        size = sum(record.size_bytes for record in (*before.recent.values(), *news.values()))
        return Causes(
            now, what_changed(earlier, now, rows), len(before.recent) + len(news), size, world.episode_steps,
            world.step_minutes / 60,
        )  # fmt: skip

    def _remark(self, strayed: bool, made: Sequence[tuple[Job, Consolidation]]) -> str:
        told = [_OTHER] if strayed else []
        told += [f"Vectors could not be had ({self.troubles[0]}), so records may differ."] if self.troubles else []
        place = (self.agent.index, self.step)
        written = sum(key[:2] == place for key in self.past.notes)
        if self.past.header.options.get("notes") == "model" and written < len(made):
            told.append(_UNWRITTEN)
        return " ".join(told)
