"""What one asks of a run that is there: its agents (interviews, surveys), its past (moments), its cost (estimates), and its code.

None of it changes what is played, but for what an agent is to remember. Every method may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from troupelab.as_code import as_code
from troupelab.engine.moment import Moment
from troupelab.engine.standing import ENDED
from troupelab.errors import RunError
from troupelab.estimate import Estimate, estimate
from troupelab.handle import Handle
from troupelab.hindsight import look_back
from troupelab.survey import Survey

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Questions"]


class Questions(Handle):
    """A run that can be asked; `Run` is one."""

    def ask(self, agent: str, question: str, *, remember: bool = False, timeout_s: float | None = 300.0) -> str:
        """Interview an agent, as it is between two acts: before the run, while it runs or is paused, and after it.

        Args:
            agent: the agent's name.
            question: what to ask; nobody else hears it.
            remember: whether the agent remembers question and answer, from its next act on.
            timeout_s: how long to wait for the answer.

        Returns:
            The answer, in the agent's words.

        Raises:
            RunError: there is no such agent, the run has ended and the answer was to be remembered, or it is a resumed run or a
                fork that was not started.
            ModelError: the model did not answer.
            TimeoutError: it did not within `timeout_s`.
        """
        if agent not in self.agent_names:
            raise RunError(f"there is no agent {agent!r}; the agents are {', '.join(self.agent_names)}")
        self._check_may_ask(remember)
        engine, asked = self._engine, self.agent_names.index(agent)
        answer = engine.handover.submit(
            lambda: engine.ask(asked, question, remember=remember), engine.pipeline.sender.release
        )
        try:
            return answer.result(timeout_s)
        except FutureTimeoutError:
            answer.cancel()
            raise TimeoutError(f"{agent} did not answer within {timeout_s:g} s") from None

    def moment(self, agent: str | int, step: int) -> Moment:
        """Look back on an act: its prompt and reply, and what became of which record by it; while the run goes on, too.

        Nothing is asked of a model, and the run is not touched: the journal is lived through again for this agent alone.

        Args:
            agent: the agent's name or index.
            step: a step that it has finished; after the run's end, its number of steps, for what followed on the last one.

        Raises:
            RunError: there is no such agent, or it has not finished that step, or the journal was full before.
            StoreError: the journal cannot be read.

        >>> from troupelab.run import Run
        >>> run = Run("product_launch", steps=2, seed=7).start().wait(60)
        >>> moment = run.moment(run.agent_names[0], 1)
        >>> moment.exact, moment.prompt[0][0], {fate.what for fate in moment.records}
        (True, 'system', {'stored'})
        """
        names = self.agent_names
        index = names.index(agent) if agent in names else agent
        if not isinstance(index, int) or not 0 <= index < len(names):
            raise RunError(f"there is no agent {agent!r}; the agents are {', '.join(names)}")
        gone = self.recorder.read("evictions").columns
        own = (gone["agent"] == index) & (gone["rule"] == "archive_max_bytes")
        return look_back(
            self._file.reading(self._engine.keeper, self._engine.handover), index, step, embedder=self._embedder,
            steps=self.steps if self.state == "done" else None,
            trimmed=list(zip(gone["step"][own].tolist(), gone["records"][own].tolist(), strict=True)),
        )  # fmt: skip

    def estimate(self) -> Estimate:
        """Estimate calls, tokens, cost, time and room: of the whole run before the start, and of what is left of it later.

        >>> from troupelab.run import Run
        >>> Run("product_launch", steps=20, seed=7).estimate().calls.likely
        160.0
        """
        return estimate(self)

    def as_code(self) -> str:
        """Write the Python that makes this run again, with every limit that was changed and every word that was told, at its step.

        >>> from troupelab.run import Run
        >>> print(Run("town", steps=5, seed=7).as_code())
        import troupelab as tl
        <BLANKLINE>
        world = tl.World.load('town')
        model = tl.ScriptedModel(7)
        run = tl.Run(world, model, steps=5, seed=7)
        run.start().wait()
        <BLANKLINE>
        """
        return as_code(self)

    def _check_may_ask(self, remember: bool) -> None:
        if remember and self.state in ENDED:
            raise RunError("the run has ended: nothing is remembered any more")
        if self._thread is None and self._file.past is not None:
            raise RunError("this run has yet to live through its past: call start(), or start(paused=True), first")

    def begin_survey(self, questions: str | Sequence[str], **how: Any) -> Survey:
        """Begin a survey and return at once: `answered` of `total` says how far it is, `answers` what there is. Arguments as for `survey`."""
        self._check_may_ask(how.get("remember", False))
        return Survey(self._engine, self.agent_names, questions, **how).start()

    def survey(
        self,
        questions: str | Sequence[str],
        *,
        agents: str | Sequence[str] | None = None,
        choices: Sequence[str] | None = None,
        remember: bool = False,
        timeout_s: float | None = 300.0,
    ) -> pd.DataFrame:
        """Ask agents the same questions, as many at once as `max_concurrency` allows; before the run, while it goes on, and after it.

        Args:
            questions: one, or up to 100, of up to 10 kB each.
            agents: whom to ask, by name; None for all.
            choices: the answers that there are: each agent is told so, and `choice` says which of them its answer names, if any.
            remember: whether they remember questions and answers.
            timeout_s: how long to wait for each answer.

        Returns:
            A row for each question and agent: agent, question, answer, seconds, and error, which is empty where all went well.

        Raises:
            InputError: a question or a choice cannot be used.
            RunError: as for `ask`.

        >>> from troupelab.run import Run
        >>> from troupelab.models.scripted import ScriptedModel
        >>> run = Run("classroom_debate", ScriptedModel(7, latency_s=0.0), steps=1, seed=7)
        >>> found = run.survey("Should phones be allowed in class?", choices=["yes", "no"])
        >>> list(found.columns), set(found.error), bool(found.choice.notna().all())
        (['agent', 'question', 'answer', 'seconds', 'error', 'choice'], {''}, True)
        """
        how = {"agents": agents, "choices": choices, "remember": remember, "timeout_s": timeout_s}
        return self.begin_survey(questions, **how).wait().frame()
