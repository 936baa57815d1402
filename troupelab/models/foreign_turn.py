"""Turns of TinyTroupe's personas: its prompt laid out anew as one of ours, played, and the reply in the form that it asks for.

Its system message has the persona as JSON and lists what is remembered of the episode; the messages after it say in JSON what was
heard last. Pure but for a bounded cache; any thread may call it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from troupelab.models.character import character, loads
from troupelab.models.foreign_persona import persona_json
from troupelab.models.model import NOTES, NOW, PEOPLE, PERSONA, QUESTION, RECENTLY, ChatMessage, Schema

__all__ = ["ASKED", "STATE", "line", "properties_of", "question_prompt", "stimuli", "turn", "turn_prompt"]

ASKED = "The question: "
"""What stands before an interviewer's question."""

STATE = "cognitive_state"
"""Where a turn has the persona's state of mind."""

_REACHABLE = "accessible agents:"
_REMEMBERED = "Episodic memories:"
_LEARNT, _LEARNT_END = "available semantic memories:", "\n#"
_MEMORY = re.compile(
    r"\s{0,20}- \[(STIMULUS|ACTION):(\w{1,40})\](?: (?:from|to) ([^\n]{1,100}?))?(?: \[@[^\]\n]{0,60}\])?: ?(.*)"
)
_NOBODY = ("", "ENV")
_MOST_LINES = 60
_MOST_MESSAGES = 40
_MOST_LISTED = 8_000
_MOST_REMEMBERED = 200_000
_MAX_LINE = 4_000


def properties_of(schema: Schema | None) -> dict[str, Any]:
    """The properties that a form's outermost object has."""
    found = schema.schema.get("properties") if schema is not None else None
    return found if isinstance(found, dict) else {}


def turn(messages: Sequence[ChatMessage], schema: Schema | None, play: Callable[[str], Any]) -> dict[str, Any]:
    """The turn of the persona in a prompt, in the form that is asked for: one action at a time, or all up to DONE.

    Args:
        messages: the prompt.
        schema: the form, if one is given.
        play: answers a prompt in our layout with a turn.
    """
    played = play(turn_prompt(messages))
    found: dict[str, Any] = played if isinstance(played, dict) else {}
    actions = found.get("actions") or [{"type": "DONE", "content": "", "target": ""}]
    said = found.get(STATE, {})
    with_whom = sorted({action["target"] for action in actions if action["target"]})
    state = {
        "goals": said.get("goals", ""),
        "context": [f"Talking to {', '.join(with_whom)}."] if with_whom else ["A conversation."],
        "attention": said.get("attention", ""),
        "emotions": said.get("emotions", ""),
    }
    properties, name = properties_of(schema), schema.name if schema is not None else ""
    reasons = "reasoning" in properties or "WithReasoning" in name
    why = {"reasoning": "It is what this person would do."} if reasons else {}
    if "action" in properties or (not properties and name.startswith("CognitiveActionModel")):
        return {**why, "action": _next_action(messages, actions), STATE: state}
    return {**why, "actions": actions, STATE: state}


def _next_action(messages: Sequence[ChatMessage], actions: list[dict[str, str]]) -> dict[str, str]:
    """Where one action is asked for at a time: the first, and DONE as soon as one follows what was heard last."""
    for message in reversed(messages):
        if message.role == "assistant":
            return actions[-1]
        if message.role == "user" and '"stimuli"' in message.content:
            break
    return actions[0]


def turn_prompt(messages: Sequence[ChatMessage]) -> str:
    """A prompt for a turn, laid out as ours: the persona, whom one can reach, what one remembers, and what is new.

    Args:
        messages: a prompt that has the persona as JSON in its first message and what was heard in the others.
    """
    system = _plain(messages[0].content) if messages else ""
    persona = persona_json(system)
    name = character(persona).name
    told = _told(system, name)
    for message in messages[1:][-_MOST_MESSAGES:]:
        told += _said_in(message, name)
    # What is new is what came since this person's own last action; at least the last of what was heard.
    since = max((place for place, each in enumerate(told) if each[1] == name), default=-1) + 1
    new = [each for each in told[since:] if each[1] != name] or [each for each in told if each[1] != name][-1:]
    new = list({each[2]: each for each in new}.values())
    spoke = [who for kind, who, _ in told if kind == "CONVERSATION" and who not in (*_NOBODY, name)]
    people = list(dict.fromkeys([*_reachable(system), *spoke]))
    lines = "\n".join(f"step 0, {who}: {text}" for _, who, text in told[:since] if who not in _NOBODY)
    heard = "\n".join(orjson.dumps({"type": kind, "source": who, "content": text}).decode() for kind, who, text in new)
    learnt = _learnt(system, name)
    reach = f"You can talk to: {', '.join(people)}." if people else "Nobody else is here."
    return f"{PERSONA}{persona}{PEOPLE}{reach}\n{NOTES}{learnt}\n{RECENTLY}{lines}\n{NOW}{heard}"


