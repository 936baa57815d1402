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
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from troupelab.dashboard.alerts_tab import AlertsTab
from troupelab.dashboard.beside import Beside
from troupelab.dashboard.code import RunAsCode
from troupelab.dashboard.controls import Controls, close_parts
from troupelab.dashboard.errors_tab import ErrorsTab
from troupelab.dashboard.events_tab import EventsTab
from troupelab.dashboard.forking import ForkView
from troupelab.dashboard.header import Header
from troupelab.dashboard.interview_tab import InterviewTab
from troupelab.dashboard.live import LivePanels
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.playback import Playback, played
from troupelab.dashboard.preset_choice import PresetChoice
from troupelab.dashboard.readings import Readings
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.snapshot import Snapshot, snapshot
from troupelab.dashboard.survey_tab import SurveyTab
from troupelab.dashboard.tab import Errands, Tab, Tabs
from troupelab.dashboard.transcript_tab import TranscriptTab
from troupelab.dashboard.view import View
from troupelab.dashboard.why_tab import WhyTab
from troupelab.errors import InputError, TroupeLabError
from troupelab.limits import Number

if TYPE_CHECKING:
    from troupelab.recording import Recording
    from troupelab.run import Run

__all__ = ["Dashboard"]

PERIOD_S = 0.25
UNWATCHED_PERIOD_S = 1.0
TEXT_EVERY_S = 0.5
TABS: tuple[type[Tab], ...] = (
    TranscriptTab, InterviewTab, SurveyTab, EventsTab, ErrorsTab, AlertsTab, WhyTab,
)  # fmt: skip
"""What stands below the panels, from left to right."""

_log = logging.getLogger("troupelab")


