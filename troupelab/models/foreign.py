"""How the scripted model answers prompts that are not laid out like ours: TinyTroupe's, and whatever comes with a JSON Schema.

TinyTroupe's prompts are recognised by structure. A turn: by a schema with `cognitive_state` and actions (or, without a schema, by a
system message that has `cognitive_state` and a fenced persona); it is laid out anew as one of ours and played as such. An interview: by
a schema of an `answer` alone and the words before the question. A call of one
of its functions that a model executes: by its two headings for unnamed and named parameters. The sketch of a person: by its heading
for the detailed specification. A new person: by the heading for the agent's particularities. Typed values: by the name of their schema
or by their three keys. Extractions and lists to be sorted: by the words that introduce them. Every answer depends on the request's
text and the seed alone.

Pure but for a bounded cache; any thread may call it.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson
import xxhash

from troupelab.models import foreign_people
from troupelab.models.character import character, loads, words_in
from troupelab.models.fill import fill
from troupelab.models.foreign_persona import from_repr
from troupelab.models.foreign_said import grouped, matched, sentences
from troupelab.models.foreign_turn import ASKED, STATE, line, properties_of, question_prompt, stimuli, turn
from troupelab.models.model import CONDENSE, ChatMessage, Schema

__all__ = ["ANY_OBJECT", "answer", "recognises"]

ANY_OBJECT = Schema("json_object", {"type": "object"})
"""Asks for a JSON object of any form, as does whatever has this schema or an empty one."""

_TURN_NAMES = "CognitiveAction"
_SCALAR_NAMES = "LLMScalarWithJustification"
_OUR_TURN = "turn"
_TURN_KEYS = {"reasoning", "action", "actions", STATE}
_SCALAR_KEYS = {"reasoning", "justification", "value", "confidence"}
_UNNAMED, _NAMED = "## Unnamed parameters\n", "## Named parameters\n"
_SKETCH, _SPECIFICATION = "**Short biography:**", "**Detailed specification:**"
_PARTICULARITIES, _RULES = "## Agent Particularities", "## Generation Rules"
_KEY = re.compile(r'[{,]\s{0,40}"([A-Za-z_]\w{0,40})"\s{0,10}:')
_BETWEEN = re.compile(r"between (-?\d{1,6}) and (-?\d{1,6})")
_OPTION = re.compile(r"'([^'\n]{1,200})'")
_EXTRACTION = "<EXTRACTION HERE>"
_FIELDS = re.compile(r"\*\*must\*\* be the following: ([^\n]{1,500})")
_JSON = "MUST** be a JSON object"
_ONE_OF = "exactly one of the following strings:"
_MOST_NOTES = 12
_MOST_MEMORIES = 200
_MAX_MEMORY = 1_000
_TAIL = 4_000
_MASK = 2**64 - 1

_Called = tuple[list[Any], dict[str, Any]]


class _Ask(NamedTuple):
    """One request: its messages, the form that is asked for, the draws, and who plays a prompt of ours."""

    messages: Sequence[ChatMessage]
    schema: Schema | None
    seed: int
    play: Callable[[str], Any]

    def draw(self, purpose: str) -> int:
        """A whole number for this purpose."""
        return xxhash.xxh3_64_intdigest(purpose.encode("utf-8", "surrogatepass"), self.seed & _MASK)


def answer(messages: Sequence[ChatMessage], schema: Schema | None, seed: int, play: Callable[[str], Any]) -> str | None:
    """The answer to a prompt that is not laid out like ours.

    Args:
        messages: the prompt.
        schema: the form that is asked for, if any; `ANY_OBJECT` for any JSON object.
        seed: another seed gives another answer.
        play: answers a prompt in our layout with an object (a turn, or notes).

    Returns:
        The reply, of the form that was asked for; None where the prompt is not TinyTroupe's and names no form.

    >>> held = Schema("mood", {"type": "object", "properties": {"calm": {"type": "boolean"}}})
    >>> answer([ChatMessage("user", "How are you?")], held, 0, lambda prompt: {})
    '{"calm":true}'
    """
    clean = [ChatMessage(each.role, _clean(each.content)) for each in messages]
    write = _writer(_Ask(clean, schema, seed, play))
    if write is None:
        return None
    found = write()
    return found if isinstance(found, str) else _dumps(found)


def _dumps(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a number or a name that a schema holds and that orjson does not write
        return json.dumps(value)


def recognises(messages: Sequence[ChatMessage], schema: Schema | None) -> bool:
    """Whether `answer` has an answer to this prompt."""
    return _writer(_Ask(messages, schema, 0, lambda prompt: {})) is not None


def _writer(ask: _Ask) -> Callable[[], Any] | None:
    """What writes the answer; None where the prompt is not TinyTroupe's and names no form."""
    held, properties = ask.schema, properties_of(ask.schema)
    if held is not None and held.name == _OUR_TURN and STATE in properties:
        return None  # a prompt of somebody's own for our turns: played as it stands
    if _asks_for_turn(ask, properties):
        return lambda: turn(ask.messages, ask.schema, ask.play)
    last = next((each.content for each in reversed(ask.messages) if each.role == "user"), "")
    if list(properties) == ["answer"] and ASKED in last:
        asked = last.rpartition(ASKED)[2]
        return lambda: ask.play(question_prompt(ask.messages, asked))
    if (called := _parameters(ask)) is not None:
        return lambda: _computed(ask, called)
    if _is_scalar(ask):
        return lambda: _scalar(ask, None)
    if held is not None and not _is_open(held):
        return lambda: fill(held.schema, _said(ask), ask.draw)
    if _SPECIFICATION in last and _SKETCH in last:
        return lambda: _sketch(ask, last)
    if _PARTICULARITIES in last and _RULES in last:
        part = last.partition(_PARTICULARITIES)[2].partition(_RULES)[0]
        return lambda: foreign_people.person(html.unescape(part), ask.draw)
    if '"consolidation"' in last:
        return lambda: _consolidated(ask, [], None)
    if (lists := grouped(last) or matched(last)) is not None:
        return lambda: lists
    keys = _named_keys(ask)
    if "actions" in keys or "action" in keys:
        return None  # somebody's own layout of a turn
    if not keys and _JSON in _tail(ask):
        keys = ["value"]
    return (lambda: _keyed(ask, keys)) if keys else None


