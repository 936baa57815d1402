"""Surveys: many agents are asked the same questions, several at once, each as it is between two acts.

A `Survey` can be looked at while it goes on, from any thread: the answers come in on the engine's loop, or on one that is made for
them where that is not running. What goes wrong with one answer is a row with an error, and takes nothing from the others.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple, Self

from troupelab.engine.engine import Engine
from troupelab.engine.standing import ENDED
from troupelab.errors import InputError, RunError, TroupeLabError
from troupelab.models.model import ONE_OF

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MAX_QUESTIONS", "MAX_QUESTION_BYTES", "Answered", "Survey", "choice_in"]

MAX_QUESTIONS = 100
MAX_QUESTION_BYTES = 10_000
_MAX_CHOICES = 20
_LOOK_EVERY_S = 0.02
_MAX_CHOICE_CHARS = 100


class Answered(NamedTuple):
    """One agent's answer to one question; `error` is empty where all went well, and the answer where it did not."""

    agent: str
    question: str
    answer: str
    seconds: float
    error: str


class Survey:
    """Questions to agents, and what came of them so far; `start` begins it.

    Args:
        engine: the run's.
        names: the agents' names, by index.
        questions: one, or several.
        agents: whom to ask, by name; None for all.
        remember: whether they remember question and answer.
        timeout_s: how long to wait for each answer; None waits as long as it takes.
        choices: the answers that there are; None for free ones.

    Raises:
        InputError: no question, too many, a too long one, or choices that cannot be told apart.
        RunError: there is no such agent.
    """

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str],
        questions: str | Sequence[str],
        *,
        agents: Sequence[str] | str | None = None,
        remember: bool = False,
        timeout_s: float | None = 300.0,
        choices: Sequence[str] | None = None,
    ) -> None:
        self.questions = _checked([questions] if isinstance(questions, str) else list(questions))
        self.choices = None if choices is None else _checked_choices(list(choices))
        chosen = names if agents is None else (agents,) if isinstance(agents, str) else tuple(agents)
        for name in chosen:
            if name not in names:
                raise RunError(f"there is no agent {name!r}; the agents are {', '.join(names)}")
        self._engine = engine
        self._remember = remember
        self._timeout_s = timeout_s
        indices = sorted({names.index(name) for name in chosen})
        self._asked = [(agent, names[agent], question) for question in self.questions for agent in indices]
        self._found: list[Answered | None] = [None] * len(self._asked)
        self._future: Future[None] | None = None

    @property
    def total(self) -> int:
        """How many answers there will be."""
        return len(self._asked)

    @property
    def answered(self) -> int:
        """How many there are, failed ones too."""
        return sum(each is not None for each in self._found)

    @property
    def answers(self) -> list[Answered]:
        """Those that there are, by question and agent."""
        return [each for each in self._found if each is not None]

    def start(self) -> Self:
        """Begin to ask; returns at once."""
        engine = self._engine
        self._future = engine.handover.submit(self._ask_all, engine.pipeline.sender.release)
        return self

    def wait(self) -> Self:
        """Wait until all are answered or given up. Where the run ends meanwhile, the rest are asked after it."""
        if self._future is None:
            self.start()
        assert self._future is not None
        try:
            self._future.result()
        except RunError:
            if self._engine.standing.state not in {"stopping", *ENDED}:
                raise
            # The engine's loop goes with the run, and what was asked there; the next one ends when all are answered.
            while self._engine.handover.is_open:
                time.sleep(_LOOK_EVERY_S)
            self.start()
            self._future.result()
        except KeyboardInterrupt:
            self._future.cancel()
            raise
        return self

    def frame(self) -> pd.DataFrame:
        """The answers so far, in the order of questions and agents: agent, question, answer, seconds, error, and where choices were given, choice."""
        import pandas as pd

        rows = self.answers
        frame = pd.DataFrame(rows, columns=list(Answered._fields))
        named = list(dict.fromkeys(name for _, name, _ in self._asked))
        frame["agent"] = pd.Categorical(frame["agent"], categories=named)
        frame["seconds"] = frame["seconds"].astype("float64")
        if self.choices is not None:
            found = [choice_in(row.answer, self.choices) for row in rows]
            frame["choice"] = pd.Categorical(found, categories=list(self.choices))
        return frame

    # ------------------------------------------------------------------ on the loop

    async def _ask_all(self) -> None:
        slots = asyncio.Semaphore(self._engine.pipeline.sender.limiter.size)
        open_ones = [place for place, found in enumerate(self._found) if found is None]
        await asyncio.gather(*(self._ask(place, slots) for place in open_ones))

    async def _ask(self, place: int, slots: asyncio.Semaphore) -> None:
        agent, name, question = self._asked[place]
        put = question if self.choices is None else f"{question} {ONE_OF}{'; '.join(self.choices)}"
        async with slots:  # let in by their order, so that the same survey draws the same answers
            began, answer, error = time.monotonic(), "", ""
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await self._engine.ask(agent, put, remember=self._remember)
            except TimeoutError:
                error = f"{name} did not answer within {self._timeout_s:g} s"
            except TroupeLabError as problem:
                error = f"{type(problem).__name__}: {problem}"
            except Exception as problem:  # of an embedder or a model of the user's own; the others go on
                error = f"{type(problem).__name__}: {problem}"
            self._found[place] = Answered(name, question, answer, time.monotonic() - began, error)


def choice_in(answer: str, choices: Sequence[str]) -> str | None:
    """Find the choice that an answer names first, as a word of its own, capitals aside; None where it names none.

    >>> choice_in("No. I would rather not say yes.", ["yes", "no"]), choice_in("Perhaps", ["yes", "no"])
    ('no', None)
    """
    found = []
    for choice in choices:
        if match := re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", answer, re.IGNORECASE):
            found.append((match.start(), -len(choice), choice))  # of "not sure" and "not", the longer
    return min(found)[2] if found else None


def _checked(questions: list[str]) -> tuple[str, ...]:
    if not 1 <= len(questions) <= MAX_QUESTIONS:
        raise InputError("survey", "questions", f"1 to {MAX_QUESTIONS} questions", found=str(len(questions)))
    kept = []
    for place, question in enumerate(questions):
        where = f"questions[{place}]"
        if not isinstance(question, str) or not question.strip():
            raise InputError("survey", where, "a text that is not empty")
        clean = question.encode("utf-8", "replace")
        if len(clean) > MAX_QUESTION_BYTES:
            raise InputError("survey", where, f"at most {MAX_QUESTION_BYTES} bytes", found=f"{len(clean)} bytes")
        kept.append(clean.decode().strip())
    return tuple(kept)


def _checked_choices(choices: list[str]) -> tuple[str, ...]:
    fits = all(isinstance(each, str) and 0 < len(each.strip()) <= _MAX_CHOICE_CHARS for each in choices)
    kept = tuple(each.strip() for each in choices) if fits else ()
    if not 2 <= len({each.casefold() for each in kept}) == len(kept) <= _MAX_CHOICES:
        raise InputError(
            "survey", "choices", f"2 to {_MAX_CHOICES} different texts of up to {_MAX_CHOICE_CHARS} characters"
        )
    if any(";" in each or "\n" in each for each in kept):
        raise InputError("survey", "choices", "texts of one line, without semicolons")
    return kept
