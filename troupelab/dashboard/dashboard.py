"""The dashboard of a run: header, limits, live panels, transcript, errors and alerts, as one widget; and below it a fork's.

It reads the recorder through a cursor of its own, and the run does not know of it: it may be shown, closed, or moved to
another run at any time. One thread of its own (the UI thread, 4 times a second) owns the figures and writes the widgets. The
handlers of controls only write limits, call methods of the run, or leave a wish for that thread.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from troupelab.dashboard.controls import Controls, close_parts
from troupelab.dashboard.forking import ForkView, fork_tooltip
from troupelab.dashboard.live import LivePanels
from troupelab.dashboard.look import for_page
from troupelab.dashboard.memory_panel import FEW, MEASURES
from troupelab.dashboard.panel import News
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings, alert_rows, error_rows, numbers_html, title_text, transcript_rows
from troupelab.errors import TroupeLabError
from troupelab.limits import Number

if TYPE_CHECKING:
    from troupelab.run import Run

__all__ = ["Dashboard"]

PERIOD_S = 0.25
UNWATCHED_PERIOD_S = 1.0
TEXT_EVERY_S = 0.5
ROWS_EVERY_S = 2.0

ALLOWED = {
    "start": ("ready",),
    "pause": ("running",),
    "step": ("ready", "paused"),
    "resume": ("paused",),
    "stop": ("running", "paused"),
    "fork": ("running", "paused", "done", "stopped"),
}
"""In which states of a run each button does something."""

_log = logging.getLogger("troupelab")


class Dashboard(widgets.VBox):  # type: ignore[misc]
    """Shows a run while it runs, and lets one change every limit.

    It displays itself as a cell's last expression, and keeps itself up to date until `close()`.

    Args:
        run: the run to show; `attach` moves the dashboard to another.
        start_button: whether the header has a start button.
        fork_button: whether it has a fork button, which shows a fork of the run below.
    """

    def __init__(self, run: Run, *, start_button: bool = True, fork_button: bool = True) -> None:
        self._run = run
        self._wishes: queue.SimpleQueue[Callable[[Panels], None]] = queue.SimpleQueue()
        self._controls = Controls(run.limits.current.as_dict(), self._change_limit)
        self._live = LivePanels(controls=self._controls.models())
        self._live.clicked = self._clicked
        self._panels: Panels | None = None
        self._readings: Readings | None = None
        self._next_text = 0.0
        self._next_rows = 0.0
        self._drawn_rows: tuple[int, int] | None = None
        self._alert = ""
        self._forks = ForkView(_show_fork, self._live.woken)
        parts = [self._make_header(), self._said, self._numbers, self._make_view(), self._make_body()]
        super().__init__([*parts, self._make_tabs(), self._forks.box])
        self.add_class("troupelab-dashboard")
        self._buttons["start"].layout.display = None if start_button else "none"
        self._buttons["fork"].layout.display = None if fork_button else "none"
        self._ended = threading.Event()
        woken = self._live.woken
        self._thread = threading.Thread(
            target=_keep, args=(weakref.ref(self), self._ended, woken), name="troupelab-dashboard", daemon=True
        )
        self._finalizer = weakref.finalize(self, _end, self._ended, woken)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Dashboard of {self._run!r}>"

    # ------------------------------------------------------------------ the parts

    def _make_header(self) -> Any:
        self._title = widgets.HTML(title_text(self._run))
        self._title.add_class("troupelab-title")
        self._bar = widgets.IntProgress(value=0, max=1, layout={"width": "180px"}, tooltip="acts done")
        self._buttons = {}
        for name, icon in (
            ("start", "play"),
            ("pause", "pause"),
            ("step", "step-forward"),
            ("resume", "play"),
            ("stop", "stop"),
            ("fork", "code-fork"),
        ):
            button = widgets.Button(description=name, icon=icon, tooltip=f"{name} the run")
            self._buttons[name] = button
            if name != "fork":
                button.on_click(lambda _, name=name: self.attempt(lambda: getattr(self._run, name)()))
        self._buttons["fork"].on_click(lambda _: self._wish(lambda panels: self._fork(panels.run)))
        self._allow_buttons(self._run)
        self._said = widgets.HTML()
        self._numbers = widgets.HTML()
        header = widgets.HBox([self._title, self._bar, *self._buttons.values()])
        header.add_class("troupelab-header")
        return header

    def _make_view(self) -> Any:
        self._axis = widgets.Dropdown(options=["seconds", "steps"], description="time axis", layout={"width": "190px"})
        self._axis.observe(
            lambda change: self._wish(lambda panels: setattr(panels.clock, "unit", change["new"])), "value"
        )
        options = [(measure.label, name) for name, measure in MEASURES.items()]
        self._measure = widgets.Dropdown(options=options, description="memory as", layout={"width": "280px"})
        self._measure.observe(
            lambda change: self._wish(lambda panels: setattr(panels.memory, "measure", change["new"])), "value"
        )
        self._agents = widgets.TagsInput(
            allow_duplicates=False, placeholder="agents as lines: type a name, or click a row"
        )
        self._agents.layout.width = "420px"
        self._agents.observe(lambda change: self._wish(lambda panels: self._choose(panels, change["new"])), "value")
        self._offer_agents()
        view = widgets.HBox([self._axis, self._measure, self._agents])
        view.add_class("troupelab-view")
        return view

    def _make_body(self) -> Any:
        body = widgets.Box([self._controls.box, self._live])
        body.add_class("troupelab-body")
        return body

    def _make_tabs(self) -> Any:
        self._transcript, self._errors, self._alerts = widgets.HTML(), widgets.HTML(), widgets.HTML()
        pages = []
        for part in (self._transcript, self._errors, self._alerts):
            page = widgets.Box([part])
            page.add_class("troupelab-rows")
            pages.append(page)
        self._tabs = widgets.Tab(pages, titles=["transcript", "errors", "alerts"], selected_index=0)
        self._tabs.observe(lambda _: self._wish(lambda _: self._hurry()), "selected_index")
        return self._tabs

    # ------------------------------------------------------------------ handlers, on the kernel's threads

    def attempt(self, action: Callable[[], object]) -> None:
        """Do something that may be refused, and say so in a sentence where it is."""
        try:
            action()
        except (TroupeLabError, OSError) as error:
            self.say(str(error) or "that took too long and was given up")
        else:
            self.say(self._alert)
        self._live.woken.set()

    def say(self, sentence: str) -> None:
        """Show a sentence below the header; an empty one takes it away."""
        self._said.value = f'<span class="troupelab-said" role="alert">{for_page(sentence)}</span>' if sentence else ""

    def _change_limit(self, name: str, value: Number) -> None:
        changes: dict[str, Any] = {name: value}
        self._run.limits.update(by="dashboard", **changes)

    def _wish(self, wish: Callable[[Panels], None]) -> None:
        self._wishes.put(wish)
        self._live.woken.set()

    def _clicked(self, panel: str, trace: int, y: float) -> None:
        self._wish(lambda panels: self._toggle(panels, panel, trace, y))

    # ------------------------------------------------------------------ what the UI thread does

    def _toggle(self, panels: Panels, panel: str, trace: int, y: float) -> None:
        rows = (panel == "memory" and trace == panels.memory.heatmap) or (panel == "consolidations" and trace == 0)
        agent = round(y)
        if not rows or not panels.memory.many or not 0 <= agent < len(self._run.agent_names):
            return
        name = self._run.agent_names[agent]
        chosen = list(self._agents.value)
        self._agents.value = [other for other in chosen if other != name] if name in chosen else [*chosen, name][-FEW:]

    def _choose(self, panels: Panels, names: Sequence[str]) -> None:
        if panels.memory.many:
            places = {name: place for place, name in enumerate(self._run.agent_names)}
            panels.memory.choose([places[name] for name in names if name in places])

    def _offer_agents(self) -> None:
        many = len(self._run.agent_names) > FEW
        self._agents.value = []
        self._agents.allowed_tags = list(self._run.agent_names) if many else []
        self._agents.layout.display = None if many else "none"

    def _hurry(self) -> None:
        self._next_text = self._next_rows = 0.0

    def _fork(self, run: Run) -> None:
        self.attempt(lambda: self._forks.begin(run))

    def attach(self, run: Run) -> None:
        """Show another run in the same place."""
        self._run = run
        self.say("")
        self._live.woken.set()

    @property
    def run(self) -> Run:
        """The run that is shown."""
        return self._run

    @property
    def fork(self) -> Run | None:
        """The fork that the button made and that is shown below; None where none is."""
        return self._forks.fork

    def _begin(self, run: Run) -> tuple[Panels, Readings]:
        if self._panels is not None:
            self._offer_agents()
            self._forks.end()
        if self._alert:
            self._alert = ""
            self.say("")
        panels = self._panels = Panels(run)
        panels.clock.unit = self._axis.value
        panels.memory.measure = self._measure.value
        readings = self._readings = Readings(run, panels)
        self._live.start_over()
        self._drawn_rows = None
        self._hurry()
        return panels, readings

    def _tick(self) -> float:
        """Bring everything up to date once; returns after how many seconds it is due again."""
        run, panels, readings = self._run, self._panels, self._readings
        # TinyTroupe's persons may join while it is watched: the panels begin anew with them.
        is_other = panels is None or panels.run is not run or len(panels.memory.agents) != len(run.agent_names)
        if panels is None or readings is None or is_other:
            panels, readings = self._begin(run)
        while not self._wishes.empty():
            self._wishes.get()(panels)
        news = panels.read()
        readings.take(news)
        self._live.send_frame(panels)
        self._forks.tick()
        now = time.monotonic()
        if "runs" in news:
            self._hurry()
        self._show_alerts(readings)
        if now >= self._next_text or "limits" in news:
            self._next_text = now + TEXT_EVERY_S
            self._write_text(run, readings, news)
        if now >= self._next_rows:
            self._next_rows = now + ROWS_EVERY_S
            self._write_rows(run, readings)
        return PERIOD_S if self._live.watched else UNWATCHED_PERIOD_S

    def _show_alerts(self, readings: Readings) -> None:
        """Say the newest alert below the header, as long as it holds."""
        if readings.alert != self._alert:
            self._alert = readings.alert
            self.say(self._alert)

    def _write_text(self, run: Run, readings: Readings, news: News) -> None:
        done, state = run.progress(), run.state
        self._title.value = title_text(run)
        self._numbers.value = numbers_html(readings.numbers())
        self._bar.max, self._bar.value = max(1, done.acts_total), done.acts_done
        self._bar.bar_style = {"done": "success", "failed": "danger", "paused": "warning"}.get(state, "")
        self._allow_buttons(run)
        self._controls.show(lambda name: getattr(run.limits, name), news, readings.in_use())

    def _allow_buttons(self, run: Run) -> None:
        done, state = run.progress(), run.state
        over = done.acts_done >= done.acts_total
        for name, button in self._buttons.items():
            button.disabled = state not in ALLOWED[name] or (name == "fork" and over)
        self._buttons["fork"].tooltip = fork_tooltip(state, done)

    def _write_rows(self, run: Run, readings: Readings) -> None:
        counts = (run.recorder.count("actions"), readings.error_count, readings.alert_count)
        for page, (name, count) in enumerate(zip(("errors", "alerts"), counts[1:], strict=True), start=1):
            self._tabs.set_title(page, f"{name} ({count})" if count else name)
        shown = self._tabs.selected_index
        if shown is None or (shown, counts[shown]) == self._drawn_rows:
            return
        self._drawn_rows = (shown, counts[shown])
        if shown == 0:
            self._transcript.value = transcript_rows(run, readings.actions)
        elif shown == 1:
            self._errors.value = error_rows(run, readings.errors)
        else:
            self._alerts.value = alert_rows(readings.alerts)

    def close(self) -> None:
        """End the thread and free the widgets; the run goes on, and a fork of it too."""
        if not hasattr(self, "_finalizer"):
            return  # it was never made in full
        self._finalizer()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)
        self._live.clicked = None
        self._forks.close()
        close_parts(self)
        super().close()


def _show_fork(fork: Run) -> Dashboard:
    return Dashboard(fork, start_button=False, fork_button=False)


def _end(ended: threading.Event, woken: threading.Event) -> None:
    ended.set()
    woken.set()


def _keep(dashboard: weakref.ref[Dashboard], ended: threading.Event, woken: threading.Event) -> None:
    """The UI thread: holds the dashboard only while it works on it, so that one that nobody holds can go."""
    LivePanels.warm()
    period, told = 0.0, False
    while True:
        woken.wait(period)
        woken.clear()
        if ended.is_set() or (shown := dashboard()) is None:
            return
        try:
            period = shown._tick()
        except Exception as error:
            period = UNWATCHED_PERIOD_S
            if not told:
                told = True
                _log.exception("the dashboard met an error and goes on")
                shown.say(f"the dashboard met an error and goes on: {type(error).__name__}: {error}")
        del shown
