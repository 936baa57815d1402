"""Interviews with TinyTroupe's persons: by their own system prompt, without anything being remembered unless that is asked for.

On the engine's event loop or, where that is not running, on one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from troupelab.bridges.tinytroupe.hub import Hub
from troupelab.engine.ahead import Ahead
from troupelab.engine.interviewer import Interviewer
from troupelab.engine.parts import Parts
from troupelab.ids import draw
from troupelab.models.model import ChatMessage, Request
from troupelab.people.agent import Agent
from troupelab.people.interview import ANSWER, EXPECTED_ANSWER, INTERVIEWER, read_answer

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

    async def ask(self, agent: Agent, question: str, *, remember: bool) -> str:
        """Ask a person something, as it is between two acts; it goes before all acts, and also while the run is paused.

        Raises:
            ModelError: the model did not answer.
        """
        person, step = self._persons[agent.index], agent.memory.step
        call = self.next_question()
        system = await self._hub.run(person.generate_agent_system_prompt)
        asked = question.replace("\n", " ")
        messages = ChatMessage("system", system), ChatMessage("user", _ASKED + asked)

        def request(attempt: int) -> Request:
            seed = draw(self.parts.seed, "ask", agent.index, step, call, attempt)
            return Request("ask", agent.index, step, call, attempt, seed, messages, schema=ANSWER, gist=question)

        answer = await self.parts.pipeline.complete(request, read_answer, EXPECTED_ANSWER, urgent=True)
        if remember:
            await self._hub.run(lambda: _remember(person, question, answer))
        return answer


def _remember(person: Any, question: str, answer: str) -> None:
    person._observe({"type": "CONVERSATION", "content": question, "source": INTERVIEWER})
    person.store_in_memory(
        {
            "role": "assistant",
            "content": {"action": {"type": "TALK", "content": answer, "target": INTERVIEWER}},
            "type": "action",
            "simulation_timestamp": person.iso_datetime(),
        }
    )