def _is_open(schema: Schema | None) -> bool:
    """Whether any JSON object will do."""
    if schema is None:
        return True
    return schema.schema in ({}, ANY_OBJECT.schema) and not schema.name.startswith((_TURN_NAMES, _SCALAR_NAMES))


# ---------------------------------------------------------------------- turns


def _asks_for_turn(ask: _Ask, properties: dict[str, Any]) -> bool:
    first = ask.messages[0] if ask.messages else ChatMessage("user", "")
    inside = STATE in first.content
    if ask.schema is None or _is_open(ask.schema):
        return inside and first.role == "system" and "```json" in first.content
    if not properties:
        return ask.schema.name.startswith(_TURN_NAMES)
    fits = (
        properties.keys() <= _TURN_KEYS and STATE in properties and len(properties.keys() & {"action", "actions"}) == 1
    )
    return fits and (inside or ask.schema.name.startswith(_TURN_NAMES))


# ---------------------------------------------------------------------- functions that a model executes


def _parameters(ask: _Ask) -> _Called | None:
    """What a function is called with: its unnamed and its named parameters; None where none is called."""
    for message in ask.messages:
        if message.role != "user":
            continue
        _, unnamed, rest = message.content.partition(_UNNAMED)
        first, named, rest = rest.partition(_NAMED)
        if unnamed and named:
            values, by_name = loads(first.strip()), loads(rest.partition("\n\n")[0])
            return values if isinstance(values, list) else [], by_name if isinstance(by_name, dict) else {}
    return None


