"""The interviewer: asks agents between their acts, on the engine's event loop or, where that is not running, on one of its own."""

from __future__ import annotations

from troupelab.engine.ahead import Ahead
from troupelab.engine.parts import Parts
from troupelab.ids import draw
from troupelab.models.model import ChatMessage, Request
from troupelab.people.acts import CONVERSATION, TALK
from troupelab.people.agent import Agent
from troupelab.people.interview import ANSWER, EXPECTED_ANSWER, INTERVIEWER, read_answer
from troupelab.people.prompt import question_prompt
from troupelab.telemetry.journal import AsideRow

__all__ = ["Interviewer"]

_ALL = 2**31


class Interviewer:
    """Puts questions to agents.

    Args:
        parts: the run's.
        ahead: has the vectors at hand that a question needs.
    """

    def __init__(self, parts: Parts, ahead: Ahead) -> None:
        self.parts = parts
        self.ahead = ahead
        self._questions = 0

    async def ask(self, agent: Agent, question: str, *, remember: bool) -> str:
        """Ask an agent something, as it is between two acts; it goes before all acts, and also while the run is paused.

        Raises:
            ModelError: the model did not answer, or vectors could not be had.
        """
        self._questions += 1
        call = self._questions  # by their coming: of several at once, whose vectors are there first does not matter
        messages = await self._messages(agent, question)
        step = agent.memory.step

        def request(attempt: int) -> Request:
            seed = draw(self.parts.seed, "ask", agent.index, step, call, attempt)
            return Request("ask", agent.index, step, call, attempt, seed, messages, schema=ANSWER, gist=question)

        answer = await self.parts.pipeline.complete(request, read_answer, EXPECTED_ANSWER, urgent=True)
        if remember:
            await self._remember(agent, question, answer)
        return answer

    async def _messages(self, agent: Agent, question: str) -> tuple[ChatMessage, ...]:
        await self.ahead.ask([question, *(record.text for record in agent.memory.recent(_ALL))])
        return question_prompt(agent, self.parts.stage, question)

    async def _remember(self, agent: Agent, question: str, answer: str) -> None:
        await self.ahead.ask([question, answer])
        for aside in ((CONVERSATION, INTERVIEWER, question), (TALK, agent.name, answer)):
            agent.remember_aside(*aside)
            self.parts.teller.note(AsideRow(agent.index, *aside))
