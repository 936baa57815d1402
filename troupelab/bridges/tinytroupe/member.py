"""A member: one of TinyTroupe's persons while it is of a troupe of ours. What the bridge does around the person's own methods.

The person's code stays TinyTroupe's. Here an act is timed and told, its faculties are kept off the loop, the notes of an episode are written
beside everything else, and each model call knows whose it is. Methods are called in whichever thread or greenlet TinyTroupe is
in; what touches memory or recorder is done on the hub's loop.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from troupelab.bridges.tinytroupe.diary import Diary
from troupelab.errors import BridgeError
from troupelab.events import ActDone, ActionTaken, Consolidated, Failed

if TYPE_CHECKING:
    from troupelab.bridges.tinytroupe.troupe import Troupe
    from troupelab.memory.memory import Memory

__all__ = ["CALLER", "Acted", "Caller", "Member"]

T = TypeVar("T")


class Caller(NamedTuple):
    """Who asks the model, what for, and in which step; no member where a troupe's world asks."""

    troupe: Troupe
    member: Member | None
    purpose: str
    step: int


CALLER: ContextVar[Caller | None] = ContextVar("troupelab_caller", default=None)
"""Whose code runs now; copied into whatever it spawns."""


class Acted(NamedTuple):
    """An act: when it began and ended, its actions as (type, content, target), and the error that ended it, if any."""

    start_s: float
    end_s: float
    actions: tuple[tuple[str, str, str], ...]
    error: str


