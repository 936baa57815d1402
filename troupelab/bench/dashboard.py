"""What the dashboard costs, in a real JupyterLab and Chromium: a real run of 100 agents at about 1,000 events a second, all panels, 4 frames a second.

Each repetition watches the same run for a while without a dashboard, then with one, and without one again, in a fresh page. Figures that tell a share are
differences of with and without, so that the run's own work is left out, and that it grows as memories do. The page is so tall that all panels are in view and drawn. It needs JupyterLab, playwright and a
Chromium (`pip install "troupelab[test]"`). Main thread only.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from troupelab.bench.harness import report
from troupelab.bench.jupyter import JupyterServer, Notebook, drawn, eventually, open_browser, points

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession

__all__ = ["run"]

AGENTS, MANY = 100, 500
MOVES = 24
COLLECTIONS = 6
ASK_EVERY_S = 3.0
"""How often a page is looked at that is to be left alone: each question to the kernel makes JupyterLab draw the kernel's state anew."""
WIDTH, HEIGHT = 1600, 3200

SETUP = """
import time
import troupelab as tl
tl.Dashboard, tl.Run  # loads the packages, so that they are not counted as drawing
def begin(agents):
    world = tl.World.sample(agents=agents, seed=7)
    model = tl.ScriptedModel(seed=7, latency_s=0.0042 * agents, latency_sigma=0.1)
    return tl.Run(world, model, limits=tl.Limits(max_concurrency=agents), steps=100_000, seed=7).start()
def events():
    return sum(run.recorder.count(family) for family in ("acts", "actions", "calls", "memory", "consolidations", "limits"))
run = begin({agents})
"""

KEYS = """() => {
  window.pressed = [];
  addEventListener("keydown", () => window.pressed.push(performance.timeOrigin + performance.now()), true);
}"""


