"""The tab "why this jump?": what happened at a point of a panel, down to the prompt, the reply, and what became of which record.

A click finds the agent and the step; they can be chosen here as well. What was recorded is read, and the run is looked back on
(`run.moment`), on an errand, since that may take a second. Only the dashboard's UI thread calls the tab; the handlers of its
controls leave a wish.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import ipywidgets as widgets

from troupelab.dashboard.evidence import Evidence, Point, act_at, evidence
from troupelab.dashboard.look import for_page, plain
from troupelab.dashboard.memory_panel import FEW
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, Tab, rows_box, sentence
from troupelab.dashboard.tables import nothing_yet, table
from troupelab.engine.moment import FATES, Moment, RecordFate

__all__ = ["WhyTab"]

T = TypeVar("T")

HINT = (
    "Click a point of a panel (memory, latency, consolidations, throughput), or choose an agent and a step: what happened there, and why, "
    "will appear here."
)
_UNSEEN = (
    "Prompt, reply and records cannot be looked back on here, only what was recorded: this is not a run of this kernel."
)
_MOST_TEXT = 50_000
_MOST_ROWS = 500
_RECORD_CHARS = 2_000


class WhyTab(Tab):
    """What happened at one moment of one agent."""

    name: ClassVar[str] = "why this jump?"

    def __init__(self, errands: Errands) -> None:
        super().__init__(errands)
        self.agent = widgets.Dropdown(description="agent", layout={"width": "280px"})
        self.step = widgets.BoundedIntText(description="step", min=0, max=0, layout={"width": "170px"})
        self.again = widgets.Button(description="look back", tooltip="show what happened to this agent in this step")
        self.earlier = widgets.Button(description="previous step", tooltip="the same agent, one step before")
        self.later = widgets.Button(description="next step", tooltip="the same agent, one step after")
        self.told = widgets.HTML(nothing_yet(HINT))
        self.facts = widgets.HTML()
        self.found = widgets.HTML()
        row = widgets.HBox([self.agent, self.step, self.again, self.earlier, self.later])
        row.add_class("troupelab-view")
        rows = rows_box(widgets.VBox([self.told, self.found, self.facts]))
        rows.add_class("troupelab-why")
        self.page.children = [row, rows]
        self._panels: Panels | None = None
        self._moving = False
        self._asked = 0
        self.agent.observe(lambda _: self._chosen(0), "value")
        self.step.observe(lambda _: self._chosen(0), "value")
        self.again.on_click(lambda _: self._chosen(0))
        self.earlier.on_click(lambda _: self._chosen(-1))
        self.later.on_click(lambda _: self._chosen(1))

    # ------------------------------------------------------------------ handlers, on the kernel's threads

    def _chosen(self, by: int) -> None:
        if self._moving or self.agent.value is None:
            return
        agent, step = int(self.agent.value), int(self.step.value) + by
        if 0 <= step <= self.step.max:
            self.errands.wish(lambda: self._show(agent, step, "memory", ""))

    # ------------------------------------------------------------------ on the UI thread

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown."""
        self._panels = panels
        self._asked += 1  # whatever is under way is of the run before
        self._moving = True
        self.agent.options = [(plain(name, 60), index) for index, name in enumerate(run.agent_names)]
        self.agent.value = 0 if run.agent_names else None
        self.step.max, self.step.value = max(0, run.steps), 0
        self._moving = False
        self.told.value, self.facts.value, self.found.value = nothing_yet(HINT), "", ""
        super().begin(run, panels, readings)

    def write(self) -> None:
        """Nothing: what is found is shown when it is found."""

    def clicked(self, panel: str, trace: int, x: float, y: float) -> None:
        """A point of a panel was clicked: find the act that it shows, and look back on it."""
        run, point = self.run, self._point(panel, trace, x, y)
        if run is None or point is None:
            return
        self.to_front()

        def then(found: tuple[int, int] | None) -> None:
            if found is None:
                self._tell(HINT)
            else:
                self._show(*found, panel, point.measure)

        self._send(lambda: act_at(run.recorder, point), then)

    def _point(self, panel: str, trace: int, x: float, y: float) -> Point | None:
        panels = self._panels
        if panels is None or panel not in ("memory", "latency", "consolidations", "throughput"):
            return None
        memory = panels.memory
        # What is drawn at a time is a stretch of it: one of 120 to 240 bins, and in the latency panel of half a second at least.
        end_s = panels.clock.end_s
        width_s = max(min(0.5, end_s / 8), end_s / 60) if panel == "latency" else end_s / 120
        agent = -1
        if (panel == "memory" and memory.many and trace == memory.heatmap) or (panel == "consolidations" and not trace):
            agent = round(y)
        elif panel == "memory" and 5 <= trace < 5 + FEW and trace - 5 < len(memory.chosen):
            agent, width_s = memory.chosen[trace - 5], 0.0  # its points are single acts
        if agent >= len(memory.agents):
            return None
        return Point(panel, x, width_s, agent, memory.measure)

    def _send(
        self, work: Callable[[], T], then: Callable[[T], None], refused: Callable[[str], None] | None = None
    ) -> None:
        """Have something found out; what comes of it is shown if nothing else was asked for meanwhile."""
        self._asked += 1
        asked, refuse = self._asked, refused or self._tell

        def show(found: T) -> None:
            if asked == self._asked:
                then(found)

        def refuse_it(error: Exception) -> None:
            if asked == self._asked:
                refuse(sentence(error))

        self.errands.send(work, show, refuse_it)

    def _tell(self, text: str) -> None:
        self.told.value = nothing_yet(text)

    def _show(self, agent: int, step: int, panel: str, measure: str) -> None:
        run = self.run
        if run is None:
            return
        self._moving = True
        self.agent.value, self.step.value = agent, min(step, self.step.max)
        self._moving = False
        self.facts.value = self.found.value = ""
        self._tell("looking back…")

        def then(seen: Evidence) -> None:
            self.told.value = f"<p><b>{for_page(seen.sentence, 2_000)}</b> looking back…</p>"
            self.facts.value = seen.to_html()
            self._look(run, agent, step, seen, panel)

        self._send(lambda: evidence(run.recorder, run.agent_names, agent, step, asked=panel, measure=measure), then)

    def _look(self, run: Shown, agent: int, step: int, seen: Evidence, panel: str) -> None:
        def tell(text: str) -> None:
            self.told.value = f"<p><b>{for_page(seen.sentence, 2_000)}</b></p>{nothing_yet(text)}"

        def then(moment: Moment) -> None:
            first = f"{seen.sentence.split('. ')[0]}. " if panel == "latency" and seen.facts else ""
            self.told.value = f"<p><b>{for_page(first + moment.sentence, 4_000)}</b></p>"
            self.found.value = moment_html(moment)

        look = getattr(run, "moment", None)
        if look is None:
            tell(_UNSEEN)
            return
        self._send(lambda: look(agent, step), then, tell)


