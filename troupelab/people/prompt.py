"""Prompts: how an agent's situation is put to a model, from what never changes to what is new.

Pure but for reading the agent; called on the engine's loop thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from troupelab.ids import step_of
from troupelab.memory.record import Note, Record
from troupelab.models.model import NOTES, NOW, PEOPLE, PERSONA, RECENTLY, WORLD, ChatMessage
from troupelab.people.acts import THINK, Message
from troupelab.people.agent import Agent
from troupelab.people.stage import Stage

__all__ = ["MAX_NOTES", "MAX_RECENT", "act_prompt"]

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


def act_prompt(agent: Agent, stage: Stage, step: int, heard: Sequence[Message]) -> tuple[ChatMessage, ...]:
    """The messages that ask an agent for its turn.

    Args:
        agent: whose turn it is.
        stage: where it stands.
        step: which step.
        heard: what it was just told, in order.
    """
    people = f"You can talk to: {', '.join(stage.listeners(agent)) or 'nobody'}."
    if reach := stage.within_reach(agent):
        people += f"\nWithin reach: {orjson.dumps(reach).decode()}"
    system = f"{_RULES}{WORLD}{stage.world.description}{PERSONA}{agent.persona.to_json()}{PEOPLE}{people}"
    notes = agent.memory.recall([message.text for message in heard[-RECALLED_BY:]], MAX_NOTES)
    recent = "\n".join(map(_line, agent.memory.recent(MAX_RECENT)))
    stimuli = "\n".join(
        orjson.dumps({"type": message.kind, "source": message.source, "content": message.text}).decode()
        for message in heard
    )
    mind = f"\nYour state of mind: {orjson.dumps(agent.state).decode()}" if agent.state else ""
    when = f"It is {stage.world.time_at(step):%A %d %B %Y, %H:%M}.{mind}\nYou just heard:\n{stimuli or 'nothing new'}"
    user = f"{NOTES}{_notes(notes)}{RECENTLY}{recent or 'nothing yet'}{NOW}{when}"
    return ChatMessage("system", system), ChatMessage("user", user)


def _line(record: Record) -> str:
    # One line each: what somebody said must not be able to look like a section of the prompt.
    text = record.text.replace("\n", " ") if "\n" in record.text else record.text
    verb = "thought" if record.kind == THINK else "said"
    return f"step {step_of(record.id)}, {record.source} {verb}: {text}"


def _notes(notes: Sequence[Note]) -> str:
    told = (f"- steps {note.first_step} to {note.last_step}: {note.text}".replace("\n", "\n  ") for note in notes)
    return "\n".join(told) or "none yet"
