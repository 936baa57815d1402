"""The engine: plays a stage step by step, as many acts at once as the limits allow.

It lives on one event loop, in a thread of its own, and owns the agents, their memories and the pipeline there. Only the
methods that say so may be called from other threads; they hand the call over to the loop and wait for it.

An act takes what was heard, builds the prompt, asks the model once, and commits all that follows from it in one go. An act
that is cancelled has changed nothing. Nobody begins a step before all have finished the one before (lockstep).

What no call can get past (a budget that is used up, a key that is refused) pauses the run, with an alert that says which; it goes
on when that is mended, and no act is lost by it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, TypeAlias

from troupelab.engine.ahead import Ahead
from troupelab.engine.consolidator import Consolidator
from troupelab.engine.handover import Handover
from troupelab.engine.interviewer import Interviewer
from troupelab.engine.options import Options
from troupelab.engine.watch import watch_process
from troupelab.errors import ModelError, RunError
from troupelab.events import ActDone, ActionTaken, Alerted, Emit, Failed, LimitChanged, RunChanged, StepDone
from troupelab.ids import draw
from troupelab.limits import FIELDS, Number
from troupelab.livelimits import LimitChange, LiveLimits
from troupelab.models.account import Account
from troupelab.models.model import Request
from troupelab.models.pipeline import Pipeline
from troupelab.people.acts import EXPECTED, TURN, Message, Turn, read_turn
from troupelab.people.agent import Agent, as_text
from troupelab.people.prompt import act_part, act_prompt, gist, warm_up_prompt
from troupelab.people.stage import Stage

__all__ = ["Engine", "State"]

State: TypeAlias = Literal["ready", "running", "paused", "stopping", "done", "stopped", "failed"]

_log = logging.getLogger("troupelab")
_BEGIN_TOGETHER = 16
_NOTHING_DONE = Turn((), {}, 0)


class Engine:
    """Plays one run.

    Args:
        stage: the agents and how they reach each other.
        pipeline: how they reach the model.
        limits: read where they are used; changes are accepted on the loop.
        steps: how many steps to play.
        options: how to play.
        seed: of every draw.
        emit: is told everything.
        clock: seconds since the run's start.
    """

    def __init__(
        self,
        stage: Stage,
        pipeline: Pipeline,
        limits: LiveLimits,
        *,
        steps: int,
        options: Options,
        seed: int,
        emit: Emit,
        clock: Callable[[], float],
    ) -> None:
        self.stage = stage
        self.pipeline = pipeline
        self.steps = steps
        self.state: State = "ready"
        self.step_started = -1
        self.steps_done = 0
        self.acts_done = 0
        self.held_s = 0.0
        self._limits = limits
        self._options = options
        self._seed = seed
        self._emit = emit
        self._clock = clock
        self.handover = Handover()
        self._go = asyncio.Event()
        self._held_since: float | None = None
        self._pause_after: int | None = None
        self._waiting: set[asyncio.Task[None]] = set()
        self._acting: set[asyncio.Task[None]] = set()
        self._held_by = self.paused_for = ""
        self._ahead = Ahead(stage.pool.embedder, self._halt, self._go)
        self.interviewer = Interviewer(stage, pipeline, self._ahead, seed=seed)
        self._consolidator = Consolidator(
            pipeline, by_model=options.notes_by_model, seed=seed, emit=emit, clock=clock, ahead=self._ahead
        )

    # ------------------------------------------------------------------ the play, on the loop

    async def play(self, started: Future[None], *, paused: bool = False) -> None:
        """Play until the last step, or until stopped; `started` is settled as soon as the controls work.

        Raises:
            RunError: something broke that is no failed call; its cause is attached.
        """
        self.handover.open()
        self._limits.bind(self._on_limit_change)
        sender = self.pipeline.sender
        sender.on_halt = sender.budget.on_reached = self._halt
        self.pipeline.follow_limits()
        self._go.set()
        self._enter("running", "")
        if paused:
            self._pause("")
        watch = watch_process(
            self._limits, sender.limiter, self.stage.pool, emit=self._emit, clock=self._clock,
            active_s=lambda: self._clock() - self._held_total(), reached=self._halt,
        )  # fmt: skip
        watching = asyncio.create_task(watch)
        started.set_result(None)
        try:
            if (load := getattr(self.stage.pool.embedder, "load", None)) is not None:
                await asyncio.to_thread(load)  # beside the loop, so that the controls answer meanwhile
            if self._options.warm_up:
                await self._go.wait()
                await asyncio.wait([asyncio.create_task(self.pipeline.warm_up(warm_up_prompt(self.stage)))])
            for step in range(self.steps):
                await self._go.wait()
                if not self._stopping:
                    await self._play_step(step)
                if self._stopping:
                    break
                await self._between_steps(step)
            await self._finish()
            self._enter("stopped" if self._stopping else "done", "")
        except BaseException as error:
            self._enter("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            self._limits.bind(None)
            watching.cancel()
            for task in (*self._waiting, *self._acting):
                task.cancel()
            await asyncio.gather(watching, *self._waiting, *self._acting, return_exceptions=True)
            self._consolidator.close()
            await self.pipeline.drain()
            self.handover.close()
            sender.limiter.reopen()

    async def _play_step(self, step: int) -> None:
        start_s, held_s = self._clock(), self._held_total()
        self.step_started = step
        self.stage.open_step(step)
        tasks = []
        for place, agent in enumerate(self.stage.agents):
            if place % _BEGIN_TOGETHER == 0:
                # A thousand prompts take a while to build: calls and controls must not wait for the last of them.
                await asyncio.sleep(0)
                await self._go.wait()
                if self._stopping:
                    break
            task = asyncio.create_task(self._act(agent, step))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
            task.add_done_callback(self._acting.discard)
            tasks.append(task)
        failures = [
            outcome
            for outcome in await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(outcome, Exception)
        ]
        if failures:
            raise RunError(f"an act of step {step} broke: {type(failures[0]).__name__}: {failures[0]}") from failures[0]
        if not self._stopping:
            self.steps_done = step + 1
            end_s, sender = self._clock(), self.pipeline.sender
            self._emit(StepDone(end_s, step, start_s, end_s, self._held_total() - held_s, sender.limiter.size))

    async def _between_steps(self, step: int) -> None:
        if self.steps_done == self.steps:
            return
        if (problem := self.stage.pool.problem) is not None:
            # Nothing is lost: what could not be written waits in RAM, and is written once there is room.
            self._emit(Failed(self._clock(), step, -1, type(problem).__name__, f"{problem}; the run pauses", 0))
            self._pause(f"the disk: {problem}")
            await self._go.wait()
            self.stage.pool.retry()
        if self._pause_after is not None and self.steps_done >= self._pause_after:
            self._pause_after = None
            self._pause(f"after step {step}")
        if self._limits.step_delay_ms:
            await asyncio.sleep(self._limits.step_delay_ms / 1000)

    async def _act(self, agent: Agent, step: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        await self._consolidator.admit(agent)
        self._waiting.discard(task)
        self._acting.add(task)
        heard = agent.hear(step)
        like = gist(heard)
        if not await self._ahead.fetch([*(message.text for message in heard), like]):
            return
        agent.memory.begin(step, self._limits.at_step(step, agent.name))
        messages = act_prompt(agent, self.stage, step, heard)
        part = act_part(messages, self.stage) if self._options.pack_acts else None
        if self._options.notes_by_model:
            agent.last_prompt = messages

        def request(attempt: int) -> Request:
            seed = draw(self._seed, "act", agent.index, step, 0, attempt)
            return Request("act", agent.index, step, 0, attempt, seed, messages, schema=TURN, gist=like, part=part)

        account = Account(self._clock())
        turn, error = _NOTHING_DONE, ""
        try:
            priority = (step, -self.stage.holds_up(agent))
            turn = await self.pipeline.complete(request, read_turn, EXPECTED, account=account, priority=priority)
        except ModelError as failure:
            error = type(failure).__name__  # the act is skipped; the pipeline has told why
        # What it did is remembered in one wording, and what was said is heard by others in another.
        if not await self._ahead.fetch([text for each in turn.actions for text in (as_text(each), each.content)]):
            return
        self._commit(agent, step, heard, turn)
        end_s = self._clock()
        start_s = account.came_s if math.isnan(account.begun_s) else account.begun_s
        self._emit(ActDone(end_s, step, agent.index, start_s, end_s, 1, len(turn.actions), error))

    def _commit(self, agent: Agent, step: int, heard: list[Message], turn: Turn) -> None:
        """Let an act take effect, all of it at once: no await in here."""
        now = self._clock()
        agent.commit(step, heard, turn.actions)
        agent.state = turn.state or agent.state
        if self.stage.world.ends_episode(step):
            agent.memory.end_episode()
        self.stage.deliver(agent, step, turn.actions)
        self._consolidator.start(agent)
        self.acts_done += 1
        for sequence, action in enumerate(turn.actions):
            self._emit(ActionTaken(now, step, agent.index, sequence, action.type, action.target, action.content))
        if turn.left_out:
            message = f"{turn.left_out} actions beyond the allowed number were left out"
            self._emit(Failed(now, step, agent.index, "TooManyActions", message, 0))
        self._emit(agent.memory.size())

    async def _finish(self) -> None:
        """Bring in all notes; after the last step, also remember what was said in it."""
        for agent in self.stage.agents:
            await self._consolidator.admit(agent)
            if self.steps_done == self.steps:
                await self._ahead.fetch([message.text for message in agent.hear(self.steps)])
                agent.memory.begin(self.steps, self._limits.at_step(self.steps, agent.name))
                agent.commit(self.steps, agent.hear(self.steps), ())
                self._consolidator.start(agent)
                await self._consolidator.admit(agent)
                self._emit(agent.memory.size())

    # ------------------------------------------------------------------ controls, from any thread

    def pause(self) -> None:
        """Let no act begin any more; those under way finish. Any thread.

        Raises:
            RunError: the run is not running.
        """
        self._control(lambda: self._pause("asked to"), {"running"}, "pause")

    def resume(self) -> None:
        """Go on after a pause. Any thread.

        Raises:
            RunError: the run is not paused.
        """

        def go() -> None:
            self._pause_after = None
            self._resume()

        self._control(go, {"paused"}, "resume")

    def step(self, n: int) -> None:
        """Play until `n` more steps are finished (a half-played one counts), then pause again. Any thread.

        Raises:
            RunError: the run is not paused.
        """

        def go() -> None:
            self._pause_after = self.steps_done + n
            self._resume()

        self._control(go, {"paused"}, "step")

    def stop(self, *, now: bool) -> None:
        """End the run: acts under way finish, or with `now` are cancelled and leave nothing behind. Any thread.

        Raises:
            RunError: the run has ended already.
        """

        def end() -> None:
            if not self._stopping:
                self._enter("stopping", "asked to")
            self._release()
            self.pipeline.sender.limiter.close()
            for task in (*self._waiting, *(self._acting if now else ())):
                task.cancel()
            self._consolidator.stop(now=now)

        self._control(end, {"running", "paused", "stopping"}, "stop")

    def _control(self, action: Callable[[], None], allowed: set[str], name: str) -> None:
        def checked() -> None:
            if self.state not in allowed:
                raise RunError(f"{name} needs a run that is {' or '.join(sorted(allowed))}; this one is {self.state}")
            action()

        if not self.handover.do(checked):
            raise RunError(f"{name} needs a run that is {' or '.join(sorted(allowed))}; this one is {self.state}")

    # ------------------------------------------------------------------ state, on the loop

    def _enter(self, state: State, reason: str) -> None:
        self.state = state
        self._emit(RunChanged(self._clock(), self.step_started, state, reason))

    @property
    def _stopping(self) -> bool:
        return self.state == "stopping"

    def _pause(self, reason: str) -> None:
        self._held_since = self._clock()
        self._go.clear()
        self.pipeline.sender.limiter.hold(True)
        self.paused_for = reason
        self._enter("paused", reason)

    def _halt(self, kind: str, sentence: str) -> bool:
        """Pause for something that no call can get past, and say what; tells whether the run is held now."""
        if self.state == "running":
            self._pause(f"{kind}: {sentence}")
            self._held_by = kind
            mend = f"raise {kind} and it goes on" if kind in FIELDS else "when that is mended, run.resume() goes on"
            message = f"the run is paused: {sentence}; {mend}"
            self._emit(Alerted(self._clock(), self.step_started, kind, message))
            _log.warning(message)
        return self.state == "paused"

    def _resume(self) -> None:
        self._enter("running", "")
        self._release()  # last: whoever is let in may meet a guardrail at once, and pause the run again

    def _release(self) -> None:
        self.held_s, self._held_since = self._held_total(), None
        self._held_by = ""
        self._go.set()
        self.pipeline.sender.limiter.hold(False)

    def _held_total(self) -> float:
        return self.held_s + (0.0 if self._held_since is None else self._clock() - self._held_since)

    # ------------------------------------------------------------------ limits

    def _on_limit_change(self, change: LimitChange) -> None:
        self.handover.tell(self._accept, change)

    def _accept(self, change: LimitChange) -> None:
        """Accept a change: memory limits hold from the first step that nobody has started, the others now."""
        next_step = self.step_started + 1
        self._limits.settle(next_step)
        self.pipeline.follow_limits()
        accepted_ms = (time.monotonic() - change.requested_at) * 1000
        agents = "all" if change.agents is None else ", ".join(change.agents)
        for name, new in change.new.items():
            effective = max(0, self.step_started) if FIELDS[name].at_once else next_step
            self._emit(
                LimitChanged(
                    self._clock(), self.step_started, name, agents, _number(change.old[name]), _number(new),
                    change.note, change.by, accepted_ms, effective,
                )
            )  # fmt: skip
        if self.state == "paused" and self._held_by in change.new:
            self._resume()  # where the new value is not enough either, it pauses again at once


def _number(value: Number) -> float:
    """A limit in a column of floats; no limit is infinite."""
    return float("inf") if value is None else float(value)
