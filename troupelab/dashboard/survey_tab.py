"""The tab "survey": questions to all agents or some, and their answers as they come in.

The button's handler sends an errand; all else is the dashboard's UI thread's.
"""

from __future__ import annotations

from typing import Any, ClassVar

import ipywidgets as widgets

from troupelab.dashboard.code import CodeBlock
from troupelab.dashboard.look import for_page
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, Tab, rows_box, sentence
from troupelab.dashboard.tables import nothing_yet, table
from troupelab.survey import Survey, choice_in

__all__ = ["SurveyTab"]

ALL, LINES = "all agents", "those drawn as lines"
MOST_ROWS = 500
EMPTY = "Write a question, or several, one a line, and press ask: each agent's answers will appear here. Nobody else hears them."
NOT_HERE = "Agents can be asked of a run only: what is shown here has none who could answer."


class SurveyTab(Tab):
    """Asks many agents the same."""

    name: ClassVar[str] = "survey"

    def __init__(self, errands: Errands) -> None:
        super().__init__(errands)
        self.questions = widgets.Textarea(
            description="questions", placeholder="one a line, such as: Would you buy it, and for how much?", rows=3
        )
        self.choices = widgets.Text(description="choices", placeholder="optional: yes; no; not sure")
        self.whom = widgets.Dropdown(options=[ALL, LINES], description="ask")
        self.button = widgets.Button(
            description="ask", icon="question", tooltip="put the questions to the agents, between two acts"
        )
        self.button.on_click(lambda _: self._ask())
        self.said = widgets.HTML()
        self.rows = widgets.HTML(nothing_yet(EMPTY))
        self.code = CodeBlock("code of this survey", most_rows=3)
        self.code.layout.display = "none"
        row = widgets.HBox([self.choices, self.whom, self.button, self.said])
        for box in (self.questions, row):
            box.add_class("troupelab-ask")
        self.page.children = [self.questions, row, rows_box(self.rows), self.code]
        self._panels: Panels | None = None
        self._survey: Survey | None = None
        self._drawn = -1

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown: its answers are others."""
        if run is not self.run:
            self._survey, self._drawn = None, -1
            can = hasattr(run, "begin_survey")
            self.button.disabled = not can
            self.rows.value = nothing_yet(EMPTY if can else NOT_HERE)
            self.said.value = ""
            self.code.layout.display = "none"
        super().begin(run, panels, readings)
        self._panels = panels

    # ------------------------------------------------------------------ the handler

    def _ask(self) -> None:
        run, panels = self.run, self._panels
        questions = [line.strip() for line in self.questions.value.splitlines() if line.strip()]
        if run is None or panels is None or not questions:
            self._say("Write a question first, one a line.")
            return
        how: dict[str, Any] = {}
        if self.whom.value == LINES:
            how["agents"] = [run.agent_names[agent] for agent in panels.memory.chosen]
            if not how["agents"]:
                self._say("No agent is drawn as a line: click rows of the memory panel, or ask all.")
                return
        if choices := [each.strip() for each in self.choices.value.split(";") if each.strip()]:
            how["choices"] = choices
        self.button.disabled = True
        begin_survey: Any = getattr(run, "begin_survey", None)

        def work() -> Survey:
            survey: Survey = begin_survey(questions, **how)
            self.errands.wish(lambda: self._began(run, survey, questions, how))
            return survey.wait()

        self.errands.send(work, lambda survey: self._ended(run), lambda error: self._refused(run, error))

    # ------------------------------------------------------------------ on the UI thread

    def _began(self, run: Shown, survey: Survey, questions: list[str], how: dict[str, Any]) -> None:
        if run is self.run:
            self._survey, self._drawn = survey, -1
            given = "".join(f", {name}={value!r}" for name, value in how.items())
            self.code.code = f"run.survey({questions!r}{given})"
            self.code.layout.display = None
            self.write()

    def _ended(self, run: Shown) -> None:
        if run is self.run:
            self.button.disabled = False
            self.write()

    def _refused(self, run: Shown, error: Exception) -> None:
        if run is self.run:
            self.button.disabled = False
            self.write()
            self._say(sentence(error))

    def _say(self, text: str) -> None:
        self.said.value = f'<span class="troupelab-said" role="alert">{for_page(text)}</span>'

    def write(self) -> None:
        """Show the answers that are new, and how many there are."""
        survey = self._survey
        if survey is None or survey.answered == self._drawn:
            return
        answers = survey.answers
        self._drawn = len(answers)
        failed = sum(bool(each.error) for each in answers)
        wrong = f", {failed} of them without an answer" if failed else ""
        self.said.value = f'<span role="status">{len(answers)} of {survey.total} answered{wrong}</span>'
        head, rows = ["seconds", "agent", "question", "answer"], []
        for each in answers[:MOST_ROWS]:
            rows.append([f"{each.seconds:.2f}", each.agent, each.question, each.error or each.answer])
            if survey.choices is not None:
                rows[-1].insert(3, choice_in(each.answer, survey.choices) or "none named")
        if survey.choices is not None:
            head.insert(3, "choice")
        more = (
            nothing_yet(f"The first {MOST_ROWS} of {len(answers)}; the code below gives all.")
            if len(answers) > MOST_ROWS
            else ""
        )
        self.rows.value = table(head, rows, 1, limit=2_000) + more