class Dashboard(widgets.VBox):  # type: ignore[misc]
    """Shows a run while it runs, and lets one change every limit.

    It displays itself as a cell's last expression, and keeps itself up to date until `close()`.

    Args:
        run: the run to show, or a recording to play; `attach` moves the dashboard to another.
        start_button: whether the header has a start button.
        fork_button: whether it has a fork button, which shows a fork of the run below.
        compare: another run, or recording, to be compared with it below the panels; `compare` changes that.

    Raises:
        InputError: `compare` is the run itself.
    """

    def __init__(
        self,
        run: Shown | Recording,
        *,
        start_button: bool = True,
        fork_button: bool = True,
        compare: Shown | None = None,
    ) -> None:
        _refuse_itself(run, compare)
        run = self._run = played(run)
        self._wishes: queue.SimpleQueue[Callable[[Panels], None]] = queue.SimpleQueue()
        errands = self.errands = Errands(lambda wish: self._wish(lambda _: wish()))
        """Does what takes a while."""
        self._presets = PresetChoice(lambda: self._run.limits.current, self._change_limits)
        self._code = RunAsCode(errands)
        self.followers: list[Callable[[Shown], None]] = [lambda _: self._presets.follow(), self._code.follow]
        """What is told, on the UI thread and twice a second, which run is shown."""
        above = (self._presets.box, self._code.box)
        self._controls = Controls(run.limits.current.as_dict(), self._change_limit, above=above)
        self._live = LivePanels(controls=self._controls.models())
        self._live.clicked = self._clicked
        self._panels: Panels | None = None
        self._readings: Readings | None = None
        self._next_text = 0.0
        self._alert = ""
        self._forks = ForkView(_show_fork, self._live.woken)
        self._compared = compare
        self._beside = Beside(self._live.woken)
        left_out = [name for name, wanted in (("start", start_button), ("fork", fork_button)) if not wanted]
        self._header = Header(run, self._pressed, self._live.woken.set, without=tuple(left_out))
        self._view = View(self._wish)
        self._view.offer(run)
        self._tabs = Tabs([kind(errands) for kind in TABS], errands)
        body = widgets.Box([self._controls.box, self._live])
        body.add_class("troupelab-body")
        super().__init__([*self._header.parts, self._view.box, body, self._beside.box, self._tabs.box, self._forks.box])
        self.add_class("troupelab-dashboard")
        self._ended = threading.Event()
        woken = self._live.woken
        self._thread = threading.Thread(
            target=_keep, args=(weakref.ref(self), self._ended, woken), name="troupelab-dashboard", daemon=True
        )
        self._finalizer = weakref.finalize(self, _end, self._ended, woken)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Dashboard of {self._run!r}>"

    # ------------------------------------------------------------------ handlers, on the kernel's threads

    def _pressed(self, name: str) -> None:
        if name == "fork":
            self._wish(lambda panels: self._fork(panels.run))
        else:
            self.attempt(lambda: getattr(self._run, name)())

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
        self._header.say(sentence)

    def _change_limit(self, name: str, value: Number) -> None:
        changes: dict[str, Any] = {name: value}
        self._run.limits.update(by="dashboard", **changes)

    def _change_limits(self, changes: Mapping[str, Number], note: str) -> None:
        self._run.limits.update(note=note, by="dashboard", **dict[str, Any](changes))

    def _wish(self, wish: Callable[[Panels], None]) -> None:
        self._wishes.put(wish)
        self._live.woken.set()

    def _clicked(self, panel: str, trace: int, x: float, y: float) -> None:
        self._wish(lambda panels: self._toggle(panels, panel, trace, y))
        self._wish(lambda _: self._tabs.clicked(panel, trace, x, y))

    # ------------------------------------------------------------------ what the UI thread does

    def _toggle(self, panels: Panels, panel: str, trace: int, y: float) -> None:
        rows = (panel == "memory" and trace == panels.memory.heatmap) or (panel == "consolidations" and trace == 0)
        agent = round(y)
        if not rows or not panels.memory.many or not 0 <= agent < len(self._run.agent_names):
            return
        self._view.toggle(self._run.agent_names[agent])

    def _fork(self, run: Any) -> None:
        self.attempt(lambda: self._forks.begin(run))

    def attach(self, run: Shown | Recording) -> None:
        """Show another run in the same place, or play a recording."""
        self._run = played(run)
        self.say("")
        self._live.woken.set()

    def compare(self, other: Shown | None) -> None:
        """Show another run, or recording, on the same axes as this one; None takes the comparison away.

        It is drawn step by step, so that runs of any length and speed can be compared: a run and its fork, or two under other
        limits. The other run goes on untouched.

        Raises:
            InputError: it is the run itself.
        """
        _refuse_itself(self._run, other)
        self._compared = other
        self._wish(self._show_compared)

    def _show_compared(self, panels: Panels) -> None:
        if self._compared is None or self._compared is panels.run:
            self._beside.end()
        else:
            self._beside.show(panels.run, self._compared)

    @property
    def run(self) -> Shown:
        """The run that is shown; for a recording, the `Playback` of it."""
        return self._run

    @property
    def fork(self) -> Run | None:
        """The fork that the button made and that is shown below; None where none is."""
        return self._forks.fork

    def _begin(self, run: Shown) -> tuple[Panels, Readings]:
        before = self._panels
        if before is not None and (before.run is not run or len(before.memory.agents) != len(run.agent_names)):
            self._view.offer(run)
            self._forks.end()
        if self._alert:
            self._alert = ""
            self.say("")
        panels = self._panels = Panels(run)
        self._view.apply(panels)
        self._controls.begin(fixed=isinstance(run, Playback))
        readings = self._readings = Readings(run, panels)
        self._live.start_over()
        self._tabs.begin(run, panels, readings)
        self._next_text = 0.0
        self._show_compared(panels)
        return panels, readings

    def _tick(self) -> float:
        """Bring everything up to date once; returns after how many seconds it is due again."""
        run, panels, readings = self._run, self._panels, self._readings
        # TinyTroupe's persons may join while it is watched: the panels begin anew with them.
        # A recording that goes back in time has another recorder.
        is_other = panels is None or panels.run is not run or panels.feed.recorder is not run.recorder
        if panels is None or readings is None or is_other or len(panels.memory.agents) != len(run.agent_names):
            panels, readings = self._begin(run)
        while not self._wishes.empty():
            self._wishes.get()(panels)
        news = panels.read()
        readings.take(news)
        self._live.send_frame(panels)
        self._beside.tick()
        self._forks.tick()
        now = time.monotonic()
        if "runs" in news:
            self._next_text = 0.0
            self._tabs.hurry()
        self._show_alerts(readings)
        self._header.player.show(run)
        if now >= self._next_text or "limits" in news:
            self._next_text = now + TEXT_EVERY_S
            self._header.write(run, readings.numbers())
            self._controls.show(lambda name: getattr(run.limits, name), news, readings.in_use())
            for follow in self.followers:
                follow(run)
        self._tabs.tick(news)
        return PERIOD_S if self._live.watched else UNWATCHED_PERIOD_S

    def _show_alerts(self, readings: Readings) -> None:
        """Say the newest alert below the header, as long as it holds."""
        if readings.alert != self._alert:
            self._alert = readings.alert
            self.say(self._alert)

    def snapshot(self) -> Snapshot:
        """Still pictures of the panels, as they are chosen now: a cell's last expression, for whoever only reads the notebook."""
        return snapshot(self._run, view=self._view.apply)

    def close(self) -> None:
        """End the thread and free the widgets; the run goes on, and a fork of it too."""
        if not hasattr(self, "_finalizer"):
            return  # it was never made in full
        self._finalizer()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)
        self._live.clicked = None
        self._forks.close()
        self._beside.close()
        close_parts(self)
        super().close()


def _refuse_itself(run: Shown, other: Shown | None) -> None:
    if other is run:
        raise InputError("compare", "other", "another run than the one that is shown")


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