def question_prompt(messages: Sequence[ChatMessage], question: str) -> str:
    """A prompt for an interview, laid out as ours: the persona, what one remembers, and the question.

    Args:
        messages: a prompt that has the persona as JSON in its first message.
        question: what is asked.
    """
    known = turn_prompt(messages[:1])
    who, _, new = known.partition(NOW)
    heard = "\n".join(f"step 0, {source}: {text}" for _, source, text in _new(new) if source)
    return f"{who}{heard}{QUESTION}{ASKED}{line(question)}"


def _new(lines: str) -> list[tuple[str, str, str]]:
    return [
        each
        for text in lines.splitlines()
        if isinstance(found := loads(text), dict)
        for each in stimuli({"stimuli": [found]})
    ]


def _plain(content: str) -> str:
    """A message's text; TinyTroupe sends a turn's messages as JSON strings."""
    text = loads(content) if content.startswith('"') else content
    return text if isinstance(text, str) else content


def _reachable(system: str) -> list[str]:
    _, found, rest = system.partition(_REACHABLE)
    names = []
    for each in rest[:_MOST_LISTED].split("\n")[1:_MOST_LINES] if found else ():
        if not each.strip():
            break
        names.append(line(html.unescape(each.strip().removeprefix("- ").partition(": ")[0])))
    return [name for name in names if 0 < len(name) <= 100]


def _told(system: str, name: str) -> list[tuple[str, str, str]]:
    """Kind, source and text of what the system message remembers of the episode, from the oldest on."""
    told: list[tuple[str, str, str]] = []
    remembered = system.rpartition(_REMEMBERED)[2] if _REMEMBERED in system else ""
    for each in remembered[-_MOST_REMEMBERED:].splitlines()[-_MOST_LINES:]:
        if not (found := _MEMORY.fullmatch(each)):
            if told and each.strip():
                told[-1] = (*told[-1][:2], line(f"{told[-1][2]} {each}"))
            continue
        what, kind, who, text = found.groups()
        source = name if what == "ACTION" else "" if who is None or who in _NOBODY else who
        told.append((kind, source, line(text)))
    return [each for each in told if each[2] or each[1] == name]


def _said_in(message: ChatMessage, name: str) -> list[tuple[str, str, str]]:
    """What a message of the conversation says was heard or done."""
    found = loads(message.content) if message.content.startswith("{") else None
    if not isinstance(found, dict):
        return []
    if message.role == "user":
        return stimuli(found)
    action = found.get("action")
    return [(line(action.get("type")), name, line(action.get("content")))] if isinstance(action, dict) else []


def stimuli(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Kind, source and text of each stimulus in a message's object; what nobody said has an empty source."""
    listed = found.get("stimuli")
    return [
        (line(each.get("type")), "" if each.get("source") in _NOBODY else line(each.get("source")), text)
        for each in (listed[-_MOST_LINES:] if isinstance(listed, list) else ())
        if isinstance(each, dict) and (text := line(each.get("content")))
    ]


def _learnt(system: str, name: str) -> str:
    """What the system message has of longer ago, each on a line; what one said oneself begins with one's name."""
    part = system.partition(_LEARNT)[2][:_MOST_LISTED].partition(_LEARNT_END)[0]
    lines = [line(html.unescape(each)).removeprefix("- ") for each in part.split("\n") if each.strip()]
    return "\n".join(f"{name}{each[1:]}" if each.startswith("I said:") else each for each in lines)


def line(value: object) -> str:
    r"""A text in one line and not too long; an empty one where it is none.

    >>> line(" one\n two ")
    'one two'
    """
    return " ".join(value[:_MAX_LINE].split()) if isinstance(value, str) else ""
