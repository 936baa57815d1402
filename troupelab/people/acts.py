"""What agents do and hear: actions, messages, and the reading of a model's turn.

The JSON is TinyTroupe's: an action has `type`, `content` and `target`, a turn also a `cognitive_state`. Types that
TinyTroupe does not know are kept and recorded. Immutable; any thread.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from troupelab.errors import ReplyError
from troupelab.models.model import Schema

__all__ = [
    "CONVERSATION",
    "DONE",
    "EXPECTED",
    "MAX_ACTIONS",
    "REACH_OUT",
    "SOCIAL",
    "TALK",
    "THINK",
    "TURN",
    "Action",
    "Message",
    "Turn",
    "read_turn",
]

TALK, REACH_OUT, THINK, DONE = "TALK", "REACH_OUT", "THINK", "DONE"
CONVERSATION, SOCIAL = "CONVERSATION", "SOCIAL"

MAX_ACTIONS = 12
"""An agent takes at most so many actions in a turn; what a model writes beyond that is counted and left out."""

EXPECTED = ("actions", "action")
"""The keys of which a turn's object must have one."""

_TEXT = {"type": "string"}


def _closed(**properties: object) -> dict[str, object]:
    """An object with these properties, all of them and no others, as strict structured output wants it."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


TURN = Schema(
    "turn",
    _closed(
        actions={"type": "array", "items": _closed(type=_TEXT, content=_TEXT, target=_TEXT)},
        cognitive_state=_closed(goals=_TEXT, attention=_TEXT, emotions=_TEXT),
    ),
)
"""What a turn's reply should be."""

_MAX_TYPE = 40


class Action(msgspec.Struct, frozen=True, gc=False):
    """Something that an agent does; `target` is the name of whom it is for, or empty for all who hear."""

    type: str
    content: str
    target: str


class Message(msgspec.Struct, frozen=True, gc=False):
    """Something on its way to an agent: its id tells who sent it when, `kind` is TinyTroupe's type of stimulus."""

    id: int
    kind: str
    source: str
    text: str


class Turn(msgspec.Struct, frozen=True):
    """What a model made of an agent's turn: actions up to DONE, the state of mind, and how many actions were left out."""

    actions: tuple[Action, ...]
    state: dict[str, str]
    left_out: int


def read_turn(found: dict[str, Any]) -> Turn:
    """Read a turn from a reply's object: `{"actions": […], "cognitive_state": {…}}`, or TinyTroupe's single `action`.

    Raises:
        ReplyError: there are no actions, or one has no type.

    >>> read_turn({"actions": [{"type": "TALK", "content": "Hello.", "target": ""}, {"type": "DONE"}]}).actions[0].content
    'Hello.'
    """
    listed = found["actions"] if "actions" in found else [found["action"]]
    if not isinstance(listed, list) or not listed:
        raise ReplyError("'actions' must be a list with at least one action", str(found))
    actions: list[Action] = []
    for raw in listed:
        if not isinstance(raw, dict) or not isinstance(raw.get("type"), str) or not 0 < len(raw["type"]) <= _MAX_TYPE:
            raise ReplyError("each action must be an object with a 'type'", str(raw))
        action = Action(raw["type"].strip().upper(), _text(raw.get("content")), _text(raw.get("target")).strip())
        actions.append(action)
        if action.type == DONE:
            break
    state = found.get("cognitive_state")
    mind = {str(key): _text(value) for key, value in state.items()} if isinstance(state, dict) else {}
    return Turn(tuple(actions[:MAX_ACTIONS]), mind, max(0, len(actions) - MAX_ACTIONS))


def _text(value: object) -> str:
    """Models write lists and objects where a text is wanted; they are kept as JSON rather than lost."""
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value, default=str).decode()
