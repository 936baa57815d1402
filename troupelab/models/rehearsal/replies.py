"""What the rehearsal server answers: the scripted model's reply, in the shape that was asked for, and how a reply is spoilt.

The scripted model answers what is laid out like this package's prompts, TinyTroupe's prompts and whatever comes with a schema. Other
requests get a turn where a JSON object is wanted, and a plain sentence without a format. Pure; any thread.
"""

from __future__ import annotations

import orjson
import xxhash

from troupelab.models.fill import fill
from troupelab.models.foreign import ANY_OBJECT, recognises
from troupelab.models.foreign_persona import persona_json
from troupelab.models.model import CONDENSE, NOW, PACK, PERSONA, QUESTION, ChatMessage, Request, Schema
from troupelab.models.rehearsal.reading import ChatAsk
from troupelab.models.scripted import ScriptedModel

__all__ = ["SHORT_REPLY", "fill", "spoil", "write_reply"]

SHORT_REPLY = orjson.dumps(
    {
        "actions": [
            {"type": "TALK", "content": "I agree.", "target": ""},
            {"type": "DONE", "content": "", "target": ""},
        ],
        "cognitive_state": {"goals": "to listen", "attention": "the talk", "emotions": "calm"},
    }
).decode()
"""A small valid turn, always the same."""

_MASK = 2**64 - 1
_MOST_SAID = 20
_APOLOGY = "I am sorry, but I cannot help with that."


async def write_reply(model: ScriptedModel, ask: ChatAsk) -> str:
    """The text of a reply: the same for the same request and model.

    Args:
        model: writes the turn; it should take no time.
        ask: what was asked.
    """
    seed = xxhash.xxh3_64_intdigest(ask.prompt.encode()) if ask.seed is None else ask.seed & _MASK
    held = {"json_schema": Schema(ask.schema_name, ask.schema), "json_object": ANY_OBJECT}.get(ask.format)
    messages = tuple(ChatMessage(role, text) for role, text in ask.messages)
    if any(title in ask.prompt for title in (NOW, CONDENSE, QUESTION, PACK)) or recognises(messages, held):
        return await _complete(model, seed, messages, held)
    turn = await _complete(model, seed, (ChatMessage("user", _as_sections(ask)),), None)
    if ask.format == "json_object":
        return turn
    # A turn has one action or more before DONE; what is said aloud is the better answer.
    actions = orjson.loads(turn)["actions"]
    sentence: str = max(actions, key=lambda action: (action["type"] == "TALK", action["content"]))["content"]
    return sentence


def spoil(text: str, how: str) -> str:
    r"""A reply as a model's bad day would have it.

    >>> spoil('{"a": 1}', "fence")
    'Sure! Here it is:\n```json\n{"a": 1}\n```\nI hope that helps.'
    """
    if how == "truncate":
        return text[: len(text) * 3 // 5]
    if how == "fence":
        return f"Sure! Here it is:\n```json\n{text}\n```\nI hope that helps."
    if how == "single":
        return text.replace('"', "'")
    return {"prose": _APOLOGY, "empty": "", "nokey": '{"cognitive_state": {}}'}[how]


async def _complete(model: ScriptedModel, seed: int, messages: tuple[ChatMessage, ...], held: Schema | None) -> str:
    return (await model.complete(Request("act", 0, 0, 0, 0, seed, messages, schema=held))).text


def _as_sections(ask: ChatAsk) -> str:
    """A prompt of somebody else's, laid out as ours: the persona where one stands as JSON, and what was said last."""
    said = [text for role, text in ask.messages if role == "user"][-_MOST_SAID:]
    lines = "\n".join(orjson.dumps({"type": "", "source": "", "content": text}).decode() for text in said)
    return f"{PERSONA}{persona_json(ask.messages[0][1])}{NOW}{lines}"
