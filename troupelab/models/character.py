"""What the scripted model knows of a persona: read as leniently as people write them. Pure; any thread may call it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from troupelab.text.words import analyse

__all__ = ["Character", "character", "loads", "words_in"]


class Character(NamedTuple):
    """What of a persona the sentences need."""

    name: str
    work: str
    beliefs: tuple[tuple[str, frozenset[str]], ...]
    tastes: dict[str, tuple[str, ...]]
    agreeable: int
    talkative: float


@lru_cache(maxsize=2_048)
def character(persona_json: str) -> Character:
    """Read a persona as leniently as people write them; what is missing is made good with something harmless."""
    persona = loads(persona_json)
    persona = persona if isinstance(persona, dict) else {}
    preferences = _object(persona.get("preferences"))
    occupation = persona.get("occupation")
    title = occupation.get("title") if isinstance(occupation, dict) else occupation
    five = _object(_object(persona.get("personality")).get("big_five"))
    beliefs = [belief if belief[-1] in ".!?" else belief + "." for belief in _texts(persona.get("beliefs"))]
    beliefs = beliefs or ["One should look twice and speak once."]
    title = str(title or "a newcomer")
    article = "" if title.lower().startswith(("a ", "an ", "the ")) else "an " if title[0].lower() in "aeiou" else "a "
    goals = [goal[:1].lower() + goal[1:] for goal in _texts(persona.get("long_term_goals"))]
    return Character(
        name=str(persona.get("name", "")),
        work=article + title[:1].lower() + title[1:],
        beliefs=tuple((belief, words_in(belief)) for belief in beliefs),
        tastes={
            "like": _phrases(preferences.get("likes"), "a quiet evening"),
            "dislike": _phrases(preferences.get("dislikes"), "being hurried"),
            "interest": _phrases(preferences.get("interests"), "small repairs"),
            "goal": tuple(goal.rstrip(". ") for goal in goals) or ("to get through the week",),
        },
        agreeable=_level(five.get("agreeableness")),
        talkative=(0.7, 0.85, 0.97)[_level(five.get("extraversion"))],
    )


def _level(words: object) -> int:
    text = str(words or "").lower()
    return 2 if text.startswith("high") else 0 if text.startswith("low") else 1


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> list[str]:
    return [text for item in (value if isinstance(value, list) else []) if (text := str(item).strip())]


def _phrases(value: object, otherwise: str) -> tuple[str, ...]:
    """Phrases that fit into a sentence; where all begin with a capital letter, that is a list's style and not a name."""
    found = [text.rstrip(". ") for text in _texts(value)]
    if all(text[:1].isupper() and not text[1:2].isupper() for text in found):
        found = [text[:1].lower() + text[1:] for text in found]
    return tuple(found) or (otherwise,)


def loads(text: str) -> Any:
    """The value of some JSON; an empty list where it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return []


def words_in(text: str) -> frozenset[str]:
    """The words of all sentences of a text that say what they are about."""
    return frozenset(word for sentence in analyse(text) for word in sentence.words)
