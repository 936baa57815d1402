"""The engine: plays a stage step by step, as many acts at once as the limits allow.

It lives on one event loop, in a thread of its own, and owns the agents, their memories and the pipeline there. Only the
methods that say so may be called from other threads; they hand the call over to the loop and wait for it.

An act takes what was heard, builds the prompt, makes one model call, and commits all that follows from it in one go. An act
that is cancelled has changed nothing. Nobody begins a step before all have finished the one before (lockstep).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from troupelab.engine.consolidator import Consolidator
from troupelab.errors import ModelError, RunError
from troupelab.events import ActDone, ActionTaken, Emit, Failed, LimitChanged, ProcessSampled, RunChanged, StepDone
from troupelab.ids import draw
from troupelab.limits import FIELDS, LimitChange, LiveLimits, Number
from troupelab.models.model import Request
from troupelab.models.pipeline import Pipeline
from troupelab.people.acts import EXPECTED, Message, Turn, read_turn
from troupelab.people.agent import Agent
from troupelab.people.prompt import act_prompt
from troupelab.people.stage import Stage

if TYPE_CHECKING:
    import psutil

__all__ = ["Engine", "State"]

State: TypeAlias = Literal["ready", "running", "paused", "stopping", "done", "stopped", "failed"]

T = TypeVar("T")

_PROCESS_EVERY_S = 0.5
_CONTROL_TIMEOUT_S = 10.0
_NOTHING_DONE = Turn((), {}, 0)


class Engine:
    """Plays one run.

    Args:
        stage: the agents and how they reach each other.
        pipeline: how they reach the model.
        limits: read where they are used; changes are accepted on the loop.
        steps: how many steps to play.
        notes_by_model: let the model write the notes of consolidations, instead of extracting them.
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
        notes_by_model: bool,
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
        self._notes_by_model = notes_by_model
        self._seed = seed
        self._emit = emit
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._go = asyncio.Event()
        self._held_since: float | None = None
        self._pause_after: int | None = None
        self._waiting: set[asyncio.Task[None]] = set()
        self._acting: set[asyncio.Task[None]] = set()
        self._consolidator = Consolidator(pipeline, by_model=notes_by_model, seed=seed, emit=emit, clock=clock)

    # ------------------------------------------------------------------ the play, on the loop

    async def play(self, started: Future[None], *, paused: bool = False) -> None:
        """Play until the last step, or until stopped; `started` is settled as soon as the controls work.

        Raises:
            RunError: something broke that is no failed call; its cause is attached.
        """
        self._loop = asyncio.get_running_loop()
        self._limits.bind(self._on_limit_change)
        self._go.set()
        self._enter("running", "")
        if paused:
            self._pause("")
        sampler = asyncio.create_task(self._sample_process())
        started.set_result(None)
        try:
            if (load := getattr(self.stage.pool.embedder, "load", None)) is not None:
                await asyncio.to_thread(load)  # beside the loop, so that the controls answer meanwhile
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
            sampler.cancel()
            await asyncio.gather(sampler, return_exceptions=True)
            for task in (*self._waiting, *self._acting):
                task.cancel()
            self._consolidator.close()
            self._loop = None

    async def _play_step(self, step: int) -> None:
        start_s, held_s = self._clock(), self._held_total()
        self.step_started = step
        self.stage.open_step(step)
        tasks = [asyncio.create_task(self._act(agent, step, start_s)) for agent in self.stage.agents]
        self._waiting.update(tasks)
        for task in tasks:
            task.add_done_callback(self._waiting.discard)
            task.add_done_callback(self._acting.discard)
        failures = [
            outcome
            for outcome in await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(outcome, Exception)
        ]
        if failures:
            raise RunError(f"an act of step {step} broke: {type(failures[0]).__name__}: {failures[0]}") from failures[0]
        if not self._stopping:
            self.steps_done = step + 1
            end_s = self._clock()
            self._emit(StepDone(end_s, step, start_s, end_s, self._held_total() - held_s, self._limits.max_concurrency))

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

    async def _act(self, agent: Agent, step: int, ready_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        await self._consolidator.admit(agent)
        async with self.pipeline.limiter.slot():
            self._waiting.discard(task)
            self._acting.add(task)
            start_s = self._clock()
            agent.memory.begin(step, self._limits.at_step(step, agent.name))
            heard = agent.hear(step)
            messages = act_prompt(agent, self.stage, step, heard)
            if self._notes_by_model:
                agent.last_prompt = messages

            def request(attempt: int) -> Request:
                seed = draw(self._seed, "act", agent.index, step, 0, attempt)
                return Request("act", agent.index, step, 0, attempt, seed, messages)

            turn, error, calls = _NOTHING_DONE, "", 1
            try:
                turn = (await self.pipeline.complete(request, read_turn, EXPECTED, queue_s=start_s - ready_s)).value
            except ModelError as failure:
                error = type(failure).__name__  # the act is skipped; the pipeline has told why
            self._commit(agent, step, heard, turn)
            end_s = self._clock()
            self._emit(ActDone(end_s, step, agent.index, start_s, end_s, calls, len(turn.actions), error))

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
                agent.memory.begin(self.steps, self._limits.at_step(self.steps, agent.name))
                agent.commit(self.steps, agent.hear(self.steps), ())
                self._consolidator.start(agent)
                await self._consolidator.admit(agent)
                self._emit(agent.memory.size())

    async def _sample_process(self) -> None:
        import psutil

        process = psutil.Process(os.getpid())
        try:
            while True:
                self._emit(self._sampled(process))
                await asyncio.sleep(_PROCESS_EVERY_S)
        finally:
            self._emit(self._sampled(process))  # how it ended

    def _sampled(self, process: psutil.Process) -> ProcessSampled:
        times, limiter = process.cpu_times(), self.pipeline.limiter
        cpu_s, memory_bytes = times.user + times.system, self.stage.pool.used_bytes
        rss = process.memory_info().rss
        return ProcessSampled(self._clock(), rss, cpu_s, limiter.in_flight, limiter.queued, memory_bytes)

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
            for task in (*self._waiting, *(self._acting if now else ())):
                task.cancel()
            self._consolidator.stop(now=now)

        self._control(end, {"running", "paused", "stopping"}, "stop")

    def _control(self, action: Callable[[], None], allowed: set[str], name: str) -> None:
        def checked() -> None:
            if self.state not in allowed:
                raise RunError(f"{name} needs a run that is {' or '.join(sorted(allowed))}; this one is {self.state}")
            action()

        loop = self._loop
        if loop is None:
            raise RunError(f"{name} needs a run that is {' or '.join(sorted(allowed))}; this one is {self.state}")
        if _running_loop() is loop:
            checked()
            return
        outcome: Future[None] = Future()
        try:
            loop.call_soon_threadsafe(_settle, outcome, checked)
        except RuntimeError as error:  # the loop closed in this very moment
            raise RunError(f"{name} came too late: the run has ended") from error
        outcome.result(_CONTROL_TIMEOUT_S)

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
        self.pipeline.limiter.hold(True)
        self._enter("paused", reason)

    def _resume(self) -> None:
        self._release()
        self._enter("running", "")

    def _release(self) -> None:
        self.held_s, self._held_since = self._held_total(), None
        self._go.set()
        self.pipeline.limiter.hold(False)

    def _held_total(self) -> float:
        return self.held_s + (0.0 if self._held_since is None else self._clock() - self._held_since)

    # ------------------------------------------------------------------ limits

    def _on_limit_change(self, change: LimitChange) -> None:
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._accept, change)

    def _accept(self, change: LimitChange) -> None:
        """Accept a change: memory limits hold from the first step that nobody has started, the others now."""
        next_step = self.step_started + 1
        self._limits.settle(next_step)
        self.pipeline.limiter.resize(self._limits.max_concurrency)
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


def _number(value: Number) -> float:
    """A limit in a column of floats; no limit is infinite."""
    return float("inf") if value is None else float(value)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _settle(outcome: Future[T], action: Callable[[], T]) -> None:
    """Run an action and put what came of it into a future that another thread waits for."""
    try:
        outcome.set_result(action())
    except BaseException as error:
        outcome.set_exception(error)
