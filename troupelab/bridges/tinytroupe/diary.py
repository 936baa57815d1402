"""A person's diary: TinyTroupe's memory values in the tiers of a `Memory`, so that they are bounded, on disk, and found quickly.

A value (a dictionary, as TinyTroupe makes them) is kept whole, as the JSON text of a record; an engram of its semantic memory as that of a note. What
has left RAM is read again when somebody asks for it. What was cleared is out of sight at once, and leaves the disk with its segment.

Any thread may call it: what touches the memory is done on the hub's loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import orjson

from troupelab.bridges.tinytroupe.hub import Hub
from troupelab.errors import InputError
from troupelab.ids import make_id, step_of
from troupelab.memory.memory import Memory
from troupelab.memory.record import OWN_ACTION, Note, Record

__all__ = ["Diary", "Value"]

Value: TypeAlias = dict[str, Any]
T = TypeVar("T")

_HEAD = 32
"""So many of the oldest texts stay at hand: prompts begin with the first ones."""
_EVER = 2**22 - 1
_BY_LIBRARY = " "
"""What a text begins with that orjson could not have written."""
_ATTEMPT_BITS = 6


class Diary:
    """What one person remembers, in order.

    Args:
        memory: where it is kept; its step is that of what is stored.
        name: the person's, as the source of what it does.
        hub: on whose loop the memory lives.
        settled: waits until what was to be remembered has been: notes that are still being written.
        note_step: the step that a note is of which is stored now; None for the memory's own.

    >>> from troupelab.limits import Limits
    >>> diary = Diary(Memory(0, Limits()), "Elif", Hub())
    >>> diary.store({"role": "user", "content": {"stimuli": []}, "type": "stimulus", "simulation_timestamp": None})
    >>> diary.count(), diary.newest(1)[0]["type"]
    (1, 'stimulus')
    """

    def __init__(
        self,
        memory: Memory,
        name: str,
        hub: Hub,
        settled: Callable[[], None] = lambda: None,
        note_step: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.memory = memory
        self.settled = settled
        self._note_step = note_step
        self.fresh: list[str] = []
        """The values that were stored since somebody took them from here, as JSON; only where `keeps_fresh`."""
        self.fresh_notes: list[str] = []
        self.keeps_fresh = False
        self.by_reference = False
        """Whether memories leave their values out where they are written now: those are kept elsewhere."""
        self.episode_values = 0
        """How many values the current episode has."""
        self._name = name
        self._hub = hub
        self._step = -1
        self._within = self._notes = 0
        self._head: list[str] = []
        self._stored = 0
        self._cleared: list[tuple[int, int]] = []
        self._forgotten: set[int] = set()
        self._last_id = 0
        self._episode_from = 0

    # ------------------------------------------------------------------ episodic

    def store(self, value: Any) -> None:
        """Remember a value.

        Raises:
            InputError: it is no JSON, or too long.
        """
        text = _text(value)
        kind, source, is_own = _what(value, self._name)
        self._hub.do(lambda: self._store(text, kind, source, is_own))

    def _store(self, text: str, kind: str, source: str, is_own: bool) -> None:
        self._last_id = self._next_id()
        record = Record(self._last_id, kind, source, text, OWN_ACTION if is_own else self._last_id)
        self.memory.store((record,))
        self.memory.settle()
        self._stored += 1
        self.episode_values += 1
        if len(self._head) < _HEAD:
            self._head.append(text)
        if self.keeps_fresh:
            self.fresh.append(text)

    def _next_id(self) -> int:
        if self.memory.step != self._step:
            self._step, self._within = self.memory.step, 0
        self._within += 1
        return make_id(
            self.memory.agent, self._step, self._within >> _ATTEMPT_BITS, self._within % (1 << _ATTEMPT_BITS)
        )

    def keep_from_now(self) -> None:
        """Have what is remembered now, and from now on, be `fresh`."""
        self.fresh = [_text(value) for value in self.every()]
        self.fresh_notes = [_text(engram) for engram in self.known()]
        self.keeps_fresh = True

    def count(self) -> int:
        """How many values there are."""
        return self._hub.do(lambda: self._count() if not self._cleared else sum(1 for _ in self._records()))

    def _count(self) -> int:
        size = self.memory.size()
        return size.recent_records + size.archive_records

    def every(self) -> list[Any]:
        """All values, oldest first."""
        return self._hub.do(lambda: [_value(record.text) for record in self._records()])

    def oldest(self, n: int) -> list[Any]:
        """The first `n` values."""
        return self._hub.do(lambda: [_value(text) for text in self._oldest(n)])

    def _oldest(self, n: int) -> Sequence[str]:
        whole = self._count() == self._stored and not self._cleared
        if whole and (n <= len(self._head) or self._stored <= len(self._head)):
            return self._head[:n]
        return [record.text for record in islice(self._records(), n)]

    def newest(self, n: int) -> list[Any]:
        """The last `n` values, oldest of them first."""
        return self._hub.do(lambda: [_value(record.text) for record in self._newest(n)])

    def _newest(self, n: int) -> list[Record]:
        if n <= 0:
            return []
        found = [record for record in self.memory.recent(n) if self._is_seen(record.id)]
        archived = self.memory.archive is not None and len(self.memory.archive)
        if len(found) < n and (archived or self._cleared):
            found = list(self._records())[-n:]
        return found

    def newest_first(self) -> Iterator[Any]:
        """All values, the last one first, read as they are asked for."""
        recent = self._hub.do(lambda: [record.text for record in self.memory.recent(_EVER) if self._is_seen(record.id)])
        yield from map(_value, reversed(recent))
        rest = self._hub.do(lambda: [record.text for record in self._records()])
        yield from map(_value, reversed(rest[: len(rest) - len(recent)]))

    def _records(self) -> Iterator[Record]:
        return (record for record in self.memory.between(0, _EVER) if self._is_seen(record.id))

    def _is_seen(self, id_: int) -> bool:
        return not self._cleared or not any(first <= id_ <= last for first, last in self._cleared)

    # ------------------------------------------------------------------ episodes

    def episode(self) -> list[Any]:
        """The values of the current episode."""

        def find() -> list[Any]:
            found = self.memory.between(step_of(self._episode_from), _EVER)
            return [_value(each.text) for each in found if each.id > self._episode_from and self._is_seen(each.id)]

        return self._hub.do(find)

    def end_episode(self) -> None:
        """What comes from now on is of another episode."""
        self._episode_from, self.episode_values = max(self._episode_from, self._last_id), 0

    def before_episode(self) -> list[Any]:
        """The values of all episodes that have ended."""
        return self._hub.do(
            lambda: [_value(record.text) for record in self._records() if record.id <= self._episode_from]
        )

    def clear(self, first: int | None = None, last: int | None = None) -> None:
        """Forget the current episode, and of those before it the `first` and the `last` values; all, where neither is given."""

        def forget() -> None:
            ids = [record.id for record in self._records()]
            past = [each for each in ids if each <= self._episode_from]
            kept = past[first or 0 :] if first is not None or last is not None else []
            kept = kept[:-last] if last is not None else kept  # of none, as TinyTroupe has it, nothing is left
            keep = set(kept)
            gone = [each for each in ids if each not in keep]
            # They are in order, and what was kept is one stretch: so are those that went, before and after it.
            edge = kept[0] if kept else _after(ids)
            self._cleared += _stretches(
                [[each for each in gone if each < edge], [each for each in gone if each > edge]]
            )
            self._episode_from, self.episode_values = self._last_id, 0

        self._hub.do(forget)

    @property
    def cleared(self) -> list[tuple[int, int]]:
        """What was cleared: the first and the last id of each stretch."""
        return list(self._cleared)

    def take_in(self, values: Sequence[str], notes: Sequence[str], episode: int) -> None:
        """Remember what was kept of an earlier life. On the loop.

        Args:
            values: as JSON, in their order.
            notes: engrams, as JSON.
            episode: how many of the newest values are of the episode that goes on.
        """
        for text in values:
            self._store(text, *_what(_value(text), self._name))
        for text in notes:
            self._know(text)
        newest = self._newest(episode)
        self._episode_from, self.episode_values = (newest[0].id - 1 if newest else self._last_id), len(newest)

    def leave_out(self, cleared: Sequence[tuple[int, int]]) -> None:
        """Leave out of sight what was cleared in an earlier life."""
        self._cleared = list(cleared)

    def become(self, values: Sequence[Any], episode: int, engrams: Sequence[Any]) -> None:
        """Remember these values and engrams alone; what begins like what is there already only has the rest added.

        Args:
            values: oldest first.
            episode: how many of the last ones are of the current episode.
            engrams: of the semantic memory, oldest first.
        """

        def change() -> None:
            texts, there = list(map(_text, values)), [record.text for record in self._records()]
            if texts[: len(there)] != there:
                self.end_episode()
                self.clear()
                there = []
            self.take_in(texts[len(there) :], (), episode)
            known = [note for note in self.memory.notes if note.id not in self._forgotten]
            wanted = list(map(_text, engrams))
            if wanted[: len(known)] != [note.text for note in known]:
                self._forgotten.update(note.id for note in known)
                known = []
            for text in wanted[len(known) :]:
                self._know(text)

        self._hub.do(change)

    # ------------------------------------------------------------------ semantic

    def know(self, engram: Value) -> None:
        """Remember an engram of the semantic memory.

        Raises:
            InputError: it is no JSON, or too long.
        """
        text, step = _text(engram), self._note_step()
        self._hub.do(lambda: self._know(text, step))

    def _know(self, text: str, step: int | None = None) -> None:
        step = self.memory.step if step is None else step
        self._notes += 1
        id_ = make_id(self.memory.agent, step, self._notes >> _ATTEMPT_BITS, self._notes % (1 << _ATTEMPT_BITS))
        self.memory.remember([Note(id_, step, step, 1, text)])
        if self.keeps_fresh:
            self.fresh_notes.append(text)

    def known(self) -> list[Value]:
        """All engrams, oldest first."""
        self.settled()
        return self._hub.do(
            lambda: [
                found
                for note in self.memory.notes
                if note.id not in self._forgotten and isinstance(found := _value(note.text), dict)
            ]
        )

    def relevant(self, text: str, k: int) -> list[tuple[float, str]]:
        """The `k` engrams that fit a text best, best first: how well, and the engram as it is kept."""
        self.settled()
        if not text.strip():
            return []

        def find() -> list[tuple[float, str]]:
            if not len(self.memory.notes):
                return []
            found = self.memory.relevant(text, k + len(self._forgotten), tiers=("notes",))
            seen = [(each.score, each.item.text.lstrip()) for each in found if each.item.id not in self._forgotten]
            return seen[:k]

        return self._hub.do(find)


def _after(ids: Sequence[int]) -> int:
    return ids[-1] + 1 if ids else 0


def _stretches(gone: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    return [(each[0], each[-1]) for each in gone if each]


def _text(value: Any) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str).decode()
    except (TypeError, ValueError):  # lone surrogates, huge numbers: the standard library writes and reads them
        try:
            return _BY_LIBRARY + json.dumps(value, default=str)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError("memory", "value", f"something that JSON can hold ({error})") from None


def _value(text: str) -> Any:
    return json.loads(text) if text.startswith(_BY_LIBRARY) else orjson.loads(text)


def _what(value: Any, name: str) -> tuple[str, str, bool]:
    """Kind and source of a value, and whether it is something that the person did."""
    if not isinstance(value, dict):
        return "VALUE", "", False
    content = value.get("content")
    if isinstance(content, dict):
        action = content.get("action")
        if isinstance(action, dict):
            return str(action.get("type", "ACTION")), name, True
        stimuli = content.get("stimuli")
        if isinstance(stimuli, list) and stimuli and isinstance(stimuli[0], dict):
            return str(stimuli[0].get("type", "STIMULUS")), str(stimuli[0].get("source", "")), False
    return str(value.get("type", "VALUE")), "", False