def moment_html(moment: Moment) -> str:
    """What was found of a moment: records by what became of them, notes, prompt and reply; all of it escaped."""
    told = list(FATES)
    records = sorted(moment.records, key=lambda fate: told.index(fate.what))
    rows = [
        (
            str(fate.record_id), str(fate.step_of_origin), fate.what, fate.source, fate.text, _place_of(fate, moment), fate.why or "-",
        )
        for fate in records[:_MOST_ROWS]
    ]  # fmt: skip
    parts = []
    if rows:
        head = ("id", "since step", "what", "who", "text", "into", "why")
        parts.append(f"<h4>records{_of(rows, records)}</h4>{table(head, rows, 2, limit=_RECORD_CHARS)}")
    if moment.notes:
        notes = [
            (
                str(number), f"{note.first_step} to {note.last_step}", str(note.made_at), str(note.visible_from), note.text, note.why,
            )
            for number, note in enumerate(moment.notes[:_MOST_ROWS], 1)
        ]  # fmt: skip
        top = ("note", "of steps", "made at step", "recalled from step", "text", "why")
        parts.append(f"<h4>notes{_of(notes, moment.notes)}</h4>{table(top, notes, 1, limit=_RECORD_CHARS)}")
    prompt = "\n\n".join(f"[{role}]\n{content}" for role, content in moment.prompt)
    for title, text in (("the prompt", prompt), ("the reply, as it was read", moment.reply)):
        if text:
            parts.append(
                f'<details><summary>{title}</summary><pre tabindex="0">{for_page(text, _MOST_TEXT)}</pre></details>'
            )
    return "".join(parts)


def _place_of(fate: RecordFate, moment: Moment) -> str:
    """Where a record went: the id of another, or the numbers of the notes that quote it."""
    if fate.into_id >= 0:
        return f"record {fate.into_id}"
    if fate.what not in ("condensed", "dropped"):
        return "-"
    numbers = [str(number) for number, note in enumerate(moment.notes, 1) if note.text in fate.into]
    return f"note {', '.join(numbers)}" if numbers else "no note quotes it"


def _of(shown: Any, listed: Any) -> str:
    return f" ({len(shown)} of {len(listed)})" if len(shown) < len(listed) else f" ({len(listed)})"