def _computed(ask: _Ask, called: _Called) -> Any:
    unnamed, named = called
    system = ask.messages[0].content
    if "consolidation" in system and isinstance(memories := named.get("memories", unnamed[:1]), list):
        memories = memories if "memories" in named else memories[0] if memories else []
        when = named.get("timestamp", unnamed[1] if len(unnamed) > 1 else None)
        return _consolidated(ask, memories if isinstance(memories, list) else [], when)
    made = foreign_people.computed(named, ask.draw)
    if _is_scalar(ask):
        return _scalar(ask, made, called)
    if made is not None:
        return made
    if ask.schema is not None and not _is_open(ask.schema):
        return fill(ask.schema.schema, _said(ask), ask.draw)
    return {"value": _first_said(ask)} if _wants_json(ask) else " ".join(_said(ask))


def _consolidated(ask: _Ask, memories: list[Any], when: object) -> dict[str, Any]:
    """What was done, heard and felt, of each who spoke the most telling sentences."""
    lines, feelings = [], []
    for memory in memories[-_MOST_MEMORIES:]:
        content = memory.get("content") if isinstance(memory, dict) else None
        content = content if isinstance(content, dict) else {"action": {"content": line(content)}}
        action, state = content.get("action"), content.get(STATE)
        if isinstance(action, dict) and (text := line(action.get("content"))):
            lines.append(f"step 0, I: {text[:_MAX_MEMORY]}")
        lines += [f"step 0, {who[:100] or 'Somebody'}: {text[:_MAX_MEMORY]}" for _, who, text in stimuli(content)]
        if isinstance(state, dict) and (felt := line(state.get("emotions"))):
            feelings.append(felt)
    notes = ask.play(CONDENSE + "\n".join(lines)).get("notes", []) if lines else [f"I noticed: {_first_said(ask)}"]
    told = [f"{who} said: {text}" if text else who for who, _, text in (note.partition(": ") for note in notes)]
    mine = [note for note in told if note.startswith("I said: ")]
    others = [note for note in told if not note.startswith("I said: ")][:_MOST_NOTES]
    kept = [*mine, *([" ".join(others)] if others else []), *([f"I felt: {feelings[-1]}"] if feelings else [])]
    stamp = when if isinstance(when, str) else None
    return {
        "consolidation": [{"content": each, "type": "consolidated", "simulation_timestamp": stamp} for each in kept]
    }


def _sketch(ask: _Ask, text: str) -> str:
    """Two or three sentences on a person, from its persona."""
    who = character(from_repr(text.partition(_SPECIFICATION)[2]))
    first = who.name.split(" ")[0] or "This person"

    def pick(name: str, number: int = 0) -> str:
        return who.tastes[name][(ask.draw(name) + number) % len(who.tastes[name])]

    interests = " and ".join(dict.fromkeys([pick("interest"), pick("interest", 1)]))
    belief = who.beliefs[ask.draw("belief") % len(who.beliefs)][0]
    return (
        f"{first} spends much time on {interests}, likes {pick('like')}, and cannot stand {pick('dislike')}. "
        f"Whoever talks to {first} will sooner or later hear this: “{belief}” "
        f"What {first} wants in the long run is {pick('goal')}."
    )


# ---------------------------------------------------------------------- typed values


def _tail(ask: _Ask) -> str:
    """The last instruction, which says of what type a value should be."""
    return next((each.content[-_TAIL:] for each in reversed(ask.messages) if each.role == "system"), "")


def _wants_json(ask: _Ask) -> bool:
    return ask.schema is not None or _JSON in _tail(ask)


def _is_scalar(ask: _Ask) -> bool:
    if ask.schema is None or _is_open(ask.schema):
        return all(f'"{key}":' in _tail(ask) for key in ("justification", "value", "confidence"))
    properties = properties_of(ask.schema)
    if ask.schema.name.startswith(_SCALAR_NAMES):
        return properties.keys() <= _SCALAR_KEYS
    kinds = [_kind(properties.get(key)) for key in ("justification", "confidence")]
    return kinds == ["string", "number"] and "value" in properties and properties.keys() <= _SCALAR_KEYS - {"reasoning"}


