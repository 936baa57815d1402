"""What a page makes of bad input and of a lost kernel: text stays text, and silence is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from browser.jupyter import drawn, points
from helpers import eventually

if TYPE_CHECKING:
    from browser.jupyter import Notebook

pytestmark = pytest.mark.slow

EVIL = r"""
import math
import troupelab as tl
from browser.stand_in import StandInRun
from troupelab.events import ActionTaken, Alerted, CallDone, Failed, MemorySized

evil = [
    "<img src=https://harm.invalid/x onerror='window.harmed=1'>",
    "<script>window.harmed=1</script>",
    "</div></td></table><b onclick='window.harmed=1'>bold</b>",
    "<a href='javascript:window.harmed=1'>$x^2$</a> &lt;i&gt;",
    "\u202eright to left\u202c \u200f",
    "a lone surrogate: \ud800, a null: \x00",
    "long " * 20_000,
]
run = StandInRun(evil, events_per_s=100, limits=tl.Limits(recent_max_records=20))
dashboard = tl.Dashboard(run)
dashboard
"""

PLANT = """
for place, text in enumerate(evil):
    emit = run.recorder.emit
    emit(ActionTaken(1.0, 0, place, 0, "TALK", text, text))
    emit(Failed(1.0, 0, place, text[:50], text, 1))
    emit(Alerted(1.0, 0, text[:50], text))
    emit(CallDone(1.0, 0, place, "act", [math.nan, math.inf, -math.inf][place % 3], math.nan, 5, 5, math.nan, False, 1, text[:50], text[:50], 0, math.nan))
    run.limits.update(recent_max_records=10 + place, note=text[:200])
"""


def test_hostile_text_and_numbers_stay_what_they_are(notebook: Callable[..., Notebook]) -> None:
    """Markup, scripts, formulas, odd letters, 100 kB and numbers that are none are shown as text; nothing runs, the page goes on."""
    opened = notebook("hostile", [EVIL])
    page = opened.page
    asked: list[str] = []
    dialogs: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    opened.run_cell(0)
    eventually("the panels are drawn", lambda: drawn(page, "memory"))
    opened.tell("run.start()")
    opened.tell(PLANT)
    rows = page.locator(".troupelab-dashboard .troupelab-rows")
    eventually("the transcript has it", lambda: "<script>" in rows.first.inner_text())
    for name in ("errors", "alerts"):
        page.locator(".troupelab-dashboard .lm-TabBar-tab", has_text=name).click()
        eventually(f"{name} have it", lambda: "<script>" in page.locator(".troupelab-rows:visible").first.inner_text())
    for panel in ("memory", "latency", "throughput"):
        box = page.locator(f'[data-panel="{panel}"]').bounding_box()
        assert box is not None
        for place in range(10):
            page.mouse.move(box["x"] + 95 + 20 * place, box["y"] + 60 + 15 * place)
    before = points(page, "throughput")
    eventually("the lines grow", lambda: points(page, "throughput") > before)
    assert page.evaluate("() => window.harmed") is None
    assert dialogs == []
    ours = (opened.server.url, opened.server.url.replace("http", "ws"), "data:", "blob:")
    assert [url for url in asked if not url.startswith(ours)] == []
    assert page.locator(".troupelab-dashboard :is(img, script, iframe, a[href^=javascript])").count() == 0
    assert page.get_by_text("the dashboard met an error").count() == 0
    opened.tell("run.stop()")


def test_a_lost_connection_is_told_and_made_good(notebook: Callable[..., Notebook]) -> None:
    """Offline, the page says that it hears nothing; back again it catches up, also with a run that ended meanwhile; a dead kernel is told."""
    cell = "import troupelab as tl\nfrom browser.stand_in import StandInRun\nrun = StandInRun(8, events_per_s=100)\ndashboard = tl.Dashboard(run)\ndashboard"
    opened = notebook("lost", [cell])
    page = opened.page
    opened.run_cell(0)
    eventually("the panels are drawn", lambda: drawn(page, "memory"))
    opened.tell("run.start()")
    eventually("the panels fill", lambda: points(page, "memory") >= 8)
    page.wait_for_timeout(1000)
    assert page.locator(".troupelab-notice").count() == 0

    # The kernel falls silent for a while, as where it is stopped or the line is cut.
    opened.tell("send = dashboard._live.send; dashboard._live.send = lambda *_: None")
    eventually("silence is told", lambda: page.get_by_text("Nothing was heard from the kernel").is_visible())
    opened.tell("run.stop(); run.wait(5); dashboard._live.send = send")
    eventually("the notice goes", lambda: page.locator(".troupelab-notice").count() == 0)
    held = "sum(int((line['y'] == line['y']).sum()) for line in next(iter(dashboard._panels)).traces())"
    eventually("the page has caught up", lambda: points(page, "memory") == opened.ask(held))
    page.wait_for_timeout(7000)  # nothing changes any more, and that is no silence
    assert page.locator(".troupelab-notice").count() == 0

    before = points(page, "memory")
    page.evaluate("async (path) => { await fetch(path, { method: 'POST', headers: { 'X-XSRFToken': (document.cookie.match(/_xsrf=([^;]+)/) ?? [])[1] ?? '' } }); }",
        f"/api/kernels/{next(row['kernel']['id'] for row in opened.server.get('api/sessions') if row['path'] == opened.path)}/restart")  # fmt: skip
    eventually("the end is told", lambda: page.get_by_text("run the cell again").is_visible())
    assert points(page, "memory") == before
