"""Playing a stream through memories, under limits of choice, without a model and without an event loop.

What agents heard and did is the stream's; what their memories make of that follows from the limits. The parts are those of a run: stage,
agents, memories, prober; only that consolidations run in place, and that nobody is waited for. Whoever calls it owns all of that; any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import xxhash

from troupelab._collector import collecting_less
from troupelab.engine.clock import Clock
from troupelab.engine.past import planted
from troupelab.engine.prober import Prober
from troupelab.events import ActDone, ActionTaken, Failed
from troupelab.livelimits import LiveLimits
from troupelab.memory.consolidate import Consolidation, Job
from troupelab.memory.pool import Pool
from troupelab.memory.record import Note, Record
from troupelab.people.acts import CONVERSATION, Action
from troupelab.people.prompt import act_prompt
from troupelab.people.stage import Stage
from troupelab.store import Store
from troupelab.telemetry.journal import ActRow, AsideRow, EventRow, LimitRow, ProbeRow, ToldRow
from troupelab.telemetry.recorder import Recorder

if TYPE_CHECKING:
    from troupelab.limits import Number
    from troupelab.people.agent import Agent
    from troupelab.people.probes import Probe
    from troupelab.tuning.stream import Stream

__all__ = ["Play"]

_OWN_TELLINGS = 4_000
"""The sequence numbers of what is planted here begin after those of what the run was told."""


class Play:
    """One replay.

    Args:
        stream: what happened.
        fixed: limits that hold from the first step on for everybody; the run's own changes of these are left out.
        probes: facts that are told besides, and asked about.
        ask_every: after how many steps memories are asked; None for as the run did.
        faithful: whether what was recalled for prompts is recalled again, which decides what leaves RAM first, and counts `strays`.

    Raises:
        LimitError: a limit is unknown, or out of range beside the others.
    """

    def __init__(
        self,
        stream: Stream,
        fixed: Mapping[str, Number],
        *,
        probes: Sequence[Probe] = (),
        ask_every: int | None = None,
        faithful: bool = False,
        max_rows: int = 1_048_576,
    ) -> None:
        self.stream = stream
        self.limits = _limits(stream, fixed)
        self.recorder = Recorder(max_rows=max_rows)
        self.strays = 0
        """Acts whose prompt is another than it was, where that is looked at."""
        self.acts = 0
        self.stored: list[Record] = []
        """Every record that was to be remembered, in the order of the acts."""
        self.condensed: list[tuple[int, Job, tuple[Note, ...]]] = []
        """Every consolidation: whose, of what, and what came of it."""
        self.unwritten = 0
        """Consolidations whose notes a model wrote then, and that are extracted here."""
        self._fixed = frozenset(fixed)
        self._faithful = faithful
        self._clock = Clock()
        self._store = Store.temporary()
        options, world, emit = stream.options, stream.world, self.recorder.emit
        pool = Pool(
            self._store, scratch=lambda: self._store.path.parent / "scratch", embedder=stream.embedder,
            notes=options.notes != "off", emit=emit, clock=self._clock.now, hours_per_step=world.step_minutes / 60,
        )  # fmt: skip
        self.stage = Stage(world, self.limits, pool=pool, emit=emit, clock=self._clock.now)
        every = options.ask_every if ask_every is None else ask_every
        self.prober = Prober([*world.probes, *probes], every, emit)
        for step in {event.step for event in world.stimuli}:
            self.stage.open_step(step)
        for place, probe in enumerate(probes):
            to = range(len(self.stage.agents)) if probe.to is None else probe.to
            self.stage.tell(probe.step, _OWN_TELLINGS + 2 * place, CONVERSATION, "", probe.fact, to)
            if probe.neighbour:
                sequence = _OWN_TELLINGS + 2 * place + 1
                self.stage.tell(probe.neighbour_step, sequence, CONVERSATION, "", probe.neighbour, to)
        self._made: dict[int, list[tuple[Job, Consolidation]]] = {}

    def go(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Play all of it."""
        total = sum(isinstance(row, ActRow) for row in self.stream.rows)
        with collecting_less():
            for row in self.stream.rows:
                self._take(row)
                if progress is not None and isinstance(row, ActRow) and not self.acts % 256:
                    progress(self.acts, total)
            past = self.stream.past
            self._clock.set(past.state_s)
            if past.state in {"done", "stopped"}:
                self._finish()
            self._clock.set(past.last_s)
        if progress is not None:
            progress(self.acts, total)

    def close(self) -> None:
        """Let the temporary store go."""
        self._store.close()

    def _take(self, row: object) -> None:
        if isinstance(row, ActRow):
            self._act(row)
        elif isinstance(row, EventRow):
            if row.family != "limits" or row.event.field not in self._fixed:  # type: ignore[attr-defined]
                self.recorder.emit(row.event)
        elif isinstance(row, AsideRow):
            self.stage.agents[row.agent].remember_aside(row.kind, row.source, row.text)
        elif isinstance(row, ToldRow):
            self.stage.tell(row.step, row.sequence, row.kind, row.source, row.text, row.to)
        elif isinstance(row, ProbeRow) and (probe := planted(row, len(self.stage.agents))) is not None:
            self.prober.add(probe)

    def _act(self, row: ActRow) -> None:
        step, stage, emit = row.step, self.stage, self.recorder.emit
        agent = stage.agents[row.agent]
        self._clock.set(row.start_s)
        self._admit(agent)
        self._clock.set(row.end_s)
        heard = agent.hear(step)
        agent.memory.begin(step, self.limits.at_step(step, agent.name))
        if self._faithful:
            prompt = act_prompt(agent, stage, step, heard)
            said = prompt[-1].content.encode("utf-8", "surrogatepass")
            self.strays += xxhash.xxh3_64_intdigest(said) != row.prompt
        actions = tuple(Action(*each) for each in row.actions)
        self._commit(agent, step, heard, actions)
        agent.state = row.state or agent.state
        if stage.world.ends_episode(step):
            agent.memory.end_episode()
        stage.deliver(agent, step, actions)
        self._start(agent)
        emit(agent.memory.size())
        self.acts += 1
        for sequence, (kind, content, target) in enumerate(row.actions):
            emit(ActionTaken(row.end_s, step, agent.index, sequence, kind, target, content))
        if row.left_out:
            message = f"{row.left_out} actions beyond the allowed number were left out"
            emit(Failed(row.end_s, step, agent.index, "TooManyActions", message, 0))
        emit(ActDone(row.end_s, step, agent.index, row.start_s, row.end_s, 1, len(row.actions), row.error))
        self.prober.ask(agent, step, row.end_s)

    def _commit(self, agent: Agent, step: int, heard: Sequence[Any], actions: tuple[Action, ...]) -> None:
        self.stored += agent.commit(step, heard, actions)

    def _start(self, agent: Agent) -> None:
        """Run what is due; its notes are admitted at the agent's next act, as in a run."""
        made = self._made.setdefault(agent.index, [])
        for place, job in enumerate(agent.memory.take_jobs(), len(made)):
            made.append((job, self._condense(agent, job, place)))

    def _condense(self, agent: Agent, job: Job, place: int) -> Consolidation:
        written = self.stream.past.notes.get((agent.index, job.step, place))
        if written is not None and written.lines is not None:
            if self._faithful:
                return job.written(written.lines, written.tokens, written.seconds)
            self.unwritten += 1
        try:
            return job.run()
        except Exception as error:  # as in a run: nothing is lost where condensing fails
            message = f"{error}; {len(job.records)} records were kept word for word"
            self.recorder.emit(Failed(self._clock.now(), job.step, agent.index, type(error).__name__, message, 0))
            return job.verbatim()

    def _admit(self, agent: Agent) -> None:
        for job, made in self._made.pop(agent.index, ()):
            agent.memory.admit(job, made)
            self.condensed.append((agent.index, job, made.notes))

    def _finish(self) -> None:
        """As at a run's end: all notes come in, and what was said in the last step is remembered."""
        past = self.stream.past
        steps = past.next_step if past.state == "done" else max(past.header.steps, past.next_step)
        for agent in self.stage.agents:
            self._admit(agent)
            if min(past.done) == steps:
                heard = agent.hear(steps)
                agent.memory.begin(steps, self.limits.at_step(steps, agent.name))
                self._commit(agent, steps, heard, ())
                self._start(agent)
                self._admit(agent)
                self.recorder.emit(agent.memory.size())
        self.stage.pool.shelf.flush()


def _limits(stream: Stream, fixed: Mapping[str, Number]) -> LiveLimits:
    """The run's limits and their changes, but for those that are fixed."""
    live = LiveLimits(stream.limits.replace(**fixed), agents=stream.agent_names)

    def left(changes: Mapping[str, Number]) -> dict[str, Any]:
        return {name: value for name, value in changes.items() if name not in fixed}

    for agent, own in stream.header.overrides.items():
        if mine := left(own):
            live.update(agents=[agent], **mine)
    for row in stream.rows:
        if isinstance(row, LimitRow) and (new := left(row.new)):
            live.settle(row.from_step)
            live.update(note=row.note, by=row.by, agents=row.agents, **new)
    live.settle(stream.past.next_step)
    return live