class Watched(NamedTuple):
    """What went on in the kernel for a while."""

    core_percent: float
    ui_thread_percent: float
    events_per_s: float
    acts_per_s: float


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` measures for seconds instead of minutes, once.

    Raises:
        MissingPackageError: JupyterLab, playwright or a Chromium is not here.
    """
    measured_s, refreshes = (6.0, 50) if quick else (60.0, 2_000)
    # What takes long is measured once, in the last repetition.
    left = [1 if quick else 3]

    def measure() -> Mapping[str, float]:
        left[0] -= 1
        with open_browser() as browser, tempfile.TemporaryDirectory() as home, _server(Path(home)) as server:
            figures = _measure(server, browser, measured_s)
            if not left[0]:
                once.update(_grown(server, browser, refreshes) | _many(server, browser, measured_s / 3))
        return figures

    once: dict[str, float] = {}
    told = report("dashboard", measure, left[0])
    figures, spread = told["figures"], told["spread"]
    assert isinstance(figures, dict)
    assert isinstance(spread, dict)
    figures.update({name: round(value, 4) for name, value in once.items()})
    spread.update({name: [round(value, 4)] * 2 for name, value in once.items()})
    return told


@contextmanager
def _server(home: Path) -> Iterator[JupyterServer]:
    server = JupyterServer(home)
    try:
        yield server
    finally:
        server.close()


def _open(server: JupyterServer, browser: Browser, agents: int, name: str) -> Notebook:
    """A notebook whose kernel has a run that goes on, and nothing that shows it yet."""
    page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}).new_page()
    cells = [SETUP.replace("{agents}", str(agents)), "shown = tl.Dashboard(run)\nshown"]
    opened = Notebook(server, page, name, cells)
    opened.run_cell(0)
    eventually("the run goes on", lambda: opened.ask("'run' in globals() and run.now_s() > 3"))
    return opened


def _measure(server: JupyterServer, browser: Browser, measured_s: float) -> dict[str, float]:
    opened = _open(server, browser, AGENTS, "speed")
    page = opened.page
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    before = _watch(opened, measured_s / 2)
    paint_s = _show(opened)
    time.sleep(2)
    sent, work, since = opened.ask("shown._live.bytes_sent"), _worked_s(session), time.monotonic()
    watched = _watch(opened, measured_s, "shown")
    elapsed = time.monotonic() - since
    sent, work = opened.ask("shown._live.bytes_sent") - sent, _worked_s(session) - work
    moved = _move_slider(opened)
    opened.tell("shown.close()")
    time.sleep(2)
    without = _mean(before, _watch(opened, measured_s / 2))
    figures = {
        "events_per_s": watched.events_per_s,
        "kernel_core_percent": watched.core_percent - without.core_percent,
        "ui_thread_percent": watched.ui_thread_percent,
        "run_slowdown_percent": 100 * (1 - watched.acts_per_s / without.acts_per_s),
        "kb_per_s": sent / elapsed / 1000,
        "main_thread_percent": 100 * work / elapsed,
        "first_paint_s": paint_s,
        "slider_ms_median": statistics.median(moved),
        "slider_ms_max": max(moved),
    }
    _end(opened)
    return figures


def _show(opened: Notebook) -> float:
    """Show the dashboard; returns after how many seconds its panels are painted."""
    began = time.monotonic()
    opened.run_cell(1)
    page = opened.page
    eventually("all is drawn", lambda: drawn(page, "throughput") and points(page, "throughput"), timeout_s=60)
    return time.monotonic() - began


def _end(opened: Notebook) -> None:
    opened.tell("shown.close(); run.stop(now=True); run.wait(60)")
    opened.close()
    opened.page.context.close()


def _watch(opened: Notebook, measured_s: float, shown: str = "") -> Watched:
    """Let the run go on for a while and see what it took; with a dashboard's name, also what its own thread took."""
    thread = f"time.clock_gettime(time.pthread_getcpuclockid({shown}._thread.ident))" if shown else "0.0"
    question = f"(time.monotonic(), time.process_time(), {thread}, events(), run.progress().acts_done)"
    before = opened.ask(question)
    time.sleep(measured_s)
    wall, core, ui, events, acts = (
        after - earlier for after, earlier in zip(opened.ask(question), before, strict=True)
    )
    return Watched(100 * core / wall, 100 * ui / wall, events / wall, acts / wall)


def _mean(one: Watched, other: Watched) -> Watched:
    return Watched(*((first + second) / 2 for first, second in zip(one, other, strict=True)))


def _metrics(session: CDPSession) -> dict[str, Any]:
    return {row["name"]: row["value"] for row in session.send("Performance.getMetrics")["metrics"]}


def _worked_s(session: CDPSession) -> float:
    """Seconds for which the page's main thread has worked."""
    return float(_metrics(session)["TaskDuration"])


def _heap_mb(session: CDPSession) -> float:
    """The page's heap after collections, in MB: some of what is garbage (weakly held, code that is used no more) goes only with a later one."""
    for _ in range(COLLECTIONS):
        session.send("HeapProfiler.collectGarbage")
    return float(_metrics(session)["JSHeapUsedSize"]) / 1e6


def _move_slider(opened: Notebook) -> list[float]:
    """Milliseconds from a key pressed in the page to the engine's acceptance, one by one."""
    page = opened.page
    page.evaluate(KEYS)
    handle = page.get_by_role("slider", name="recent records").last
    handle.focus()
    took = []
    for number in range(MOVES):
        have = opened.ask("run.recorder.count('limits')")
        page.keyboard.press("ArrowLeft" if number % 2 else "ArrowRight")
        eventually("the change is accepted", partial(_more_than, opened, have))
        pressed = page.evaluate("() => window.pressed.at(-1)")
        accepted = opened.ask(
            "1000 * (time.time() - time.monotonic() + run.limits.log[-1].requested_at)"
            " + float(run.recorder.read('limits').columns['accepted_ms'][-1])"
        )
        took.append(accepted - pressed)
        time.sleep(0.13)
    return took


def _more_than(opened: Notebook, have: int) -> bool:
    return int(opened.ask("run.recorder.count('limits')")) > have


def _frames(opened: Notebook) -> int:
    return int(opened.ask("shown._live.frames_sent"))


def _grown(server: JupyterServer, browser: Browser, refreshes: int) -> dict[str, float]:
    """By how much the page's heap grows over so many frames, once its series have as many points as they ever will."""
    opened = _open(server, browser, AGENTS, "heap")
    _show(opened)
    session = opened.page.context.new_cdp_session(opened.page)
    session.send("Performance.enable")
    first = _frames(opened) + refreshes // 10
    eventually("it is warm", lambda: _frames(opened) >= first, timeout_s=600, every_s=ASK_EVERY_S)
    before, since = _heap_mb(session), time.monotonic()
    begun = _frames(opened)
    last = begun + refreshes
    eventually("it was refreshed often", lambda: _frames(opened) >= last, timeout_s=2_400, every_s=ASK_EVERY_S)
    took = time.monotonic() - since
    figures = {
        "heap_growth_mb": _heap_mb(session) - before,
        "refreshes": float(refreshes),
        "frames_per_s": refreshes / took,
    }
    _end(opened)
    return figures


def _many(server: JupyterServer, browser: Browser, measured_s: float) -> dict[str, float]:
    """How many frames a second a page draws with 500 agents."""
    opened = _open(server, browser, MANY, "many")
    _show(opened)
    time.sleep(3)
    begun, since = _frames(opened), time.monotonic()
    time.sleep(measured_s)
    figures = {"frames_per_s_500_agents": (_frames(opened) - begun) / (time.monotonic() - since)}
    _end(opened)
    return figures
