"""In which order acts may begin: a barrier after each step, or everyone as soon as all whom they may hear are done.

An agent hears in step s what was said in step s - 1. So it may begin step s when everyone whom it may hear has finished step
s - 1: those whose audience it is in, and those between whom and it REACH_OUT may open a conversation. The idea is that of AI Metropolis
(arXiv 2411.03519), where nearness on a map takes the place of a graph. Lockstep is the same with a barrier after each step.

Nobody begins a step before all have finished the one `MAX_LEAD` before it: what waits in inboxes, and how long a change of a memory
limit takes to reach everyone, stays bounded. Owned by the engine's loop thread; `hears` is pure.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence

from troupelab.people.world import World

__all__ = ["MAX_LEAD", "Order", "hears", "nobody_waits_less"]

MAX_LEAD = 8
"""Nobody begins step s before all have finished step s - 8."""


def hears(world: World) -> tuple[tuple[int, ...], ...]:
    """For each agent, all whom it may hear, by index: where one may reach out to another, they may hear each other.

    >>> world = World.load("product_launch")
    >>> len(hears(world)[0])
    7
    """
    heard: list[set[int]] = [set() for _ in world.personas]
    for speaker, audience in enumerate(world.audience):
        for hearer in audience:
            heard[hearer].add(speaker)
    for one, others in enumerate(world.reachable):
        for other in others:
            heard[one].add(other)
            heard[other].add(one)
    return tuple(tuple(sorted(others - {agent})) for agent, others in enumerate(heard))


def nobody_waits_less(heard: Sequence[Sequence[int]]) -> bool:
    """Whether everyone may hear everyone, so that no order waits less than lockstep.

    >>> nobody_waits_less([[1], [0]]), nobody_waits_less([[1], []])
    (True, False)
    """
    return all(len(others) == len(heard) - 1 for others in heard)


class Order:
    """Tells which act may begin next; each that ends may let others begin.

    Args:
        heard: per agent, whom it waits for; nobody, where `until` alone holds acts back (lockstep).
        holds_up: per agent, how many wait for it: among acts of one step, who holds up most goes first.
        done: per agent, how many steps it has finished already.

    >>> order = Order([[], [0]], [1, 0], [0, 0])
    >>> order.until = 2
    >>> order.take(), order.take(), order.take()
    ((0, 0), (0, 1), None)
    >>> order.finish(0)
    >>> order.take(), order.take()  # the second agent is still at its first step
    ((1, 0), None)
    """

    def __init__(self, heard: Sequence[Sequence[int]], holds_up: Sequence[int], done: Sequence[int]) -> None:
        self.until = 0
        """Nobody begins this step or a later one."""
        self._heard = heard
        self._holds_up = holds_up
        self._done = list(done)
        self._heard_by: list[list[int]] = [[] for _ in heard]
        for agent, others in enumerate(heard):
            for other in others:
                self._heard_by[other].append(agent)
        self._at = Counter(self._done)
        self.lowest = min(self._done)
        """How many steps all have finished."""
        self._missing = [0] * len(heard)
        self._ready: list[tuple[int, int, int]] = []
        for agent in range(len(heard)):
            self._wait(agent)

    def take(self) -> tuple[int, int] | None:
        """The next act that may begin, as (step, agent): the lowest step first; None where none may now."""
        if not self._ready or self._ready[0][0] >= min(self.until, self.lowest + MAX_LEAD):
            return None
        step, _, agent = heapq.heappop(self._ready)
        return step, agent

    def finish(self, agent: int) -> None:
        """Count an agent's step as finished."""
        step = self._done[agent]
        self._done[agent] += 1
        self._at[step] -= 1
        self._at[step + 1] += 1
        while not self._at[self.lowest]:
            del self._at[self.lowest]
            self.lowest += 1
        for other in self._heard_by[agent]:
            if self._done[other] == step + 1:
                self._missing[other] -= 1
                if not self._missing[other]:
                    self._enter(other)
        self._wait(agent)

    def _wait(self, agent: int) -> None:
        """Count for whom an agent's next step waits."""
        step = self._done[agent]
        self._missing[agent] = sum(self._done[other] < step for other in self._heard[agent])
        if not self._missing[agent]:
            self._enter(agent)

    def _enter(self, agent: int) -> None:
        heapq.heappush(self._ready, (self._done[agent], -self._holds_up[agent], agent))
