"""Consolidation by the model: how an agent's old records are put to it, and how its notes are read.

The request is the agent's last prompt, byte for byte, with an instruction after it: a provider that caches prompts by their beginning has
most of it already. Pure; any thread may call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from troupelab.errors import ReplyError
from troupelab.memory.record import Record
from troupelab.models.model import CONDENSE, ChatMessage, Part, Schema

__all__ = ["EXPECTED_NOTES", "MAX_TOKENS", "NOTES_SCHEMA", "condense_part", "condense_prompt", "read_notes"]

EXPECTED_NOTES = ("notes",)
NOTES_SCHEMA = Schema(
    "notes",
    {
        "type": "object",
        "properties": {"notes": {"type": "array", "items": {"type": "string"}}},
        "required": ["notes"],
        "additionalProperties": False,
    },
)
MAX_TOKENS = 4_000
"""Room for the notes of some fifty records."""

_MAX_NOTES = 64
_MAX_NOTE_CHARS = 4_000
_MAX_RECORD_CHARS = 2_000

_INSTRUCTION = """\
Do not act now. Condense what follows, which this person heard and did a while ago, into a few notes for their memory: one fact or one
topic a note, who said it, every number and name. Answer with one JSON object and nothing else: {"notes": ["...", ...]}
"""


def condense_part(records: Sequence[Record]) -> Part:
    """What asks for notes about some records; what goes out together has the instruction in common."""
    lines = (
        f"step {record.step}, {record.source}: {record.text[:_MAX_RECORD_CHARS]}".replace("\n", " ")
        for record in records
    )
    return Part(f"{CONDENSE}{_INSTRUCTION}", "\n".join(lines))


def condense_prompt(last: Sequence[ChatMessage], part: Part) -> tuple[ChatMessage, ...]:
    """The messages that ask for it alone, after an agent's last prompt."""
    return (*last, ChatMessage("user", part.common + part.own))


def read_notes(found: dict[str, Any]) -> list[str]:
    """Read the notes in a reply's object.

    Raises:
        ReplyError: they are no list of texts, or too many or too long.

    >>> read_notes({"notes": ["Elif will buy the lamp for 79 euros."]})
    ['Elif will buy the lamp for 79 euros.']
    """
    notes = found.get("notes")
    if not isinstance(notes, list) or not 0 < len(notes) <= _MAX_NOTES:
        raise ReplyError(f"'notes' must be a list of 1 to {_MAX_NOTES} texts", str(found))
    for note in notes:
        if not isinstance(note, str) or not 0 < len(note.strip()) <= _MAX_NOTE_CHARS:
            raise ReplyError(f"each note must be a text of 1 to {_MAX_NOTE_CHARS} characters", str(note))
    return [note.strip() for note in notes]
