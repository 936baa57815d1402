"""Interviews with TinyTroupe's persons: by their own system prompt, without anything being remembered unless that is asked for.

On the engine's event loop or, where that is not running, on one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from troupelab.bridges.tinytroupe.hub import Hub
from troupelab.bridges.tinytroupe.values import action
from troupelab.engine.ahead import Ahead
from troupelab.engine.interviewer import Interviewer
from troupelab.engine.parts import Parts
from troupelab.models.model import ChatMessage
from troupelab.people.acts import CONVERSATION, TALK
from troupelab.people.agent import Agent
from troupelab.people.interview import INTERVIEWER

__all__ = ["PersonInterviewer"]

_ASKED = (
    "This is an interview, apart from the simulation: do not act. Answer the question below as yourself, in the first person, from what "
    'you are and remember. Answer with one JSON object and nothing else: {"answer": "…"}\nThe question: '
)


class PersonInterviewer(Interviewer):
    """Puts questions to persons.

    Args:
        parts: the run's.
        ahead: the run's.
        persons: by index.
        hub: on which their code runs.
    """

    def __init__(self, parts: Parts, ahead: Ahead, persons: Sequence[Any], hub: Hub) -> None:
        super().__init__(parts, ahead)
        self._persons = list(persons)
        self._hub = hub

    async def _messages(self, agent: Agent, question: str) -> tuple[ChatMessage, ...]:
        system = await self._hub.run(self._persons[agent.index].generate_agent_system_prompt)
        asked = question.replace("\n", " ")
        return ChatMessage("system", system), ChatMessage("user", _ASKED + asked)

    async def _remember(self, agent: Agent, question: str, answer: str) -> None:
        await self._hub.run(lambda: _remember(self._persons[agent.index], question, answer))


def _remember(person: Any, question: str, answer: str) -> None:
    person._observe({"type": CONVERSATION, "content": question, "source": INTERVIEWER})
    person.store_in_memory(action(TALK, answer, INTERVIEWER, person.iso_datetime()))
