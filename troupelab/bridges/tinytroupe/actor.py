"""The actor of an adopted world: has TinyTroupe's persons act in greenlets on the engine's loop, and its world take the steps.

The world's own `_step` runs in a greenlet of its own: it advances the time, calls TinyTroupe's interventions, and comes to the point where all agents
act. There it waits until the engine has had them act, one act each, as limits, pauses and failures allow; then it lets their actions take
effect. So whatever a world of the user's own does in a step is done here, too.

What is kept, where the run has a folder, is kept by the step: what each person has remembered since, and what of its state is new, in TinyTroupe's own
encoding. Lives on the engine's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import orjson

from troupelab.bridges.tinytroupe.member import CALLER, Acted, Caller, Member
from troupelab.bridges.tinytroupe.troupe import Troupe, take_effect
from troupelab.engine.actor import Actor
from troupelab.engine.ahead import Ahead
from troupelab.engine.consolidator import Consolidator
from troupelab.engine.parts import Parts
from troupelab.engine.standing import Standing
from troupelab.errors import RunError
from troupelab.events import Failed
from troupelab.models.account import Account
from troupelab.people.agent import Agent
from troupelab.telemetry.journal import ActRow, StateRow

__all__ = ["StageTroupe", "TroupeActor"]

_WORLD = -1
_CLEARED = "troupelab_cleared"
_MADE_ANEW = frozenset(
    {
        "current_messages",
        "_init_system_message",
        "_displayed_communications_buffer",
        "episodic_memory",
        "semantic_memory",
    }
)
"""What TinyTroupe makes anew of the rest, and memories, which have rows of their own."""


class StageTroupe(Troupe):
    """A troupe whose world's steps the engine plays."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reached = asyncio.Event()
        """Set when the world's step has come to the acts."""
        self.acted = asyncio.Event()
        """Set when all acts of the step are over."""
        self.results: dict[str, Any] = {}

    async def play(self, world: Any) -> dict[str, Any]:
        """Let the engine play the acts, and then the agents' actions take effect in the agents' order."""
        self.reached.set()
        await self.acted.wait()
        results, self.results = self.results, {}
        await self.hub.run(lambda: take_effect(world, results))
        return results


