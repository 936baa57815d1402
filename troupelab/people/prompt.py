"""Prompts: how an agent's situation is put to a model, from what never changes to what is new.

Pure but for reading the agent; called on the engine's loop thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from troupelab.ids import step_of
from troupelab.memory.record import Note, Record
from troupelab.models.model import NOTES, NOW, PEOPLE, PERSONA, QUESTION, RECENTLY, WORLD, ChatMessage, Part
from troupelab.people.acts import THINK, Message
from troupelab.people.agent import Agent
from troupelab.people.stage import Stage

__all__ = ["MAX_NOTES", "MAX_RECENT", "act_part", "act_prompt", "gist", "question_prompt", "warm_up_prompt"]

MAX_RECENT = 20
"""Records of the recent tier that a prompt shows word for word."""

MAX_NOTES = 5
"""Notes that a prompt shows."""

RECALLED_BY = 3
"""The newest messages decide which notes are shown."""

_RULES = """\
You play one person in a simulated scene. Do and say what this person would, from what they know, in their own voice.
Answer with one JSON object and nothing else:
{"actions": [{"type": "THINK" | "TALK" | "REACH_OUT" | "DONE", "content": "...", "target": "..."}, ...],
 "cognitive_state": {"goals": "...", "attention": "...", "emotions": "..."}}
TALK is heard by the person named in target, or by all who hear you where target is empty. THINK is heard by nobody. REACH_OUT
opens a conversation with somebody within reach. The last action is always DONE, with empty content."""

_INTERVIEW = """\
Do not act now. An interviewer, whom nobody else hears, asks this person something. Answer as they would, from what they know and
remember, in their own voice, with one JSON object and nothing else: {"answer": "..."}
"""


def act_prompt(agent: Agent, stage: Stage, step: int, heard: Sequence[Message]) -> tuple[ChatMessage, ...]:
    """The messages that ask an agent for its turn.

    Args:
        agent: whose turn it is.
        stage: where it stands.
        step: which step.
        heard: what it was just told, in order.
    """
    notes = agent.memory.recall([message.text for message in heard[-RECALLED_BY:]], MAX_NOTES)
    stimuli = "\n".join(
        orjson.dumps({"type": message.kind, "source": message.source, "content": message.text}).decode()
        for message in heard
    )
    mind = f"\nYour state of mind: {orjson.dumps(agent.state).decode()}" if agent.state else ""
    when = f"It is {stage.world.time_at(step):%A %d %B %Y, %H:%M}.{mind}\nYou just heard:\n{stimuli or 'nothing new'}"
    return _messages(agent, stage, notes, f"{NOW}{when}")


def act_part(messages: Sequence[ChatMessage], stage: Stage) -> Part:
    """A turn's messages as one of several: the rules and the world are what they have in common."""
    system, user = messages
    shared = len(_RULES) + len(WORLD) + len(stage.world.description)
    return Part(system.content[:shared], system.content[shared:] + user.content)


def warm_up_prompt(stage: Stage) -> tuple[ChatMessage, ...]:
    """What all prompts begin with, and nothing to be done."""
    return ChatMessage("system", f"{_RULES}{WORLD}{stage.world.description}"), ChatMessage("user", "Ready?")


def gist(heard: Sequence[Message]) -> str:
    """What a turn answers to, for telling like turns: what was heard, without who said it when."""
    return "\n".join(message.text for message in heard)


def question_prompt(agent: Agent, stage: Stage, question: str) -> tuple[ChatMessage, ...]:
    """The messages that put an interviewer's question to an agent, with the notes and records that fit it. Nothing is touched by it.

    Args:
        agent: who is asked.
        stage: where it stands.
        question: what is asked.
    """
    found = [each.item for each in agent.memory.relevant(question, 2 * MAX_NOTES)]
    notes = sorted((each for each in found if isinstance(each, Note)), key=lambda note: note.first_step)
    records = [_line(each) for each in found if isinstance(each, Record)]
    fitting = "What fits the question:\n" + "\n".join(records) + "\n" if records else ""
    asked = question.replace("\n", " ")
    return _messages(agent, stage, notes, f"{QUESTION}{_INTERVIEW}{fitting}The question: {asked}")


def _messages(agent: Agent, stage: Stage, notes: Sequence[Note], last: str) -> tuple[ChatMessage, ...]:
    """What is the same for acts and questions, and then what is asked for now."""
    people = f"You can talk to: {', '.join(stage.listeners(agent)) or 'nobody'}."
    if reach := stage.within_reach(agent):
        people += f"\nWithin reach: {orjson.dumps(reach).decode()}"
    system = f"{_RULES}{WORLD}{stage.world.description}{PERSONA}{agent.persona.to_json()}{PEOPLE}{people}"
    recent = "\n".join(map(_line, agent.memory.recent(MAX_RECENT)))
    user = f"{NOTES}{_notes(notes)}{RECENTLY}{recent or 'nothing yet'}{last}"
    return ChatMessage("system", system), ChatMessage("user", user)


def _line(record: Record) -> str:
    # One line each: what somebody said must not be able to look like a section of the prompt.
    text = record.text.replace("\n", " ") if "\n" in record.text else record.text
    verb = "thought" if record.kind == THINK else "said"
    return f"step {step_of(record.id)}, {record.source} {verb}: {text}"


def _notes(notes: Sequence[Note]) -> str:
    told = (f"- steps {note.first_step} to {note.last_step}: {note.text}".replace("\n", "\n  ") for note in notes)
    return "\n".join(told) or "none yet"
