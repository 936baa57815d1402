"""The two things that a memory holds: records, word for word, and notes, condensed from records.

Sizes are what CPython allocates for them, so that byte caps speak of real memory. Immutable; any thread may read them.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from numpy.typing import NDArray

from troupelab.ids import step_of

__all__ = ["OWN_ACTION", "Note", "Record"]

OWN_ACTION = -1
"""The `message_id` of a record of something that the agent did itself."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One remembered thing: a stimulus that the agent received, or an action that it took.

    `kind` is TinyTroupe's word for it (CONVERSATION, SOCIAL, …; TALK, THINK, REACH_OUT, …), `source` the name of who said
    or did it (empty for the world). `id` tells whose memory and which step; `message_id` tells which message was received.

    >>> from troupelab.ids import make_id
    >>> record = Record(make_id(0, 3, 1), "TALK", "Elif Aydın", "Good evening.", OWN_ACTION)
    >>> record.step, record.role
    (3, 'action')
    """

    id: int
    kind: str
    source: str
    text: str
    message_id: int

    @property
    def step(self) -> int:
        """The step in which it was heard or done."""
        return step_of(self.id)

    @property
    def role(self) -> str:
        """`stimulus` or `action`."""
        return "action" if self.message_id == OWN_ACTION else "stimulus"

    @property
    def size_bytes(self) -> int:
        """What the record takes in RAM, its text included; kind and source are shared by all records."""
        return _RECORD_BYTES + sys.getsizeof(self.text)


_INT_BYTES = sys.getsizeof(1 << 60)
_SLOT_BYTES = 8  # the reference in the tier's list
_RECORD_BYTES = sys.getsizeof(Record(0, "", "", "", 0)) + 2 * _INT_BYTES + _SLOT_BYTES


class Note(msgspec.Struct, frozen=True, gc=False):
    """A semantic memory: what consolidation wrote about `records` records from `first_step` to `last_step`."""

    id: int
    first_step: int
    last_step: int
    records: int
    text: str

    def size_bytes(self, vector: NDArray[Any] | None) -> int:
        """What the note takes in RAM, with its vector's row."""
        return _NOTE_BYTES + sys.getsizeof(self.text) + (0 if vector is None else int(vector.nbytes))


_NOTE_BYTES = sys.getsizeof(Note(0, 0, 0, 0, "")) + _INT_BYTES + _SLOT_BYTES
