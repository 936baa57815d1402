"""The past of a run that goes on from a journal: what it was, how far each agent had come, and how to live through it again.

Reading may be done in any thread; living through it again is the engine's.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from troupelab.engine.actor import Actor
from troupelab.engine.parts import Parts
from troupelab.engine.standing import Standing
from troupelab.errors import CheckpointError, InputError, LimitError
from troupelab.events import FAMILIES, CallDone, Event, Failed
from troupelab.people.interview import INTERVIEWER
from troupelab.people.probes import Probe, probe_from
from troupelab.telemetry.journal import (
    ActRow,
    AsideRow,
    CalledRow,
    EndRow,
    EventRow,
    Header,
    LimitRow,
    NotesRow,
    ProbeRow,
    Row,
    StateRow,
    ToldRow,
    read_header,
    read_rows,
)

if TYPE_CHECKING:
    from troupelab.livelimits import LiveLimits
    from troupelab.store import Store

__all__ = ["DERIVED", "Past", "check_reaches", "cut", "planted"]

_TOGETHER = 8
"""Acts are lived through in such groups; controls are heeded between them."""

DERIVED = ("records", "notes", "spilled", "texts", "state")
"""The kinds of blocks that living through the past makes again."""


class Past:
    """What a store says of a run's earlier life.

    Args:
        store: the run's own, or one that was given a copy of another's past.

    Raises:
        CheckpointError: there is no run in it.
        StoreError: it cannot be read, or is of another version.
    """

    def __init__(self, store: Store) -> None:
        header = read_header(store)
        if header is None:
            raise CheckpointError(
                f"{store.path} holds no run to go on with: it ended before it had begun, or the file is of another use or half "
                "copied; delete it to begin anew there"
            )
        self.store = store
        self.header: Header = header
        agents = header.world.get("agents")
        if not isinstance(agents, list) or not agents:
            raise CheckpointError(f"{store.path} cannot be gone on with: its world has no agents")
        self.done = [0] * len(agents)
        """How many steps each agent has finished."""
        self.notes: dict[tuple[int, int, int], NotesRow] = {}
        self.limits: list[LimitRow] = []
        self.tellings: list[ToldRow] = []
        """What a user told the run."""
        self.told: Counter[int] = Counter()
        """How much the run was told for each step."""
        self.by_hand = 0
        """How often a user had the run told or asked something that it remembers."""
        self.looked = -1
        """The last step whose interventions are over."""
        self.called: Counter[int] = Counter()
        """How often each intervention was called."""
        self.last_s = self.held_s = 0.0
        self.began_s: dict[int, float] = {}
        """When the first act of each step began."""
        self.spent_tokens, self.spent_usd = 0, 0.0
        """What its own calls took; what was paid before it forked is another run's."""
        self.changes = 0
        """How many changes of limits are of the past."""
        self.state, self.state_s = "", 0.0
        """The state that the journal tells of last, and since when."""
        self.full_s: float | None = None
        """When the journal was full, where nothing follows in it."""
        self.is_foreign = False
        """Whether its agents are of another engine, which alone can live through it again."""
        paused_s: float | None = None
        for row in read_rows(store):
            if not self._follows(row):
                raise CheckpointError(
                    f"{store.path} cannot be gone on with: {str(row)[:100]} cannot follow what comes before it"
                )
            self.full_s = row.at_s if isinstance(row, EndRow) else None
            if isinstance(row, ActRow):
                self.done[row.agent] = row.step + 1
                self.last_s = max(self.last_s, row.end_s)
                self.began_s[row.step] = min(row.start_s, self.began_s.get(row.step, row.start_s))
            elif isinstance(row, EventRow):
                self.last_s = max(self.last_s, row.values[0])
                if row.family == "calls":
                    self._count(row.event)
                if row.family == "runs":
                    if paused_s is not None:
                        self.held_s += row.values[0] - paused_s
                    paused_s = row.values[0] if row.values[2] == "paused" else None
                    self.state_s, self.state = row.values[0], row.values[2]
            elif isinstance(row, AsideRow):
                self.by_hand += row.source == INTERVIEWER
            elif isinstance(row, LimitRow):
                self.limits.append(row)
            elif isinstance(row, NotesRow):
                self.notes[row.agent, row.step, row.place] = row
            elif isinstance(row, StateRow):
                self.is_foreign = True
            elif isinstance(row, ToldRow):
                if row.by == "user":
                    self.by_hand += 1
                    self.tellings.append(row)
                self.told[row.step] = row.sequence + 1  # of those that a fork left out, the numbers stay free
            elif isinstance(row, CalledRow):
                self.looked = row.step
                self.called[row.number] += 1
        if paused_s is not None:
            self.held_s += self.last_s - paused_s

    def _count(self, call: Event) -> None:
        if isinstance(call, CallDone) and call.step >= self.header.forked_at:
            self.spent_tokens += call.tokens_in + call.tokens_out
            self.spent_usd += 0.0 if math.isnan(call.cost_usd) else call.cost_usd

    def _follows(self, row: Row) -> bool:
        """Whether a row is of the run's agents and of a known kind, and an act the next one of its agent."""
        agents = range(len(self.done))
        if isinstance(row, ActRow):
            return (
                row.agent in agents and row.step == self.done[row.agent] and all(len(each) == 3 for each in row.actions)
            )
        if isinstance(row, AsideRow):
            return row.agent in agents
        if isinstance(row, StateRow):
            return row.agent == -1 or row.agent in agents
        if isinstance(row, ProbeRow):
            return planted(row, len(agents)) is not None
        if isinstance(row, ToldRow):
            return row.step >= 0 and row.sequence >= self.told[row.step] and all(each in agents for each in row.to)
        if isinstance(row, EventRow):
            return row.family in FAMILIES and len(row.values) == len(FAMILIES[row.family].__struct_fields__)
        return True

    @property
    def next_step(self) -> int:
        """The first step that nobody has finished: what is changed now holds from there on."""
        return max(self.done)

    def restore(self, limits: LiveLimits) -> None:
        """Make all changes of limits again, each from its step on, and let later ones hold from the next step.

        Raises:
            CheckpointError: another version of TroupeLab had other limits.
        """
        try:
            for agent, own in self.header.overrides.items():
                limits.update(agents=[agent], **dict[str, Any](own))
            for row in self.limits:
                limits.settle(row.from_step)
                limits.update(note=row.note, by=row.by, agents=row.agents, **dict[str, Any](row.new))
        except LimitError as error:
            raise CheckpointError(f"{self.store.path} cannot be gone on with: {error}") from error
        limits.settle(self.next_step)
        self.changes = len(limits.log)

    async def relive(self, parts: Parts, actor: Actor, standing: Standing) -> None:
        """Live through it again: the same memories, inboxes and states of mind come of it, and the same events.

        It ends early where the run is stopped meanwhile; the journal still has all of it.
        """
        with self.store.transaction() as transaction:
            for kind in DERIVED:
                for block in self.store.blocks(kind):
                    transaction.drop(kind, block.agent, [block.number])
        stage, emit = parts.stage, parts.teller.emit
        for count, row in enumerate(read_rows(self.store)):
            if isinstance(row, EventRow):
                emit(row.event)
            elif isinstance(row, ActRow):
                await actor.relive(row)
            elif isinstance(row, StateRow):
                await actor.restore(row)
            elif isinstance(row, AsideRow):
                stage.agents[row.agent].remember_aside(row.kind, row.source, row.text)
            elif isinstance(row, ToldRow):
                stage.tell(row.step, row.sequence, row.kind, row.source, row.text, row.to)
            elif isinstance(row, ProbeRow) and (probe := planted(row, len(self.done))) is not None:
                actor.prober.add(probe)
            if count % _TOGETHER == 0:
                await asyncio.sleep(0)
                if standing.stopping:
                    break
        else:
            await actor.restored()
        parts.clock.start(self.last_s)  # what living through it again took is no time of the run
        if actor.strays:
            message = (
                f"{actor.strays} of {actor.acts_done} acts were asked for by another prompt in the earlier life: the embedder or the "
                "version of TroupeLab is another, and memories may differ from what they were"
            )
            parts.teller.tell(Failed(parts.clock.now(), self.next_step - 1, -1, "InexactPast", message, 0))


