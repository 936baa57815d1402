"""The stage: a world while it is played. Who is on it, and how what one does reaches the others.

A message of step s is heard at step s + 1, whoever acts first. It belongs to the engine's loop thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from troupelab.events import Emit, Failed
from troupelab.ids import TOLD, WORLD, make_id
from troupelab.livelimits import LiveLimits
from troupelab.memory.memory import Memory
from troupelab.memory.pool import Pool
from troupelab.people.acts import CONVERSATION, REACH_OUT, SOCIAL, TALK, Action, Message
from troupelab.people.agent import Agent
from troupelab.people.world import World

__all__ = ["EVERYBODY", "Stage"]

EVERYBODY = frozenset({"", "everyone", "everybody", "all", "the group", "group"})
"""What a target may say who is meant to hear something: all."""


class Stage:
    """The agents of a world, and the delivery of what they say.

    Args:
        world: what is played.
        limits: the memory limits of each agent's first step.
        pool: what the agents' memories share.
        emit: is told of speech that nobody can be given.
        clock: seconds since the run's start.
    """

    def __init__(self, world: World, limits: LiveLimits, *, pool: Pool, emit: Emit, clock: Callable[[], float]) -> None:
        self.world = world
        self.pool = pool
        self.agents = [
            Agent(index, persona, Memory(index, limits.for_agent(persona.name), pool))
            for index, persona in enumerate(world.personas)
        ]
        if world.knowledge:
            known = pool.knowledge(world.knowledge)
            for agent in self.agents:
                agent.memory.learn(known)
        self._by_name = {agent.name.casefold(): agent for agent in self.agents}
        self._emit = emit
        self._clock = clock

    def open_step(self, step: int) -> None:
        """Give the agents what the world has scheduled for a step."""
        due = [event for event in self.world.stimuli if event.step == step]
        for sequence, event in enumerate(due):
            message = Message(make_id(WORLD, step, sequence), event.kind, event.source, event.text)
            for index in event.to:
                self.agents[index].receive(step, message)

    def tell(self, step: int, sequence: int, kind: str, source: str, text: str, to: Sequence[int]) -> None:
        """Give agents what the run was told for a step from outside; they hear it after what the world had scheduled.

        Args:
            step: the step in which it is heard.
            sequence: how much the run was told for that step before.
            kind: TinyTroupe's type of stimulus, such as CONVERSATION.
            source: who says it; empty for the world.
            text: what is heard.
            to: who hears it, by index.
        """
        message = Message(make_id(WORLD, step, TOLD + sequence), kind, source, text)
        for index in to:
            self.agents[index].receive(step, message)

    def listeners(self, agent: Agent) -> list[str]:
        """Whom an agent can talk to now."""
        heard_by = {*self.world.audience[agent.index], *agent.opened}
        return [self.agents[index].name for index in sorted(heard_by)]

    def holds_up(self, agent: Agent) -> int:
        """How many others wait for what an agent may say: those who hear it, and those whom it could reach out to."""
        return len(self.world.audience[agent.index]) + len(self.world.reachable[agent.index])

    def within_reach(self, agent: Agent) -> list[str]:
        """Whom an agent could reach out to, and has not yet."""
        known = {*self.world.audience[agent.index], *agent.opened}
        return [self.agents[index].name for index in self.world.reachable[agent.index] if index not in known]

    def deliver(self, agent: Agent, step: int, actions: tuple[Action, ...]) -> None:
        """Let actions take effect on others: TALK is heard, REACH_OUT opens a conversation; all else stays with the agent."""
        for sequence, action in enumerate(actions):
            if action.type == TALK:
                self._talk(agent, step, sequence, action)
            elif action.type == REACH_OUT:
                self._reach_out(agent, step, sequence, action)

    def _talk(self, agent: Agent, step: int, sequence: int, action: Action) -> None:
        hearers = self.world.audience[agent.index]
        if action.target.casefold() not in EVERYBODY:
            target = self._by_name.get(action.target.casefold())
            if target is None or (target.index not in hearers and target.index not in agent.opened):
                self._undeliverable(agent, step, action)
                return
            hearers = (target.index,)
        message = Message(make_id(agent.index, step, sequence), CONVERSATION, agent.name, action.content)
        for index in hearers:
            self.agents[index].receive(step + 1, message)

    def _reach_out(self, agent: Agent, step: int, sequence: int, action: Action) -> None:
        target = self._by_name.get(action.target.casefold())
        if target is None or target.index not in self.world.reachable[agent.index]:
            self._undeliverable(agent, step, action)
            return
        agent.opened.add(target.index)
        text = action.content or f"{agent.name} would like to talk with you."
        target.receive(step + 1, Message(make_id(agent.index, step, sequence), SOCIAL, agent.name, text))

    def _undeliverable(self, agent: Agent, step: int, action: Action) -> None:
        message = (
            f"{action.type} to {action.target!r} reached nobody: this world lets {agent.name} reach nobody of that name"
        )
        self._emit(Failed(self._clock(), step, agent.index, "Undeliverable", message, 0))
