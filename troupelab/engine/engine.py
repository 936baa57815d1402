"""The engine: plays a stage, as many acts at once as the limits and who hears whom allow.

It lives on one event loop, in a thread of its own, and owns the agents, their memories and the pipeline there. Only the
methods that say so may be called from other threads; they hand the call over to the loop and wait for it.

Which act may begin is the `Order`'s to say, how it is played the `Actor`'s, and when all wait the `Player`'s. Here is what goes around that: the
beginning and the end, the controls, and limits that change.

What no call can get past (a budget that is used up, a key that is refused) pauses the run, with an alert that says which; it goes
on when that is mended, and no act is lost by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from troupelab.engine.actor import Actor
from troupelab.engine.ahead import Ahead
from troupelab.engine.consolidator import Consolidator
from troupelab.engine.handover import Handover
from troupelab.engine.interventions import Intervention
from troupelab.engine.interviewer import Interviewer
from troupelab.engine.keeper import Keeper
from troupelab.engine.nest import PATCHED
from troupelab.engine.order import Order, hears, nobody_waits_less
from troupelab.engine.parts import Parts
from troupelab.engine.past import Past
from troupelab.engine.player import Player
from troupelab.engine.standing import Standing, State
from troupelab.engine.watch import watch_process
from troupelab.errors import RunError
from troupelab.livelimits import LimitChange
from troupelab.people.acts import CONVERSATION
from troupelab.people.probes import Probe
from troupelab.people.prompt import warm_up_prompt
from troupelab.telemetry.journal import LimitRow, ProbeRow, ToldRow

if TYPE_CHECKING:
    from troupelab.store import Store

__all__ = ["Engine", "Made", "MakeActor", "State"]

Made: TypeAlias = tuple[int, LimitChange | LimitRow | ToldRow]
"""What a user changed or told, and the step from which it holds."""

MakeActor: TypeAlias = Callable[[Parts, Consolidator, Ahead, Standing], Actor]
"""Makes what plays a run's acts, of the arguments of `Actor`."""


