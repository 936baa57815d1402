"""A look into a memory that leaves no trace: nothing is brought back to RAM, warmed or counted by it.

What is asked so (by probes, say) changes nothing that the memory does later. Owned by one memory, on the engine's loop thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from troupelab.ids import make_id
from troupelab.memory.memory import Memory
from troupelab.memory.record import Note, Record, was_between
from troupelab.memory.retrieval import Found

__all__ = ["Looked", "Peek"]


class Looked(NamedTuple):
    """Something that was found, and the tier that it lies in: `recent`, `archive` or `notes`."""

    score: float
    item: Record | Note
    tier: str


class Peek:
    """Looks into a memory as it is now; to be forgotten when the memory changes.

    >>> from troupelab.limits import Limits
    >>> memory = Memory(0, Limits())
    >>> memory.store([Record(make_id(0, 0, 0), "CONVERSATION", "Elif", "The last ferry leaves at 21:40.", 0)])
    >>> peek = Peek(memory)
    >>> peek.relevant("When does the last ferry leave?", 5)[0].tier, peek.holder(0, lambda text: "21:40" in text)
    ('recent', 'recent')
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._shelf = memory._shelf
        with self._shelf.aside():
            self._records = [*memory._waiting(), *memory._recent.peek()]
        self._looks = memory._finder.looks()
        self._ids = {record.id for record in self._records}

    def relevant(self, text: str, k: int) -> list[Looked]:
        """What `Memory.relevant` finds in all tiers, best first."""
        memory = self._memory
        with self._shelf.aside():
            found = memory._finder.relevant(
                text, k, memory.step, self._records, notes=True, archive=True, looks=self._looks
            )
        return [self._looked(each) for each in found]

    def _looked(self, found: Found) -> Looked:
        tier = "notes"
        if isinstance(found.item, Record):
            tier = "recent" if found.item.id in self._ids else "archive"
        return Looked(found.score, found.item, tier)

    def holder(self, step: int, holds: Callable[[str], bool]) -> str:
        """The best tier that has something of a step of which `holds` is true; empty where none has."""
        memory = self._memory
        first, end = make_id(memory.agent, step, 0), make_id(memory.agent, step + 1, 0)
        of_step = [
            each
            for each in self._records
            if first <= each.id < end or (each.first_id and was_between(each, step, step))
        ]
        if any(holds(record.text) for record in of_step):
            return "recent"
        with self._shelf.aside():
            archive = memory.archive
            if archive is not None and any(holds(record.text) for record in archive.between(step, step)):
                return "archive"
            return "notes" if any(holds(note.text) for note in memory._semantic.of(step)) else ""
