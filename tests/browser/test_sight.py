"""Panels that nobody sees are not drawn; they are once they come into view."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from browser.jupyter import Notebook, drawn, points
from helpers import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

CELL = """
import troupelab as tl
from browser.stand_in import StandInRun
run = StandInRun(8, limits=tl.Limits(recent_max_records=20))
dashboard = tl.Dashboard(run)
run.start()
dashboard
"""
HERE = "(name) => document.querySelector(`[data-panel=${name}]`).scrollIntoView()"

COUNTED = """() => {
  window.painted = {};
  for (const plot of document.querySelectorAll("[data-panel=memory], [data-panel=remembered]")) {
    window.painted[plot.dataset.panel] = 0;
    plot.on("plotly_afterplot", () => { window.painted[plot.dataset.panel] += 1; });
  }
}"""


def _summary(page: Page) -> None:
    page.locator(".troupelab-more > summary").click()


def test_what_is_out_of_sight_is_drawn_when_it_comes_into_view(notebook: Callable[..., Notebook]) -> None:
    """Frames are acknowledged although most panels are not drawn; scrolled to or unfolded, a panel shows all it missed."""
    opened = notebook("sight", [CELL], height=620)
    page = opened.page
    opened.run_cell(0)
    eventually("the first row is drawn", lambda: points(page, "memory") > 100)
    assert drawn(page, "remembered") is None
    assert drawn(page, "cost") is None
    sent = opened.ask("dashboard._live.frames_sent")
    eventually("frames go on", lambda: opened.ask("dashboard._live.frames_sent") > sent + 4)

    page.evaluate(HERE, "remembered")
    eventually("it is drawn in full", lambda: points(page, "remembered") > 100)
    page.evaluate(COUNTED)
    time.sleep(0.5)  # what was being drawn when one scrolled on
    before = page.evaluate("() => window.painted")
    opened.tell("run.limits.update(recent_max_records=15)")
    eventually(
        "the mark is where one looks",
        lambda: any("15 records" in text for trace in drawn(page, "remembered")["traces"] for text in trace["text"]),
    )
    after = page.evaluate("() => window.painted")
    assert after["memory"] == before["memory"]
    assert after["remembered"] > before["remembered"]

    _summary(page)
    page.evaluate(HERE, "cost")
    eventually("what was folded away is drawn", lambda: points(page, "cost") > 100)
    opened.tell("run.stop()")
    opened.save()
    opened.open()
    eventually("the fold is as it was left", lambda: page.locator(".troupelab-more[open]").count() == 1)
    _summary(page)
    eventually("it folds again", lambda: page.locator('[data-panel="cost"]').is_hidden())
