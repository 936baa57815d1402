"""What the rehearsal server answers: the scripted model's turn, in the shape that was asked for, and how a reply is spoilt.

Requests laid out like those of this package are answered as `ScriptedModel` answers them. TinyTroupe's are recognised by the names of
its schemas, any other schema is filled with plain values, and a request without a format gets a plain sentence. Pure; any thread.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
import xxhash

from troupelab.models.model import CONDENSE, NOW, PACK, PERSONA, QUESTION, ChatMessage, Request
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
_MAX_DEPTH = 12
_MAX_FILLED = 2_000
_MAX_STIMULI = 20
_APOLOGY = "I am sorry, but I cannot help with that."
_ACTION = ("CognitiveActionModel", "CognitiveActionModelWithReasoning")
_ACTIONS = ("CognitiveActionsModel", "CognitiveActionsModelWithReasoning")
_SCALAR = "LLMScalarWithJustification"
_decoder = json.JSONDecoder()


async def write_reply(model: ScriptedModel, ask: ChatAsk) -> str:
    """The text of a reply: the same for the same request and model.

    Args:
        model: writes the turn; it should take no time.
        ask: what was asked.
    """
    seed = xxhash.xxh3_64_intdigest(ask.prompt.encode()) if ask.seed is None else ask.seed & _MASK
    if any(title in ask.prompt for title in (NOW, CONDENSE, QUESTION, PACK)):
        return await _complete(model, seed, ask.messages)
    turn = orjson.loads(await _complete(model, seed, (("user", _as_sections(ask)),)))
    # A turn has one action or more before DONE; what is said aloud is the better answer.
    sentence = max(turn["actions"], key=lambda action: (action["type"] == "TALK", action["content"]))["content"]
    if ask.format == "text":
        return _notes(sentence) if _asks_for_consolidation(ask.prompt) else sentence
    return orjson.dumps(_shaped(ask, turn, sentence, seed)).decode()


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


def fill(schema: object, sentence: str, root: dict[str, Any] | None = None) -> Any:
    """A plain value that a JSON Schema describes, bounded in depth and size.

    Args:
        schema: what is asked for; of a choice the first is taken, of an enumeration too.
        sentence: what stands where a text is wanted.
        root: the whole schema that this one is a part of; None: it is the whole.

    >>> fill({"type": "object", "properties": {"ok": {"type": "boolean"}, "tags": {"items": {"enum": ["a"]}, "type": "array"}}}, "Hm.")
    {'ok': True, 'tags': ['a']}
    """
    whole = root if root is not None else schema if isinstance(schema, dict) else {}
    return _Filling(whole, sentence).value(schema, 0)


class _Filling:
    """Fills one schema, and counts what it has written."""

    def __init__(self, root: dict[str, Any], sentence: str) -> None:
        self._root = root
        self._sentence = sentence
        self._left = _MAX_FILLED

    def value(self, schema: object, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or self._left < 0 or depth > _MAX_DEPTH:
            return None
        among = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(among, list) and among and not isinstance(among[0], dict | list):
            return among[0]
        if isinstance(reference := schema.get("$ref"), str):
            return self.value(self._find(reference), depth + 1)
        for word in ("anyOf", "oneOf", "allOf"):
            if isinstance(among := schema.get(word), list) and among:
                # Deep inside, the shortest way out of a schema that contains itself.
                nothing = depth > _MAX_DEPTH // 2 and {"type": "null"} in among
                return None if nothing else self.value(among[0], depth + 1)
        kinds = schema.get("type")
        kind = kinds[0] if isinstance(kinds, list) and kinds else kinds
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema.get("properties"), depth)
        if kind == "array":
            return [self.value(schema["items"], depth + 1)] if "items" in schema and depth < _MAX_DEPTH else []
        if kind in ("integer", "number"):
            low = schema.get("minimum")
            return low if isinstance(low, int | float) else 1
        return {"boolean": True, "null": None}.get(kind, self._sentence) if isinstance(kind, str) else self._sentence

    def _object(self, properties: object, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, inner in properties.items() if isinstance(properties, dict) else ():
            if self._left <= 0:
                break
            found[name] = self.value(inner, depth + 1)
        return found

    def _find(self, reference: str) -> object:
        place: object = self._root
        for name in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            place = place.get(name) if isinstance(place, dict) else None
        return place


async def _complete(model: ScriptedModel, seed: int, messages: tuple[tuple[str, str], ...]) -> str:
    request = Request("act", 0, 0, 0, 0, seed, tuple(ChatMessage(role, text) for role, text in messages))
    return (await model.complete(request)).text


def _as_sections(ask: ChatAsk) -> str:
    """A prompt of somebody else's, laid out as ours: the persona where one stands as JSON, and what was heard last."""
    heard: list[dict[str, str]] = []
    for role, text in reversed(ask.messages):
        if role != "user":
            continue
        stimuli = _loads(text).get("stimuli")
        for each in stimuli if isinstance(stimuli, list) else [{"content": text}]:
            if isinstance(each, dict):
                heard.append({name: _text(each.get(name)) for name in ("type", "source", "content")})
        if stimuli or len(heard) >= _MAX_STIMULI:
            break
    lines = "\n".join(orjson.dumps(each).decode() for each in heard[:_MAX_STIMULI])
    return f"{PERSONA}{_persona(ask.messages[0][1])}{NOW}{lines}"


def _persona(text: str) -> str:
    """The persona in TinyTroupe's system message: the object that its fenced block begins with."""
    start = text.find("{", max(text.find("```json"), 0))
    try:
        found, _ = _decoder.raw_decode(text, start) if start >= 0 else ({}, 0)
    except ValueError:
        found = {}
    if isinstance(found, dict) and isinstance(inner := found.get("persona"), dict):
        found = inner
    return json.dumps(found) if isinstance(found, dict) and "name" in found else "{}"


def _shaped(ask: ChatAsk, turn: dict[str, Any], sentence: str, seed: int) -> Any:
    """The turn in the shape that the request's schema asks for."""
    name = ask.schema_name
    why = {"reasoning": "It is what this person would do."} if "WithReasoning" in name or "AndReasoning" in name else {}
    state = turn["cognitive_state"] | {"context": ["a conversation"]}
    if name in _ACTIONS:
        return {**why, "actions": turn["actions"], "cognitive_state": state}
    if name in _ACTION:
        return {**why, "action": _next_action(ask, turn["actions"]), "cognitive_state": state}
    if name.startswith(_SCALAR):
        properties = ask.schema.get("properties")
        value = fill(properties.get("value") if isinstance(properties, dict) else {}, str(seed % 10), ask.schema)
        return {**why, "justification": sentence, "value": value, "confidence": 0.5 + seed % 50 / 100}
    if _asks_for_consolidation(ask.prompt) and ask.format == "json_object":
        return orjson.loads(_notes(sentence))
    if ask.format == "json_object":
        return turn
    return fill(ask.schema, sentence)


def _next_action(ask: ChatAsk, actions: list[dict[str, str]]) -> dict[str, str]:
    """Where one action is asked for at a time: the first, and DONE as soon as one follows what was heard last."""
    for role, text in reversed(ask.messages):
        if role == "assistant":
            return actions[-1]
        if role == "user" and '"stimuli"' in text:
            break
    return actions[0]


def _asks_for_consolidation(prompt: str) -> bool:
    return '"consolidation"' in prompt or ("consolidation" in prompt and "Consolidated memory" in prompt)


def _notes(sentence: str) -> str:
    note = {"content": sentence, "type": "consolidated", "simulation_timestamp": None}
    return orjson.dumps({"consolidation": [note]}).decode()


def _loads(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