class Engine:
    """Plays one run.

    Args:
        parts: stage, pipeline, limits and the like.
        steps: how many steps to play.
        store: opens the run's store.
        interventions: what is called between steps, in this order.
        past: an earlier life to go on from.
        make_actor: makes what plays the acts; None for an `Actor`.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        steps: int,
        store: Callable[[], Store],
        interventions: Sequence[Intervention] = (),
        past: Past | None = None,
        make_actor: MakeActor | None = None,
    ) -> None:
        self.stage = parts.stage
        self.pipeline = parts.pipeline
        self._parts = parts
        self._limits = parts.limits
        self._clock = parts.clock
        self._past = past
        self.made: list[Made] = []
        """What users changed and told in this life, oldest first; it only grows. Any thread may read it."""
        self._lived = asyncio.Event()
        if past is None:
            self._lived.set()
        self.handover = Handover()
        held_s, step = (0.0, -1) if past is None else (past.held_s, past.next_step - 1)
        self.standing = Standing(
            parts.pipeline.sender.limiter, parts.teller.tell, parts.clock, held_s=held_s, step=step
        )
        self.keeper = Keeper(parts, store, alert=self.standing.alert)
        ahead = self._ahead = Ahead(self.stage.pool.embedder, self.standing.halt, self.standing.go)
        self.interviewer = Interviewer(parts, ahead)
        self._consolidator = Consolidator(parts, ahead, {} if past is None else past.notes)
        self._actor = (make_actor or Actor)(parts, self._consolidator, ahead, self.standing)
        heard = self.heard = hears(self.stage.world)
        lockstep = parts.options.order == "lockstep" or nobody_waits_less(heard)
        nobody: Sequence[Sequence[int]] = [()] * len(heard)
        done = [0] * len(heard) if past is None else past.done
        holds_up = self.holds_up = [self.stage.holds_up(agent) for agent in self.stage.agents]
        self._order = Order(nobody if lockstep else heard, holds_up, done)
        self.player = Player(
            parts, self._order, self._actor, self.standing, self.keeper, steps=steps, lockstep=lockstep,
            interventions=interventions,
        )  # fmt: skip

    @property
    def acts_done(self) -> int:
        """How many acts are over, in all lives."""
        return self._actor.acts_done

    # ------------------------------------------------------------------ the play, on the loop

    async def play(self, started: Future[None], *, paused: bool = False, nest: bool = False) -> None:
        """Play until the last step, or until stopped; `started` is settled as soon as the controls work; with `nest`, an alert says what that patched.

        Raises:
            RunError: something broke that is no failed call, or an act failed that was to end the run; its cause is attached.
        """
        self.handover.open()
        self._limits.bind(self._on_limit_change)
        sender, standing = self.pipeline.sender, self.standing
        sender.on_halt = sender.budget.on_reached = standing.halt
        if self._past is not None:
            sender.budget.tokens += self._past.spent_tokens
            sender.budget.cost_usd += self._past.spent_usd
        self.pipeline.follow_limits()
        standing.go.set()
        watching = asyncio.create_task(self._watch())
        try:
            self.keeper.open(self._past)
            for change in self._limits.log[self._past.changes :] if self._past is not None else ():
                self._accept(change)
            if self._past is not None:
                self._clock.set(
                    self._past.last_s
                )  # the new life begins where the earlier one ended, not a moment later
            standing.enter("running", "" if self._past is None else "first it lives through its past again")
            if self._past is not None:
                self._clock.start(self._past.last_s)
            if nest:
                standing.alert("nest", PATCHED)
            if paused:
                standing.pause("")
            started.set_result(None)
            await self._begin()
            await self.player.play()
            await self._finish()
            standing.enter("stopped" if standing.stopping else "done", "")
        except BaseException as error:
            standing.enter("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            self._lived.set()
            self._limits.bind(None)
            watching.cancel()
            tasks = list(self.player.tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(watching, *tasks, return_exceptions=True)
            await self._actor.close()
            self._consolidator.close()
            await self.pipeline.drain()
            sender.limiter.reopen()  # before others can see that the loop has gone, and ask agents on one of their own
            self.handover.close()
            self.keeper.close()

    async def _watch(self) -> None:
        await watch_process(
            self._limits, self.pipeline.sender.limiter, self.stage.pool, emit=self._parts.teller.tell, clock=self._clock.now,
            active_s=lambda: self._clock.now() - self.standing.held_s, reached=self.standing.halt,
            look=self._actor.look_for_stalled,
        )  # fmt: skip

    async def look_back(self) -> None:
        """Live through the past and play nothing, instead of `play`: nothing is asked, and nothing told but what was told then.

        It comes out at the end as far as the journal goes, with the clock standing there.
        """
        past = self._past
        assert past is not None
        self.standing.go.set()
        self._consolidator.stop(now=False)  # what the model wrote is in the journal; it writes no more
        try:
            await self._make_ready()
            await past.relive(self._parts, self._actor, self.standing)
            self._clock.set(past.state_s)
            if past.state in {"done", "stopped"} and not past.is_foreign:
                await self._finish()
        finally:
            self._clock.set(past.last_s)
            self._lived.set()
            await self._actor.close()
            self._consolidator.close()
            await self.pipeline.drain()

    async def _make_ready(self) -> None:
        """What is done before anybody acts, in this life or an earlier one."""
        await self._actor.open()
        if (load := getattr(self.stage.pool.embedder, "load", None)) is not None:
            await asyncio.to_thread(load)  # beside the loop, so that the controls answer meanwhile
        for step in {event.step for event in self.stage.world.stimuli}:
            self.stage.open_step(step)

    async def _begin(self) -> None:
        """All that comes before the first act."""
        await self._make_ready()
        past, player = self._past, self.player
        if past is not None:
            await past.relive(self._parts, self._actor, self.standing)
            self._lived.set()
            lowest = self._order.lowest
            player.began = {step: (at_s, past.held_s) for step, at_s in past.began_s.items() if step >= lowest}
            player.prepared = past.looked
        elif self._parts.options.order == "free" and player.lockstep:
            message = (
                "everyone may hear everyone in this world: no order waits less than lockstep, and it is played in that"
            )
            self.standing.alert("order", message)
        if self._parts.options.warm_up:
            await self.standing.go.wait()
            await asyncio.wait([asyncio.create_task(self.pipeline.warm_up(warm_up_prompt(self.stage)))])

    async def _finish(self) -> None:
        """Bring in all notes; after the last step, also remember what was said in it."""
        steps = self.player.steps
        for agent in self.stage.agents:
            await self._consolidator.admit(agent)
            if self.player.steps_done == steps:
                heard = agent.hear(steps)
                await self._ahead.fetch([message.text for message in heard])
                agent.memory.begin(steps, self._limits.at_step(steps, agent.name))
                agent.commit(steps, heard, ())
                self._consolidator.start(agent)
                await self._consolidator.admit(agent)
                self._parts.teller.emit(agent.memory.size())

    # ------------------------------------------------------------------ controls, from any thread

    def pause(self) -> None:
        """Let no act begin any more; those under way finish. Any thread.

        Raises:
            RunError: the run is not running.
        """
        by = self.keeper.by
        reason = "asked to" if by == "user" else f"asked to by the intervention {by}"
        self._control(lambda: self.standing.pause(reason), {"running"}, "pause")

    def resume(self) -> None:
        """Go on after a pause. Any thread.

        Raises:
            RunError: the run is not paused.
        """

        def go() -> None:
            self.player.pause_after = None
            self.standing.resume()

        self._control(go, {"paused"}, "resume")

    def step(self, n: int) -> None:
        """Play until `n` more steps are finished (a half-played one counts), then pause again. Any thread.

        Raises:
            RunError: the run is not paused.
        """

        def go() -> None:
            self.player.pause_after = self.player.steps_done + n
            self.standing.resume()

        self._control(go, {"paused"}, "step")

    def stop(self, *, now: bool) -> None:
        """End the run: acts under way finish, or with `now` are cancelled and leave nothing behind. Any thread.

        Raises:
            RunError: the run has ended already.
        """

        def end() -> None:
            if not self.standing.stopping:
                self.standing.enter("stopping", "asked to")
            self.standing.release()
            if now or not self._actor.calls_often:
                self.pipeline.sender.limiter.close()
            for task, acting in self.player.tasks.items():
                if now or not acting:
                    task.cancel()
            self._consolidator.stop(now=now)
            self.player.wake()

        self._control(end, {"running", "paused", "stopping"}, "stop")

    def tell(self, kind: str, source: str, text: str, to: Sequence[int]) -> int:
        """Let agents hear something, from the first step on that nobody has started; returns that step. Any thread.

        Raises:
            RunError: the run is neither running nor paused, or all its steps have been started.
        """
        heard_at = self.player.steps

        def told() -> None:
            nonlocal heard_at
            heard_at = self.standing.step + 1
            if heard_at >= self.player.steps:
                raise RunError("the last step has begun: nobody would hear it any more")
            row = ToldRow(heard_at, self.keeper.told[heard_at], kind, source, text, list(to), self.keeper.by)
            self.keeper.told[heard_at] += 1
            if self.keeper.by == "user":
                self.keeper.by_hand += 1
                self.made.append((row.step, row))
            self.stage.tell(row.step, row.sequence, kind, source, text, to)
            self._parts.teller.note(row)

        self._control(told, {"running", "paused"}, "tell")
        return heard_at

    def plant(self, probe: Probe) -> Probe:
        """Tell a fact and its neighbour, and ask memories about it from then on; returns the probe with its step. Any thread.

        Raises:
            RunError: as for `tell`.
        """
        to = range(len(self.stage.agents)) if probe.to is None else probe.to
        step = self.tell(CONVERSATION, "", probe.fact, to)
        if probe.neighbour:
            self.tell(CONVERSATION, "", probe.neighbour, to)
        probe = replace(probe, step=step, neighbour_step=step)

        def note() -> None:
            self._actor.prober.add(probe)
            self._parts.teller.note(ProbeRow(probe.to_dict(), None if probe.to is None else list(probe.to)))

        if not self.handover.do(note):
            self._refuse({"running", "paused"}, "plant")
        return probe

    async def ask(self, agent: int, question: str, *, remember: bool) -> str:
        """Interview an agent, as it is between two acts, when it has lived through its past. On the loop, or on another.

        Raises:
            ModelError: the model did not answer, or vectors could not be had.
        """
        await self._lived.wait()
        answer = await self.interviewer.ask(self.stage.agents[agent], question, remember=remember)
        self.keeper.by_hand += remember
        return answer

    def _control(self, action: Callable[[], None], allowed: set[str], name: str) -> None:
        def checked() -> None:
            if self.standing.state not in allowed:
                self._refuse(allowed, name)
            action()

        if not self.handover.do(checked):
            self._refuse(allowed, name)

    def _refuse(self, allowed: set[str], name: str) -> None:
        raise RunError(f"{name} needs a run that is {' or '.join(sorted(allowed))}; this one is {self.standing.state}")

    # ------------------------------------------------------------------ limits

    def _on_limit_change(self, change: LimitChange) -> None:
        self.handover.tell(self._accept, change)

    def _accept(self, change: LimitChange) -> None:
        """Accept a change: memory limits hold from the first step that nobody has started, the others now."""
        standing = self.standing
        next_step = standing.step + 1
        self._limits.settle(next_step)
        self.pipeline.follow_limits()
        self.keeper.note_limits(change, next_step)
        if self.keeper.by == "user":
            self.made.append((next_step, change))
        for event in change.accepted(self._clock.now(), standing.step, next_step):
            self._parts.teller.tell(event)
        if standing.state == "paused" and standing.held_by in change.new:
            standing.resume()  # where the new value is not enough either, it pauses again at once
