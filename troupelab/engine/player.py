"""The player: begins acts as they may begin, and does between steps what is due there. It lives on the engine's event loop.

In lockstep all wait after each step; in free order before a step with an intervention, and where the run is to pause after some steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from troupelab.engine.actor import Actor
from troupelab.engine.interventions import Intervention, next_due
from troupelab.engine.keeper import Keeper
from troupelab.engine.order import Order
from troupelab.engine.parts import Parts
from troupelab.engine.standing import Standing
from troupelab.errors import RunError
from troupelab.events import Failed, StepDone
from troupelab.people.agent import Agent
from troupelab.telemetry.journal import CalledRow

__all__ = ["Player"]

_BEGIN_TOGETHER = 16


class Player:
    """Plays all steps.

    Args:
        parts: the run's.
        order: says which act may begin.
        actor: plays each.
        standing: where the run stands.
        keeper: keeps what interventions did.
        steps: how many steps to play.
        lockstep: whether all wait after each step.
        interventions: what is called between steps, in this order.
    """

    def __init__(
        self,
        parts: Parts,
        order: Order,
        actor: Actor,
        standing: Standing,
        keeper: Keeper,
        *,
        steps: int,
        lockstep: bool,
        interventions: Sequence[Intervention],
    ) -> None:
        self.subject: Any = None
        """What interventions are called with: the run."""
        self.steps = steps
        self.lockstep = lockstep
        self.interventions = tuple(interventions)
        self.pause_after: int | None = None
        """Pause when so many steps are done."""
        self.tasks: dict[asyncio.Task[None], bool] = {}
        """Acts that have begun, and whether they wait for nothing more but the model."""
        self.began: dict[int, tuple[float, float]] = {}
        """When each unfinished step began, and how long the run had been held by then."""
        self.prepared = -1
        """The last step before which all that was due has been done."""
        self._parts = parts
        self._clock = parts.clock
        self._order = order
        self._actor = actor
        self._standing = standing
        self._keeper = keeper
        self._news = asyncio.Event()
        self._broken: BaseException | None = None

    @property
    def steps_done(self) -> int:
        """How many steps everybody has finished."""
        return min(self._order.lowest, self.steps)

    async def play(self) -> None:
        """Play until the last step is done, or the run is stopping and nobody acts any more.

        Raises:
            RunError: an act broke, or failed where that ends the run.
        """
        order, standing = self._order, self._standing
        while not standing.stopping and order.lowest < self.steps:
            await standing.go.wait()
            if standing.stopping:
                break
            if order.lowest > self.prepared:
                # Everybody has finished what comes before this step.
                await self._prepare(order.lowest)
                continue
            order.until = self._next_barrier()
            taken = 0
            while taken < _BEGIN_TOGETHER and not standing.stopping and (due := order.take()) is not None:
                self._begin_act(*due)
                taken += 1
            if taken:
                # A thousand prompts take a while to build: calls and controls must not wait for the last of them.
                await asyncio.sleep(0)
            else:
                self._news.clear()
                await self._news.wait()
            self._check()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self._check()
        await self._actor.between(self.steps_done)

    def wake(self) -> None:
        """Look again whether the run is stopping."""
        self._news.set()

    def _check(self) -> None:
        if isinstance(self._broken, RunError):
            raise self._broken
        if self._broken is not None:
            raise RunError(f"an act broke: {type(self._broken).__name__}: {self._broken}") from self._broken

    def _next_barrier(self) -> int:
        """The first step that nobody may begin before all have finished the one before."""
        step = self._order.lowest
        if self.lockstep or self._parts.limits.step_delay_ms:
            return min(step + 1, self.steps)
        dues = (next_due(self._open(), step), self.pause_after)
        return min([self.steps, *(due for due in dues if due is not None and due > step)])

    async def _prepare(self, step: int) -> None:
        """What is done before a step, when all have finished the one before."""
        pool, standing = self._parts.stage.pool, self._standing
        await self._actor.between(step)
        if (problem := pool.problem) is not None:
            # Nothing is lost: what could not be written waits in RAM, and is written once there is room.
            message = f"{problem}; the run pauses"
            self._parts.teller.tell(Failed(self._clock.now(), step - 1, -1, type(problem).__name__, message, 0))
            standing.pause(f"the disk: {problem}")
            await standing.go.wait()
            pool.retry()
        if self.pause_after is not None and step >= self.pause_after:
            self.pause_after = None
            standing.pause(f"after step {step - 1}")
            return  # what is due before the step is done when the run goes on
        if step and (delay_ms := self._parts.limits.step_delay_ms):
            await asyncio.sleep(delay_ms / 1000)
        if not standing.stopping:
            await self._intervene(step)
            await self._actor.prepare(step)
        self.prepared = step

    def _open(self) -> list[Intervention]:
        """The interventions that may still be called."""
        return [
            each for number, each in enumerate(self.interventions) if not (each.once and self._keeper.called[number])
        ]

    async def _intervene(self, step: int) -> None:
        """Call the interventions that are due before a step; what they do is in the journal as a whole or not at all."""
        due = [each for each in self._open() if each.is_due(step)]
        if not due:
            return
        with self._keeper.holding():
            for each in due:
                self._keeper.by = each.name
                try:
                    if each.when is None or await asyncio.to_thread(each.when, self.subject):
                        number = self.interventions.index(each)
                        self._keeper.called[number] += 1
                        self._parts.teller.note(CalledRow(step, number))
                        await asyncio.to_thread(each.do, self.subject)
                except Exception as error:
                    self._tell_failed(each, step, error)
                finally:
                    self._keeper.by = "user"
            self._parts.teller.note(CalledRow(step, -1))

    def _tell_failed(self, intervention: Intervention, step: int, error: Exception) -> None:
        message = f"the intervention {intervention.name} before step {step} failed: {error}"
        self._parts.teller.tell(Failed(self._clock.now(), step, -1, type(error).__name__, message, 0))
        if self._parts.options.on_error == "raise":
            raise RunError(message) from error
        if self._parts.options.on_error == "pause":
            self._standing.halt("on_error", message)

    def _begin_act(self, step: int, agent: int) -> None:
        if step not in self.began:
            self.began[step] = (self._clock.now(), self._standing.held_s)
        self._standing.step = max(step, self._standing.step)
        task = asyncio.create_task(self._act(self._parts.stage.agents[agent], step))
        self.tasks[task] = False
        task.add_done_callback(self._ended)

    async def _act(self, agent: Agent, step: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not await self._actor.act(agent, step, lambda: self.tasks.update({task: True})):
            return
        before = self._order.lowest
        self._order.finish(agent.index)
        for finished in range(before, self._order.lowest):
            end_s, size = self._clock.now(), self._parts.pipeline.sender.limiter.size
            start_s, held_s = self.began.pop(finished)
            held_s = self._standing.held_s - held_s
            self._parts.teller.tell(StepDone(end_s, finished, start_s, end_s, held_s, size))

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self.tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = self._broken or error
        self._news.set()
