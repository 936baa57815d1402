"""The two things that a memory holds: records, word for word, and notes, condensed from records.

Sizes are what CPython allocates for them, so that byte caps speak of real memory. Immutable; any thread may read them.
"""

from __future__ import annotations

import sys

import msgspec

from troupelab.errors import InputError
from troupelab.ids import step_of

__all__ = ["MAX_TEXT_CHARS", "OWN_ACTION", "Note", "Record", "check_text", "text_bytes", "was_between"]

OWN_ACTION = -1
"""The `message_id` of a record of something that the agent did itself."""

MAX_TEXT_CHARS = 10_000_000
"""A longer text is refused: it is no utterance, and would have to be held whole several times over."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One remembered thing: a stimulus that the agent received, or an action that it took.

    `kind` is TinyTroupe's word for it (CONVERSATION, SOCIAL, …; TALK, THINK, REACH_OUT, …), `source` the name of who said
    or did it (empty for the world). `id` tells whose memory and which step; `message_id` tells which message was received.
    What came again (near enough the same, from the same source) is one record with `times` above 1: its id is that of the last
    time, `first_id` that of the first.

    >>> from troupelab.ids import make_id
    >>> record = Record(make_id(0, 3, 1), "TALK", "Elif Aydın", "Good evening.", OWN_ACTION)
    >>> record.step, record.first_step, record.role
    (3, 3, 'action')
    """

    id: int
    kind: str
    source: str
    text: str
    message_id: int
    first_id: int = 0
    times: int = 1

    @property
    def step(self) -> int:
        """The step in which it was last heard or done."""
        return step_of(self.id)

    @property
    def first_step(self) -> int:
        """The step in which it was first heard or done."""
        return step_of(self.first_id or self.id)

    @property
    def role(self) -> str:
        """`stimulus` or `action`."""
        return "action" if self.message_id == OWN_ACTION else "stimulus"

    @property
    def size_bytes(self) -> int:
        """What the record takes in RAM, its text included; kind and source are shared by all records."""
        return _RECORD_BYTES + text_bytes(self.text) + (_INT_BYTES if self.first_id else 0)


_INT_BYTES = sys.getsizeof(1 << 60)
_SLOT_BYTES = 8  # the reference in the tier's list
_RECORD_BYTES = sys.getsizeof(Record(0, "", "", "", 0)) + 2 * _INT_BYTES + _SLOT_BYTES


class Note(msgspec.Struct, frozen=True, gc=False):
    """A semantic memory: what consolidation wrote about `records` records from `first_step` to `last_step`.

    A `pinned` note is the last to be dropped.
    """

    id: int
    first_step: int
    last_step: int
    records: int
    text: str
    pinned: bool = False

    @property
    def size_bytes(self) -> int:
        """What the note takes in RAM, without its vector and its place in the tier's columns."""
        return _NOTE_BYTES + text_bytes(self.text)


_NOTE_BYTES = sys.getsizeof(Note(0, 0, 0, 0, "")) + _INT_BYTES + _SLOT_BYTES


def text_bytes(text: str) -> int:
    """What a text takes in RAM, the same whenever it is asked.

    CPython keeps the UTF-8 of a text beyond ASCII with it as soon as it is written anywhere, and `sys.getsizeof` counts that from then on;
    here it is counted from the beginning.

    >>> text_bytes("bread") == sys.getsizeof("bread"), text_bytes("æble") > sys.getsizeof("bread")
    (True, True)
    """
    if text.isascii():
        return _ASCII_BYTES + len(text)
    fresh = text + " "  # a copy, which nobody has written yet
    return sys.getsizeof(fresh) + len(text.encode("utf-8", "surrogatepass"))


_ASCII_BYTES = sys.getsizeof("")


def was_between(record: Record, start: int, end: int) -> bool:
    """Whether a record was heard or done (the first or the last time) from step `start` up to and with step `end`."""
    return start <= record.step <= end or (record.first_id != 0 and start <= record.first_step <= end)


def check_text(text: object) -> None:
    """Refuse what cannot be remembered: anything but a string of bounded length. Lone surrogates are kept as they are.

    Raises:
        InputError: it is no string, or longer than `MAX_TEXT_CHARS`.
    """
    if type(text) is not str:
        raise InputError("record", "text", "a str (decode bytes before, as UTF-8 say)", found=type(text).__name__)
    if len(text) > MAX_TEXT_CHARS:
        raise InputError("record", "text", f"at most {MAX_TEXT_CHARS} characters: cut it", found=f"{len(text)}")
