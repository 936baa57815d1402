"""A troupe: some of TinyTroupe's persons, and what they share here: the loop, the way to the model, the pool of memories, who is told what happens.

Who belongs to which troupe stands in `ROSTER`; it holds nobody. Any thread may ask; what touches memories is done on the hub's loop.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import xxhash

from troupelab.bridges.tinytroupe.form import Form
from troupelab.bridges.tinytroupe.hub import Hub
from troupelab.bridges.tinytroupe.member import CALLER, Caller, Member
from troupelab.bridges.tinytroupe.seams import TinyTroupe
from troupelab.bridges.tinytroupe.tiers import make_episodic, make_semantic
from troupelab.errors import ModelError
from troupelab.events import Emit, Event, StepDone
from troupelab.ids import draw
from troupelab.livelimits import LiveLimits
from troupelab.memory.memory import Memory
from troupelab.memory.pool import Pool
from troupelab.models.account import Account
from troupelab.models.model import ChatMessage, Request
from troupelab.models.pipeline import Pipeline

__all__ = ["ROSTER", "Troupe", "take_effect"]

ROSTER: weakref.WeakKeyDictionary[Any, Member] = weakref.WeakKeyDictionary()
"""The persons that are of a troupe now."""

_NOBODY = -1


class Troupe:
    """Persons on one loop.

    Args:
        tt: TinyTroupe.
        hub: runs their code.
        pipeline: takes their questions to the model.
        pool: of their memories.
        limits: in force.
        emit: records events that follow from what is kept; on the loop only.
        keep: records all other events; on the loop only.
        clock: seconds since the beginning.
        seed: of every draw.
        nest: whether faculties run on the loop itself, where they may run it again.
    """

    def __init__(
        self,
        tt: TinyTroupe,
        *,
        hub: Hub,
        pipeline: Pipeline,
        pool: Pool,
        limits: LiveLimits,
        emit: Emit,
        keep: Emit,
        clock: Callable[[], float],
        seed: int,
        nest: bool = False,
    ) -> None:
        self.tt = tt
        self.hub = hub
        self.pipeline = pipeline
        self.pool = pool
        self.limits = limits
        self.emit = emit
        self._keep = keep
        self.clock = clock
        self.seed = seed
        self.nest = nest
        self.step = 0
        """The step that is played now, or comes next."""
        self.restoring = False
        """Whether states are being read whose memories are there already."""
        self._namesakes: Counter[str] = Counter()
        self.names: list[str] = []
        """Of all who were ever of it, by index."""
        self.spent = Counter[str]()
        """What its calls took, in the words of TinyTroupe's own statistics."""
        self._episodic, self._semantic = make_episodic(tt), make_semantic(tt)
        self._asked: Counter[tuple[int, int]] = Counter()
        self._asked_in = 0
        self.members: list[Member] = []

    # ------------------------------------------------------------------ who is of it

    def enlist(self, person: Any, memory: Memory | None = None, *, blank: bool = False) -> Member:
        """Take a person in, with all that it remembers.

        Args:
            person: a TinyPerson that is of no troupe.
            memory: where it remembers from now on; None for a fresh one.
            blank: forget what it remembers now: its memories come out of an earlier life.
        """
        index = len(self.names)
        self.names.append(self._name_for(person))
        if memory is None:
            memory = self.hub.do(lambda: Memory(index, self.limits.for_agent(person.name), self.pool))
        member = Member(self, index, person.name, memory)
        self.members.append(member)
        self.hub.do(lambda: self.begin(member))
        ROSTER[person] = member
        try:
            self.attach(person, member, blank=blank)
        except BaseException:
            del ROSTER[person]
            raise
        return member

    def _name_for(self, person: Any) -> str:
        """The person's name, with a number where another had it: whoever runs a cell again makes the same persons anew."""
        name = str(person.name)
        number = self._namesakes[name] = self._namesakes[name] + 1
        return name if number == 1 else f"{name} ({number})"

    def attach(self, person: Any, member: Member, *, blank: bool = False) -> None:
        """Let a person remember in a member's diary what its own memories hold now."""
        diary, episodic, semantic = member.diary, person.episodic_memory, person.semantic_memory
        past, episode, engrams = ([], [], []) if blank else (
            list(episodic.memory), list(episodic.episodic_buffer), list(semantic.memories or ())
        )  # fmt: skip
        diary.become([*past, *episode], len(episode), engrams)
        person.episodic_memory = self._episodic(
            diary, fixed_prefix_length=episodic.fixed_prefix_length, lookback_length=episodic.lookback_length
        )
        person.semantic_memory = self._semantic(diary)

    def release(self, person: Any) -> None:
        """Let a person go, with TinyTroupe's own memories and all in them."""
        member = ROSTER.pop(person, None)
        if member is None:
            return
        member.settle()
        for name in ("episodic_memory", "semantic_memory"):
            memory = getattr(person, name)
            if isinstance(memory, self._episodic | self._semantic):
                setattr(person, name, memory.plain())

    def release_all(self) -> None:
        """Let everybody go who is still there.

        Raises:
            Exception: the first of those that kept somebody from going; all others have gone.
        """
        problem: Exception | None = None
        for person, member in list(ROSTER.items()):
            if member.troupe is self:
                try:
                    self.release(person)
                except Exception as error:
                    problem = problem or error
        if problem is not None:
            raise problem

    def begin(self, member: Member) -> None:
        """Have a member's memory begin the present step. On the loop."""
        member.diary.memory.begin(self.step, self.limits.at_step(self.step, member.name))

    def tell(self, event: Event) -> None:
        """Record an event that follows from nothing else, from any thread."""
        self.hub.do(lambda: self._keep(event))

    # ------------------------------------------------------------------ steps

    async def play(self, world: Any) -> dict[str, Any]:
        """Have all agents of a world act at once, and then their actions take effect in the agents' order. On the loop.

        Raises:
            Exception: everybody's act failed; the first failure.
        """
        start_s, tasks = self.clock(), []
        for person in list(world.agents):
            tasks.append(asyncio.ensure_future(self.hub.run(lambda person=person: person.act(return_actions=True))))  # type: ignore[misc]
            # A prompt takes a while to build: the calls of the first ones go out before the last one is ready.
            await asyncio.sleep(0)
        try:
            await asyncio.wait(tasks) if tasks else None
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        failures = [error for task in tasks if (error := task.exception()) is not None]
        if tasks and len(failures) == len(tasks):
            raise failures[0]
        acted = {
            person.name: task.result()
            for person, task in zip(list(world.agents), tasks, strict=True)
            if task.exception() is None
        }

        await self.hub.run(lambda: take_effect(world, acted))
        self.tell_sizes()
        now_s = self.clock()
        self._keep(StepDone(now_s, self.step, start_s, now_s, 0.0, self.pipeline.sender.limiter.size))
        self.step += 1
        return acted

    def tell_sizes(self) -> None:
        """Record what everybody's memory holds at the end of a step. On the loop."""
        for member in self.members:
            if member.diary.memory.step == self.step:
                self.emit(member.diary.memory.size())

    # ------------------------------------------------------------------ the model

    def ask(self, messages: tuple[ChatMessage, ...], form: Form, settings: dict[str, Any]) -> Any:
        """Put a question to the model, for whoever asks; from any thread or greenlet.

        Args:
            messages: what is asked.
            form: what the answer should be.
            settings: temperature and max_tokens, and whatever else the endpoint is to be told.

        Returns:
            What the form reads in the answer.

        Raises:
            ModelError: no attempt brought a usable reply.
        """
        caller = CALLER.get()
        mine = caller if caller is not None and caller.troupe is self else Caller(self, None, "other", self.step)
        member, purpose = mine.member, mine.purpose
        agent = _NOBODY if member is None else member.index
        return self.hub.wait(lambda: self._ask(messages, form, settings, member, agent, purpose, mine.step))

    async def _ask(
        self,
        messages: tuple[ChatMessage, ...],
        form: Form,
        settings: dict[str, Any],
        member: Member | None,
        agent: int,
        purpose: str,
        step: int,
    ) -> Any:
        if self._asked_in != self.step:
            self._asked_in = self.step
            for counts in (self._asked, *(each.asked for each in self.members)):
                for key in [key for key in counts if key[0] < self.step - 1]:
                    del counts[key]
        # The n-th time that this one asks this very thing: the same whoever else asks meanwhile.
        asked = self._asked if member is None else member.asked
        digest = xxhash.xxh3_64_intdigest(
            "\x00".join(each.content for each in messages).encode("utf-8", "surrogatepass")
        )
        call = asked[step, digest]
        asked[step, digest] += 1
        if member is not None:
            member.calls += 1
        settings = dict(settings)
        temperature, max_tokens = settings.pop("temperature", 1.0), settings.pop("max_tokens", 1_000)

        def request(attempt: int) -> Request:
            seed = draw(self.seed, f"{purpose}|{digest}", agent, step, call, attempt)
            return Request(
                purpose, agent, step, call, attempt, seed, messages, temperature, max_tokens, schema=form.schema, extra=settings
            )  # fmt: skip

        account = Account(self.clock())
        try:
            return await self.pipeline.complete(
                request, form.read, form.expected, account=account, priority=(step,), urgent=member is None
            )
        except ModelError:
            self.spent["failed_calls"] += 1
            raise
        finally:
            kept = account.source != "model" and account.source != "pack"
            self.spent["cached_calls" if kept else "model_calls"] += 1
            self.spent["input_tokens"] += account.tokens_in
            self.spent["output_tokens"] += account.tokens_out
            self.spent["total_tokens"] += account.tokens
            if member is not None and purpose == "consolidate":
                member.note_tokens += account.tokens


def take_effect(world: Any, acted: Collection[str]) -> None:
    """Let the actions of all who have acted take effect in their world, in the agents' order."""
    for person in list(world.agents):
        if person.name in acted:
            world._handle_actions(person, person.pop_latest_actions())