class Member:
    """A person's place in a troupe.

    Args:
        troupe: which.
        index: the agent's index in it.
        name: the person's.
        memory: where it remembers.
    """

    def __init__(self, troupe: Troupe, index: int, name: str, memory: Memory) -> None:
        self.troupe = troupe
        self.index = index
        self.name = name
        self.diary = Diary(memory, name, troupe.hub, self.settle, self._note_step)
        self.asked: Counter[tuple[int, int]] = Counter()
        """How often it asked the very same in a step, by the step and a hash of what it asked."""
        self.calls = 0
        """How many questions it has put to the model."""
        self.note_tokens = 0
        """How many tokens its notes have taken."""
        self.last_act = Acted(0.0, 0.0, (), "")
        self.was_cut_off = False
        """Whether notes could not be written to their end, since all was to stop."""
        self._writing: list[Future[None]] = []

    # ------------------------------------------------------------------ acts

    def act(self, person: Any, original: Callable[[], T]) -> T:
        """Have the person act as it does, and tell what it did."""
        troupe = self.troupe
        self.settle()
        troupe.hub.do(lambda: troupe.begin(self))
        start_s, calls, done, error = troupe.clock(), self.calls, len(person._actions_buffer), ""
        faculties = person._mental_faculties
        if not troupe.nest:
            person._mental_faculties = [_Aside(faculty, troupe) for faculty in faculties]
        token = CALLER.set(Caller(troupe, self, "act", troupe.step))
        try:
            return original()
        except Exception as failure:
            error = type(failure).__name__
            troupe.tell(
                Failed(troupe.clock(), troupe.step, self.index, error, f"{self.name} lost its turn: {failure}", 0)
            )
            raise
        finally:
            CALLER.reset(token)
            if not troupe.nest:
                person._mental_faculties = faculties
            actions = list(person._actions_buffer[done:])
            acted = self.last_act = Acted(start_s, troupe.clock(), _told(actions), error)
            troupe.hub.do(lambda: self.tell_act(troupe.step, acted, self.calls - calls))

    def tell_act(self, step: int, acted: Acted, calls: int) -> None:
        """Record an act. On the loop."""
        emit = self.troupe.emit
        for sequence, (kind, content, target) in enumerate(acted.actions):
            emit(ActionTaken(acted.end_s, step, self.index, sequence, kind, target, content))
        emit(self.diary.memory.size())
        emit(ActDone(acted.end_s, step, self.index, acted.start_s, acted.end_s, calls, len(acted.actions), acted.error))

    # ------------------------------------------------------------------ notes

    def end_episode(self, person: Any) -> None:
        """End the person's episode, where it is long enough, and have its notes written beside everything else.

        They are there when the person next acts, or when anybody looks into its semantic memory.
        """
        if person._current_episode_event_count <= person.MIN_EPISODE_LENGTH:
            return
        troupe = self.troupe
        if troupe.tt.config.get("enable_memory_consolidation"):
            episode = person.episodic_memory.get_current_episode(item_types=["action", "stimulus"])
            mind = copy.deepcopy(person._mental_state)
            before = self._writing[-1] if self._writing else None
            token = CALLER.set(Caller(troupe, self, "consolidate", troupe.step))
            try:
                self._writing.append(troupe.hub.spawn(lambda: self._write(person, episode, mind, before)))
            finally:
                CALLER.reset(token)
        person.episodic_memory.commit_episode()
        person._current_episode_event_count = 0

    def _write(self, person: Any, episode: list[Any], mind: dict[str, Any], before: Future[None] | None) -> None:
        """Write the notes of an episode with TinyTroupe's own consolidator, after those of the one before."""
        troupe, began, tokens = self.troupe, time.perf_counter(), self.note_tokens
        if before is not None:
            troupe.hub.wait(lambda: asyncio.wait([asyncio.wrap_future(before)]))
        try:
            notes = _notes(
                troupe.tt.person.EpisodicConsolidator().process(
                    episode, timestamp=mind["datetime"], context=mind, persona=person.minibio()
                )
            )
            person.semantic_memory.store_all(notes)
        except asyncio.CancelledError:
            self.was_cut_off = True
            raise
        except Exception as error:
            message = f"{error}; the {len(episode)} records of the episode stay as they are, without notes"
            troupe.tell(Failed(troupe.clock(), troupe.step, self.index, type(error).__name__, message, 0))
            return
        sizes = [
            sum(len(str(each.get("content", ""))) for each in part if isinstance(each, dict))
            for part in (episode, notes)
        ]
        seconds, kept = time.perf_counter() - began, sizes[1] / max(1, sizes[0])
        troupe.tell(
            Consolidated(
                troupe.clock(), troupe.step, self.index, "episode end", len(episode), len(notes), sizes[0], sizes[1], kept, seconds,
                self.note_tokens - tokens,
            )
        )  # fmt: skip

    def _note_step(self) -> int | None:
        """The step of a note that is stored now: that in which the episode ended, where it is written; else None."""
        caller = CALLER.get()
        return caller.step if caller is not None and caller.purpose == "consolidate" and caller.member is self else None

    def settle(self) -> None:
        """Wait for the notes that are being written, unless it is their writer that asks."""
        if self._note_step() is not None:
            return
        while self._writing:
            writing = self._writing[0]
            if not writing.done():
                self.troupe.hub.wait(lambda writing=writing: asyncio.wait([asyncio.wrap_future(writing)]))  # type: ignore[misc]
            if self._writing and self._writing[0] is writing:
                del self._writing[0]


def _notes(made: Any) -> list[Any]:
    """What a consolidator made; it gives None where the model's answer could not be used."""
    notes = made.get("consolidation") if isinstance(made, dict) else None
    if not isinstance(notes, list):
        raise BridgeError("the model's answer has no list of notes")
    return notes


def _told(actions: list[Any]) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (str(each.get("type") or ""), str(each.get("content") or ""), str(each.get("target") or ""))
        for each in actions
        if isinstance(each, dict)
    )


class _Aside:
    """A faculty whose deeds are done on a thread, where they may block and run event loops of their own."""

    def __init__(self, faculty: Any, troupe: Troupe) -> None:
        self._faculty = faculty
        self._troupe = troupe

    def process_action(self, agent: Any, action: Any) -> Any:
        """What the faculty does about an action, with the agent waiting for it."""
        return self._troupe.hub.aside(lambda: self._faculty.process_action(agent, action))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._faculty, name)
