"""The actor: has an agent take its turn, at the model or out of the journal, and lets the turn take effect.

An act takes what was heard, builds the prompt, asks the model, and commits all that follows from the turn in one go. An act that is cancelled
has changed nothing. Living through an act again is the same without asking. It lives on the engine's event loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import xxhash

from troupelab.engine.ahead import Ahead
from troupelab.engine.consolidator import Consolidator
from troupelab.engine.parts import Parts
from troupelab.engine.prober import Prober
from troupelab.engine.standing import Standing
from troupelab.errors import CheckpointError, ModelError, RunError
from troupelab.events import ActDone, ActionTaken, Alerted, Failed
from troupelab.ids import draw
from troupelab.models.account import Account
from troupelab.models.model import ChatMessage, Request
from troupelab.people.acts import EXPECTED, TURN, Action, Message, Turn, read_turn
from troupelab.people.agent import Agent, as_text
from troupelab.people.prompt import act_part, act_prompt, gist
from troupelab.telemetry.journal import ActRow, StateRow

__all__ = ["Actor"]

_NOTHING_DONE = Turn((), {}, 0)
_ROUNDS = 3
"""With `on_error="retry"`, an act is asked for so often, each time with all attempts of a call."""

_STALLED_S = 10.0
_STALLED_TIMES = 10.0
"""An act that has been at the model for so long, and for so many times the usual act, is told of."""


class Actor:
    """Plays acts.

    Args:
        parts: the run's.
        consolidator: makes notes of what is old.
        ahead: has vectors at hand.
        standing: where the run stands.
    """

    calls_often: ClassVar[bool] = False
    """Whether an act may ask the model more than once: then a run that is to stop lets calls in until its acts are over."""

    def __init__(self, parts: Parts, consolidator: Consolidator, ahead: Ahead, standing: Standing) -> None:
        self.acts_done = 0
        self.strays = 0
        """Acts that were lived through again and were asked for by another prompt than the first time."""
        self._parts = parts
        self._stage = parts.stage
        self._clock = parts.clock
        self._consolidator = consolidator
        self._ahead = ahead
        self._standing = standing
        self.prober = Prober(parts.stage.world.probes, parts.options.ask_every, parts.teller.emit)
        """Asks memories about facts after acts."""
        self._under_way: dict[int, tuple[int, Account]] = {}
        self._told_stalled: set[tuple[int, int]] = set()
        self._usual_s = 0.0

    async def act(self, agent: Agent, step: int, begun: Callable[[], object]) -> bool:
        """Have an agent take its turn.

        Args:
            agent: who.
            step: when.
            begun: called when nothing more is waited for but the model.

        Returns:
            False where the run ends before that; nothing has changed then.

        Raises:
            RunError: the model failed, and the run is to end by it.
        """
        await self._consolidator.admit(agent)
        begun()
        heard = agent.hear(step)
        like = gist(heard)
        if not await self._ahead.fetch([*(message.text for message in heard), like]):
            return False
        messages = self._prompt(agent, step, heard)
        came_s = self._clock.now()
        try:
            asked = await self._ask(agent, step, messages, like)
        finally:
            self._under_way.pop(agent.index, None)
        if asked is None:
            return False
        turn, error, begun_s = asked
        if not await self._ahead.fetch([*_wordings(turn.actions), *self.prober.texts(agent.index, step)]):
            return False
        end_s = self._clock.now()
        start_s = came_s if math.isnan(begun_s) else begun_s
        actions = [(each.type, each.content, each.target) for each in turn.actions]
        row = ActRow(agent.index, step, start_s, end_s, _digest(messages), actions, turn.state, turn.left_out, error)
        self._usual_s += (end_s - start_s - self._usual_s) / (self.acts_done + 1)
        self._commit(agent, heard, turn, row)
        self._parts.teller.note(row)
        return True

    def _prompt(self, agent: Agent, step: int, heard: Sequence[Message]) -> tuple[ChatMessage, ...]:
        agent.memory.begin(step, self._parts.limits.at_step(step, agent.name))
        messages = act_prompt(agent, self._stage, step, heard)
        if self._parts.options.notes == "model":
            agent.last_prompt = messages
        return messages

    async def _ask(
        self, agent: Agent, step: int, messages: tuple[ChatMessage, ...], like: str
    ) -> tuple[Turn, str, float] | None:
        """Ask the model until there is a turn, or as `on_error` says: the turn, the error's class, when it began; None where the run ends."""
        part = act_part(messages, self._stage) if self._parts.options.pack_acts else None
        priority = (step, -self._stage.holds_up(agent))
        call, begun_s = 0, math.nan
        while True:
            account = Account(self._clock.now())
            self._under_way[agent.index] = (step, account)

            def request(attempt: int, call: int = call) -> Request:
                seed = draw(self._parts.seed, "act", agent.index, step, call, attempt)
                return Request(
                    "act", agent.index, step, call, attempt, seed, messages, schema=TURN, gist=like, part=part
                )

            try:
                complete = self._parts.pipeline.complete
                turn = await complete(request, read_turn, EXPECTED, account=account, priority=priority)
            except ModelError as failure:  # whatever a model raises has become one
                call += 1
                begun_s = account.begun_s if math.isnan(begun_s) else begun_s
                again = await self._again(agent, step, failure, call)
                if again is None:
                    return None
                if not again:
                    return _NOTHING_DONE, type(failure).__name__, begun_s
            else:
                return turn, "", account.begun_s if math.isnan(begun_s) else begun_s

    async def _again(self, agent: Agent, step: int, failure: Exception, call: int) -> bool | None:
        """Whether a failed act is asked for again; None where the run ends."""
        policy = self._parts.options.on_error
        if policy == "raise":
            message = f"{agent.name}'s act of step {step} failed, and on_error is 'raise': {failure}"
            raise RunError(message) from failure
        if policy == "pause":
            if not self._standing.halt("on_error", f"{agent.name}'s act of step {step} failed: {failure}"):
                return None
            await self._standing.go.wait()
            return True
        if policy == "retry" and call < _ROUNDS:
            message, kind = f"{failure}; the act is asked for again ({call + 1} of {_ROUNDS})", type(failure).__name__
            self._parts.teller.tell(Failed(self._clock.now(), step, agent.index, kind, message, call))
            return True
        return False

    async def open(self) -> None:
        """Called once, on the loop, before anything else."""

    async def between(self, step: int) -> None:
        """What follows from the step before this one, when all have finished that; called again where the run was paused meanwhile."""

    async def prepare(self, step: int) -> None:
        """What comes before the acts of a step, after its interventions."""

    async def close(self) -> None:
        """Called once, on the loop, after everything else."""

    async def restore(self, row: StateRow) -> None:
        """Take over a state of an earlier life that follows from nothing else.

        Raises:
            CheckpointError: agents of this kind have none.
        """
        raise CheckpointError(
            "this run's agents are TinyTroupe's persons: make their world again, and go on with "
            "troupelab.bridges.tinytroupe.adopt(world, folder=…, resume=True)"
        )

    async def restored(self) -> None:
        """Called once, when the past has been lived through."""

    async def relive(self, row: ActRow) -> None:
        """Let a turn of an earlier life take effect, all as it was then."""
        self._clock.set(row.start_s)
        agent = self._stage.agents[row.agent]
        await self._consolidator.admit(agent)
        self._clock.set(row.end_s)
        heard = agent.hear(row.step)
        actions = tuple(Action(*each) for each in row.actions)
        asked = self.prober.texts(row.agent, row.step)
        await self._ahead.fetch([*(message.text for message in heard), gist(heard), *_wordings(actions), *asked])
        self.strays += _digest(self._prompt(agent, row.step, heard)) != row.prompt
        self._commit(agent, heard, Turn(actions, row.state, row.left_out), row)

    def _commit(self, agent: Agent, heard: list[Message], turn: Turn, row: ActRow) -> None:
        """Let an act take effect, all of it at once: no await in here."""
        step = row.step
        agent.commit(step, heard, turn.actions)
        agent.state = turn.state or agent.state
        if self._stage.world.ends_episode(step):
            agent.memory.end_episode()
        self._stage.deliver(agent, step, turn.actions)
        self._consolidator.start(agent)
        self._parts.teller.emit(agent.memory.size())
        self._record(row)
        self.prober.ask(agent, step, row.end_s)

    def _record(self, row: ActRow) -> None:
        """Tell of an act what its row says."""
        emit, step, agent = self._parts.teller.emit, row.step, row.agent
        self.acts_done += 1
        for sequence, (kind, content, target) in enumerate(row.actions):
            emit(ActionTaken(row.end_s, step, agent, sequence, kind, target, content))
        if row.left_out:
            message = f"{row.left_out} actions beyond the allowed number were left out"
            emit(Failed(row.end_s, step, agent, "TooManyActions", message, 0))
        emit(ActDone(row.end_s, step, agent, row.start_s, row.end_s, 1, len(row.actions), row.error))

    def look_for_stalled(self) -> None:
        """Tell, once each, of acts that have been at the model for far longer than usual."""
        now = self._clock.now()
        for index, (step, account) in self._under_way.items():
            waited_s = now - account.begun_s
            if waited_s >= max(_STALLED_S, _STALLED_TIMES * self._usual_s) and (index, step) not in self._told_stalled:
                self._told_stalled.add((index, step))
                name = self._stage.agents[index].name
                message = (
                    f"{name} has been at the model for {waited_s:.0f} s in step {step}; whoever need not wait goes on"
                )
                self._parts.teller.tell(Alerted(now, step, "stalled", message))


def _wordings(actions: Sequence[Action]) -> list[str]:
    """What an agent did is remembered in one wording, and what it said is heard by others in another."""
    return [text for each in actions for text in (as_text(each), each.content)]


def _digest(messages: Sequence[ChatMessage]) -> int:
    """A number that tells what an agent remembered and heard, by the last message of its prompt; the others say who it is."""
    return xxhash.xxh3_64_intdigest(messages[-1].content.encode("utf-8", "surrogatepass"))