def planted(row: ProbeRow, agents: int) -> Probe | None:
    """The probe of a row; None where it is none, or of agents that there are not."""
    try:
        probe = probe_from(row.probe, None if row.to is None else tuple(row.to))
    except InputError:
        return None
    return probe if all(0 <= each < agents for each in probe.to or ()) else None


def cut(rows: Iterator[Row], at_step: int, *, latest: bool) -> list[Row]:
    """The part of a past that all agents had lived through before a step: for a fork.

    What a user told the run for a later step stays, as do the calls and failures of the acts that stay; what interventions told is left to
    those of the fork. Where the fork is of the `latest` step, limits that were to hold later hold from its first step.
    """
    left: list[Row] = []
    end_s = 0.0
    gone: set[int] = set()
    for row in rows:
        if isinstance(row, ActRow):
            if row.step >= at_step:
                gone.add(row.agent)
                continue
            end_s = max(end_s, row.end_s)
        elif isinstance(row, EventRow):
            names = FAMILIES[row.family].__struct_fields__
            if "step" in names and row.family != "runs" and row.values[names.index("step")] >= at_step:
                continue
        elif isinstance(row, AsideRow):
            if row.agent in gone:
                continue
        elif isinstance(row, ToldRow):
            if row.step >= at_step and row.by != "user":
                continue
        elif isinstance(row, LimitRow):
            if row.from_step > at_step:
                if not latest:
                    continue
                row = msgspec.structs.replace(row, from_step=at_step)
        elif isinstance(row, NotesRow | CalledRow) and row.step >= at_step:
            continue
        left.append(row)
    timed = ("process", "runs")
    return [row for row in left if not (isinstance(row, EventRow) and row.family in timed and row.values[0] > end_s)]


def check_reaches(rows: Iterable[Row], agents: int, step: int) -> None:
    """Refuse a past in which not everybody reaches a step.

    Raises:
        CheckpointError: the journal was full before.
    """
    acts = Counter(row.agent for row in rows if isinstance(row, ActRow))
    if (reached := min(acts[agent] for agent in range(agents))) < step:
        raise CheckpointError(
            f"the journal was full before step {step} was over: a fork may begin at step {reached} or before"
        )
