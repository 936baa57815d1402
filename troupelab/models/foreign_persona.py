"""Reads personas as TinyTroupe's prompts have them, and writes them as the scripted model reads them.

A persona stands as fenced JSON in a system message, or as Python prints a dictionary. Both are read within limits, with no recursion
of ours. Pure but for a bounded cache; any thread may call it.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import orjson

from troupelab.models.character import loads

__all__ = ["first_object", "from_repr", "persona_json", "texts"]

_FENCE, _FENCE_END = "```json", "```"
_HEADING = "## Persona"
_MOST_FENCES = 12
_MAX_CHARS = 262_144
_MAX_REPR_CHARS = 65_536
_MAX_TEXTS = 60
_MAX_TEXT = 300
# A string as Python prints it, also one that never ends, so that each character is looked at once; or a constant.
_PRINTED = re.compile(
    r"""'([^'\\]*(?:\\.[^'\\]*)*)(?:'|\\?\Z)|"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)|\b(True|False|None)\b""", re.DOTALL
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.)|\"", re.DOTALL)
_decoder = json.JSONDecoder()
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_YOU = re.compile(r"\b(you are|you're|you've|yourself|yours|your|you)\b", re.IGNORECASE)
_ME = {
    "you are": "I am",
    "you're": "I'm",
    "you've": "I've",
    "yourself": "myself",
    "yours": "mine",
    "your": "my",
    "you": "I",
}


def persona_json(system: str) -> str:
    r"""The persona in a system message, as JSON that the scripted model reads; `{}` where there is none.

    >>> persona_json('## Persona\n```json\n{"name": "Ada", "beliefs": ["You like rain."]}\n```')
    '{"name":"Ada","beliefs":["I like rain."]}'
    """
    place = max(system.find(_HEADING), 0)
    for _ in range(_MOST_FENCES):
        start = system.find(_FENCE, place)
        if start < 0:
            break
        end = system.find(_FENCE_END, start + len(_FENCE))
        place = end if end >= 0 else len(system)
        found = _read(system[start + len(_FENCE) : place][:_MAX_CHARS])
        if found != "{}":
            return found
        place += len(_FENCE_END)
    return "{}"


def from_repr(text: str) -> str:
    """A persona that Python printed as a dictionary, as JSON that the scripted model reads; `{}` where it is none."""
    printed = text.strip()[:_MAX_REPR_CHARS]
    return _read(_PRINTED.sub(lambda found: _CONSTANTS.get(found[3]) or _quoted(found[1] or found[2] or ""), printed))


def texts(value: object, most: int = _MAX_TEXTS) -> list[str]:
    """The texts in some JSON, in their order: those of lists and objects, too, however deep.

    >>> texts({"a": ["x", {"b": "y"}], "c": 3})
    ['x', 'y', '3']
    """
    found: list[str] = []
    waiting = [value]
    looked_at = 0
    while waiting and len(found) < most and looked_at < 10 * most:
        looked_at += 1
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += [*each.values()][most::-1]
        elif isinstance(each, list):
            waiting += each[most::-1]
        elif each is not None and not isinstance(each, bool) and (text := " ".join(str(each).split())[:_MAX_TEXT]):
            found.append(text)
    return found


def first_object(text: str) -> dict[str, Any]:
    """The JSON object that begins with a text's first brace, whatever follows it; an empty one where there is none.

    >>> first_object('Characteristics: {"age": 30}. A range is like {"a": [1, 2]}.')
    {'age': 30}
    """
    try:
        found, _ = _decoder.raw_decode(text, max(text.find("{"), 0))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _quoted(printed: str) -> str:
    def escape(found: re.Match[str]) -> str:
        if found[1] is None:
            return '\\"'
        if found[1][0] == "x" and len(found[1]) == 3:
            return f"\\u00{found[1][1:]}"
        return "'" if found[1] == "'" else f"\\{found[1]}"

    return f'"{_ESCAPE.sub(escape, printed)}"'


@lru_cache(maxsize=1_024)
def _read(text: str) -> str:
    """What of a persona the scripted model reads, flat; where it has no beliefs, its traits say what it is like."""
    found = loads(text)
    if isinstance(found, dict) and isinstance(inner := found.get("persona"), dict):
        found = inner
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return "{}"
    character, preferences = _object(found.get("personality")), _object(found.get("preferences"))
    work = found.get("occupation")
    title = texts(work.get("title"), 1) if isinstance(work, dict) else texts(work, 1)
    five = {name: texts(value, 1) for name, value in [*_object(character.get("big_five")).items()][:10]}
    persona: dict[str, Any] = {
        "name": " ".join(found["name"].split())[:100],
        "occupation": _in_a_sentence(title[0]) if title else "",
        "beliefs": [_mine(each) for each in texts(found.get("beliefs")) or texts(character.get("traits"))],
        "long_term_goals": texts(found.get("long_term_goals")),
        "preferences": {name: texts(preferences.get(name)) for name in ("likes", "dislikes", "interests")},
        "personality": {"big_five": {name.lower(): value[0] for name, value in five.items() if value}},
    }
    kept = {name: value for name, value in persona.items() if any(texts(value, 1))}
    return orjson.dumps(kept).decode()


def _in_a_sentence(title: str) -> str:
    """A job as it is written within a sentence, where its words are all capitalised as in a heading."""
    words = title.split(" ")
    return title.lower() if all(word.isalpha() and word == word.capitalize() for word in words) else title


def _mine(text: str) -> str:
    """What a persona is told about itself, as it would say it."""
    if text[:3].lower() != "you":
        return text
    mine = _YOU.sub(lambda found: _ME[found[0].lower()], text)
    return mine[:1].upper() + mine[1:]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