class TroupeActor(Actor):
    """Plays the acts of an adopted world.

    Args:
        parts: the run's.
        consolidator: the run's.
        ahead: the run's.
        standing: the run's.
        world: the TinyWorld.
        persons: its agents, by index.
        troupe: theirs.
        step_time: what a step takes in the world; None where its time stands still.
        keeps: whether the run is to be gone on with after a crash.
        resumed: whether memories and states come out of an earlier life.
    """

    calls_often = True

    def __init__(
        self,
        parts: Parts,
        consolidator: Consolidator,
        ahead: Ahead,
        standing: Standing,
        *,
        world: Any,
        persons: Sequence[Any],
        troupe: StageTroupe,
        step_time: timedelta | None,
        keeps: bool,
        resumed: bool,
    ) -> None:
        super().__init__(parts, consolidator, ahead, standing)
        self._world = world
        self._persons = list(persons)
        self._troupe = troupe
        self._step_time = step_time
        self._keeps = keeps
        self._playing: asyncio.Future[None] | None = None
        self._rows: list[ActRow] = []
        self._kept: list[dict[str, str]] = [{} for _ in range(len(self._persons) + 1)]
        self._told = {person.name for person in self._persons}
        self._resumed = resumed
        self._last_step = -1
        self._is_whole = not resumed
        """Whether all that was begun is over, so that what is remembered now may be kept."""

    def _member(self, index: int) -> Member:
        return self._troupe.members[index]

    # ------------------------------------------------------------------ the play

    async def open(self) -> None:
        """Take the loop, and keep how everybody was when the run began."""
        self._troupe.hub.open()
        if not self._resumed:
            self._keep_rows(-1)

    async def close(self) -> None:
        """Give the loop back, with nothing under way."""
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.gather(self._playing, return_exceptions=True)
        await self._troupe.hub.drain()
        if self._is_whole:  # what was remembered since the last step, of an interview say
            self._keep_rows(self._last_step)
        self._troupe.hub.close()

    async def prepare(self, step: int) -> None:
        """Let the persons hear what the run was told, and the world begin its step."""
        troupe = self._troupe
        troupe.step, self._is_whole = step, False
        for person in self._world.agents:
            if person.name not in self._told:
                self._told.add(person.name)
                sentence = (
                    f"{person.name} came into the world after it was adopted: it hears, and does not act in this run"
                )
                self._standing.alert("cast", sentence)
        for member in troupe.members:
            troupe.begin(member)
        for agent, person in zip(self._stage.agents, self._persons, strict=True):
            for message in agent.take(step):
                stimulus = {"type": message.kind, "content": message.text, "source": message.source}
                await troupe.hub.run(partial(person._observe, stimulus=stimulus))
        troupe.reached.clear()
        troupe.acted.clear()
        self._playing = asyncio.ensure_future(troupe.hub.run(self._world_step))
        reached = asyncio.ensure_future(troupe.reached.wait())
        await asyncio.wait([self._playing, reached], return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()

    def _world_step(self) -> None:
        token = CALLER.set(Caller(self._troupe, None, "world", self._troupe.step))
        try:
            self._world._step(timedelta_per_step=self._step_time, randomize_agents_order=True, parallelize=True)
        finally:
            CALLER.reset(token)

    async def act(self, agent: Agent, step: int, begun: Callable[[], object]) -> bool:
        """Have a person take its turn.

        Raises:
            RunError: it failed, and the run is to end by it.
        """
        begun()
        troupe, person, member = self._troupe, self._persons[agent.index], self._member(agent.index)
        # A world that has its agents act in its own way has done so; and whoever left it does not act.
        if not troupe.reached.is_set() or person not in self._world.agents:
            self.acts_done += 1
            return True
        account = Account(self._clock.now())
        account.begin(account.came_s)
        self._under_way[agent.index] = (step, account)
        call = 0
        try:
            while True:
                done = len(person._actions_buffer)
                try:
                    troupe.results[person.name] = await troupe.hub.run(partial(person.act, return_actions=True))
                    break
                except Exception as failure:
                    call += 1
                    again = await self._again(agent, step, failure, call)
                    if again is None:
                        return False
                    if not again or len(person._actions_buffer) > done:  # what was done already is not done twice
                        break
        finally:
            self._under_way.pop(agent.index, None)
        acted = member.last_act
        self._usual_s += (acted.end_s - acted.start_s - self._usual_s) / (self.acts_done + 1)
        self.acts_done += 1
        self._rows.append(
            ActRow(agent.index, step, acted.start_s, acted.end_s, 0, list(acted.actions), {}, 0, acted.error)
        )
        return True

    async def between(self, step: int) -> None:
        """Let the actions of the step before take effect, and keep what came of it."""
        troupe, playing, self._playing = self._troupe, self._playing, None
        if playing is None:
            return
        troupe.acted.set()
        try:
            await playing
        except Exception as error:
            message = f"the world's step {troupe.step} failed: {error}"
            troupe.tell(Failed(self._clock.now(), troupe.step, _WORLD, type(error).__name__, message, 0))
            if self._parts.options.on_error == "raise":
                raise RunError(message) from error
        if self._keeps:
            for member in troupe.members:  # notes that are still being written belong to this step
                await troupe.hub.run(member.settle)
        troupe.tell_sizes()
        # Where the run was stopped amid the step, or amid its notes, the step is played again when it goes on.
        self._is_whole = step > troupe.step and not any(member.was_cut_off for member in troupe.members)
        if self._is_whole:
            self._keep_rows(troupe.step)

    # ------------------------------------------------------------------ what is kept

    def _keep_rows(self, step: int) -> None:
        rows, self._rows, self._last_step = self._rows, [], step
        if not self._keeps:
            return
        for row in rows:
            self._parts.teller.note(row)
        for index, person in enumerate(self._persons):
            diary = self._member(index).diary
            values, diary.fresh = diary.fresh, []
            notes, diary.fresh_notes = diary.fresh_notes, []
            state = self._news(index, _encoded(person, diary) | _written({_CLEARED: diary.cleared}))
            self._parts.teller.note(StateRow(index, step, values, notes, diary.episode_values, state))
        own = {
            "current_datetime": _time(self._world.current_datetime),
            "_simulation_steps": self._world._simulation_steps,
        }
        self._parts.teller.note(StateRow(_WORLD, step, [], [], 0, self._news(_WORLD, _written(own))))
        if (journal := self._parts.teller.journal) is not None:
            journal.flush()  # now, since a crash costs whatever is not on its way to the disk

    def _news(self, index: int, now: dict[str, str]) -> dict[str, str]:
        """What is not as it was when it was kept last."""
        kept, self._kept[index] = self._kept[index], now
        return {name: text for name, text in now.items() if kept.get(name) != text}

    async def relive(self, row: ActRow) -> None:
        """Record an act of an earlier life again; what came of it is in the rows that follow."""
        self._clock.set(row.end_s)
        actions = tuple((each[0], each[1], each[2]) for each in row.actions)
        self._member(row.agent).tell_act(row.step, Acted(row.start_s, row.end_s, actions, row.error), 1)
        self.acts_done += 1

    async def restore(self, row: StateRow) -> None:
        """Remember what a person remembered by the end of a step, and take note of its state."""
        self._kept[row.agent].update(row.state)
        self._last_step = row.step
        self._troupe.step = max(0, row.step)
        if row.agent == _WORLD:
            self._troupe.tell_sizes()
            return
        member = self._member(row.agent)
        self._troupe.begin(member)
        member.diary.take_in(row.values, row.notes, row.episode)

    async def restored(self) -> None:
        """Give world and persons the state in which they were."""
        for person, kept in zip(self._persons, self._kept, strict=False):
            if kept:
                await self._troupe.hub.run(partial(self._decode, person, kept))
        kept = {name: orjson.loads(text) for name, text in self._kept[_WORLD].items()}
        if kept:
            time = kept["current_datetime"]
            self._world.current_datetime = None if time is None else datetime.fromisoformat(time)
            self._world._simulation_steps = kept["_simulation_steps"]
        for member in self._troupe.members:
            member.diary.fresh, member.diary.fresh_notes = [], []
        for person in self._persons:
            await self._troupe.hub.run(person.reset_prompt)
        self._is_whole = True

    def _decode(self, person: Any, kept: dict[str, str]) -> None:
        """Have TinyTroupe read a state, but for the memories, which are there."""
        episodic, semantic = person.episodic_memory, person.semantic_memory
        state = {name: orjson.loads(text) for name, text in kept.items()}
        episodic.diary.leave_out([(first, last) for first, last in state.pop(_CLEARED, [])])
        own = {name: value for name, value in vars(person).items() if name in _MADE_ANEW}
        self._troupe.restoring = True
        try:
            person.decode_complete_state(
                {**own, **state, "episodic_memory": _EMPTY_EPISODIC, "semantic_memory": _EMPTY_SEMANTIC}
            )
        finally:
            self._troupe.restoring = False
            person.episodic_memory, person.semantic_memory = episodic, semantic


_EMPTY_EPISODIC = {"json_serializable_class_name": "EpisodicMemory", "memory": [], "episodic_buffer": []}
_EMPTY_SEMANTIC = {"json_serializable_class_name": "SemanticMemory", "memories": []}


def _encoded(person: Any, diary: Any) -> dict[str, str]:
    """A person's state in TinyTroupe's own encoding, but for what is made anew and for memories; as JSON by names."""
    own = vars(person)
    aside = {name: own[name] for name in _MADE_ANEW if name in own and not name.endswith("memory")}
    diary.by_reference = True
    own.update(dict.fromkeys(aside))  # tens of kilobytes that would be copied for nothing
    try:
        state = person.encode_complete_state()
    finally:
        own.update(aside)
        diary.by_reference = False
    return _written({name: value for name, value in state.items() if name not in _MADE_ANEW})


def _written(state: dict[str, Any]) -> dict[str, str]:
    """Each value as JSON; what JSON cannot hold is left out, and stays as the user's code makes it."""
    written = {}
    for name, value in state.items():
        try:
            written[name] = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS).decode()
        except TypeError:
            continue
    return written


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