def _kind(schema: object) -> object:
    plain = isinstance(schema, dict) and schema.keys() <= {"type", "title", "description"}
    return schema.get("type") if plain and isinstance(schema, dict) else None


def _scalar(ask: _Ask, made: Any, called: _Called | None = None) -> dict[str, Any]:
    """A value of the type that is asked for, with a justification and a confidence."""
    name = ask.schema.name if ask.schema is not None else ""
    reasoned = "reasoning" in properties_of(ask.schema) or "AndReasoning" in name or '"reasoning":' in _tail(ask)
    found = {"reasoning": "I looked at what was given, and weighed it."} if reasoned else {}
    return {
        **found,
        "justification": "It follows from what was given." if called else _first_said(ask),
        "value": _value(ask, called) if made is None else made,
        "confidence": 0.5 + ask.draw("confidence") % 46 / 100,
    }


def _value(ask: _Ask, called: _Called | None) -> Any:
    inner = properties_of(ask.schema).get("value")
    if ask.schema is not None and isinstance(inner, dict) and "anyOf" not in inner:
        return fill(inner, _said(ask), ask.draw, ask.schema.schema)
    tail = _tail(ask)
    if "'True' or 'False'" in tail:
        return ask.draw("value") % 4 < 3
    if "integer number" in tail:
        found = _BETWEEN.search(ask.messages[0].content[:_TAIL])
        low, high = sorted(map(int, found.groups())) if found else (1, 9)
        return high - ask.draw("value") % max(1, (high - low) // 3)  # what is asked of is mostly true
    if "float number" in tail:
        return _nearness(called) if called else round(0.5 + ask.draw("value") % 450 / 1_000, 3)
    if _ONE_OF in tail:
        options = _OPTION.findall(tail.partition(_ONE_OF)[2])
        return options[ask.draw("value") % len(options)] if options else ""
    if "list of dictionaries" in tail:
        return [{"value": said} for said in _said(ask)]
    if "JSON **list**" in tail:
        return _said(ask)
    if "JSON structure" in tail:
        return {"value": _first_said(ask)}
    return _first_said(ask)


def _nearness(called: _Called) -> float:
    """How near the first two texts among the parameters are: the share of their words that both have."""
    texts = [words_in(each[:_TAIL]) for each in (*called[0], *called[1].values()) if isinstance(each, str)][:2]
    if len(texts) < 2 or not texts[0] | texts[1]:
        return 0.5
    return round(len(texts[0] & texts[1]) / len(texts[0] | texts[1]), 3)


def _named_keys(ask: _Ask) -> list[str]:
    """The keys of the object that is asked for without a schema, as the prompt names them."""
    if ask.messages and _EXTRACTION in ask.messages[0].content:
        found = _FIELDS.search(ask.messages[0].content)
        return [key for each in found[1].split(",")[:50] if (key := each.strip(" `'\"[]{}"))] if found else ["value"]
    if ask.schema is None:
        return []
    return [*dict.fromkeys(_KEY.findall("\n".join(each.content[-_TAIL:] for each in ask.messages[-3:])))][:50]


def _keyed(ask: _Ask, keys: list[str]) -> dict[str, str]:
    said = _said(ask)
    return {key: said[ask.draw(f"fill {key}") % len(said)] for key in keys}


# ---------------------------------------------------------------------- sentences


def _clean(text: str) -> str:
    """The text without halves of characters, which JSON cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _said(ask: _Ask) -> list[str]:
    called = _parameters(ask)
    return sentences(ask.messages, (called[0], called[1]) if called else ())


def _first_said(ask: _Ask) -> str:
    said = _said(ask)
    return said[ask.draw("said") % len(said)]
