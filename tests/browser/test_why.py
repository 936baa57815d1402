"""Why this jump, in a real JupyterLab: a click on the chart leads to the record behind it."""

from __future__ import annotations

import os
from collections.abc import Callable

from browser.jupyter import Notebook, drawn
from helpers import eventually

CELL = """
import troupelab as tl
run = tl.Run("product_launch", tl.ScriptedModel(7, latency_s=0.03), steps=12, seed=7, limits=tl.Limits(recent_max_records=60))
run.start(paused=True)
run.step(5); run.wait(60, until="paused")
run.tell("The lamp <b>cost</b> 4711 crowns.", to=run.agent_names[2])
run.step(1); run.wait(60, until="paused")
run.limits.update(recent_max_records=12, note="smaller window")
run.resume(); run.wait(60)
dashboard = tl.Dashboard(run)
dashboard
"""

PLACE = """
([trace, x]) => {
  const plot = document.querySelector('[data-panel="memory"]');
  const layout = plot._fullLayout, box = plot.getBoundingClientRect(), line = plot._fullData[trace];
  let at = 0;
  line.x.forEach((each, place) => { if (Math.abs(each - x) < Math.abs(line.x[at] - x)) at = place; });
  return [box.left + layout.xaxis._offset + layout.xaxis.d2p(line.x[at]), box.top + layout.yaxis._offset + layout.yaxis.d2p(line.y[at])];
}
"""
"""Where on the page the point of a line lies that is nearest to a time."""


def test_a_click_on_the_chart_names_the_record_behind_the_jump(notebook: Callable[..., Notebook]) -> None:
    """Clicking the point at which an agent's memory falls opens the tab, with the planted record as text, its note, and the prompt."""
    opened = notebook("why", [CELL], height=1500)
    page, ask = opened.page, opened.ask
    opened.run_cell(0)
    eventually("the lines are drawn", lambda: (drawn(page, "memory") or {}).get("marks", 0) > 3, timeout_s=60)
    at_s = ask(
        "(lambda rows: float(rows['at_s'][(rows['agent'] == 2) & (rows['step'] == 6)][0]))(run.recorder.read('memory').columns)"
    )
    page.locator('[data-panel="memory"]').scroll_into_view_if_needed()
    x, y = page.evaluate(PLACE, [7, at_s])
    page.mouse.move(x, y)
    page.wait_for_timeout(300)
    page.mouse.click(x, y)
    shown = page.locator(".troupelab-why")
    shown.get_by_role("heading", name="records").wait_for(timeout=30_000)
    assert "recent_max_records was lowered from 60 to 12 (note: smaller window)" in shown.inner_text()
    row = shown.locator("table").first.locator(
        "tr", has=page.locator("td:nth-child(5)", has_text="The lamp <b>cost</b> 4711 crowns.")
    )
    assert "condensed" in row.inner_text()
    assert ask("[fate.record_id for fate in run.moment(2, 6).records if '4711' in fate.text]") == [
        int(row.locator("td").first.inner_text())
    ]
    assert shown.locator("td b").count() == 0
    if folder := os.environ.get("TROUPELAB_PICTURES"):
        shown.scroll_into_view_if_needed()
        page.screenshot(path=f"{folder}/why.png")
    assert not shown.get_by_text("You play one person").is_visible()
    page.get_by_text("the prompt", exact=True).focus()
    page.keyboard.press("Enter")
    shown.get_by_text("You play one person").wait_for(timeout=5_000)
    page.get_by_role("button", name="previous step").click()
    eventually("the step before shows it coming", lambda: "stored" in row.inner_text())
