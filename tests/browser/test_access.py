"""The dashboard for everybody: axe-core's rules, keys alone, contrast of the charts' texts, and a page that keeps still."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from browser.jupyter import drawn, points
from helpers import eventually

if TYPE_CHECKING:
    from browser.jupyter import Notebook

pytestmark = pytest.mark.slow

CELL = """
import troupelab as tl
lab = tl.Lab(world="product_launch", steps=4000, latency_s=0.05, limits=tl.Limits(recent_max_records=30))
lab
"""

CONTRAST = """() => {
  const rgba = (colour) => (colour.match(/[\\d.]+/g) ?? [0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (part) => {
    for (let outer = part; outer; outer = outer.parentElement) {
      const colour = rgba(getComputedStyle(outer).backgroundColor);
      if ((colour[3] ?? 1) > 0.9) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const text of document.querySelectorAll(".troupelab-panel text")) {
    if (!text.textContent.trim() || text.closest(".hoverlayer")) continue;
    let shown = Number(getComputedStyle(text).fillOpacity);
    for (let outer = text; outer && !outer.matches(".troupelab-panel"); outer = outer.parentElement) shown *= Number(getComputedStyle(outer).opacity);
    if (!shown) continue;
    const behind = ground(text.closest(".troupelab-panel"));
    const ink = rgba(getComputedStyle(text).fill).slice(0, 3).map((value, place) => value * shown + behind[place] * (1 - shown));
    const [dark, bright] = [light(ink), light(behind)].sort((a, b) => a - b);
    const ratio = (bright + 0.05) / (dark + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${text.textContent}`);
  }
  return poor;
}"""
"""The charts' texts with less contrast than 4.5:1 to what is behind them (WCAG 2.2, relative luminance)."""

SHIFTS = """() => {
  window.shifted = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries())
      for (const source of entry.sources ?? [])
        if (source.node?.parentElement?.closest(".troupelab-lab")) window.shifted.push([entry.value, source.node.className ?? source.node.nodeName]);
  }).observe({ type: "layout-shift" });
}"""

BOXES = """() => [...document.querySelectorAll(".troupelab-panel, .troupelab-limit, .troupelab-header button, .troupelab-view, .lm-TabBar")]
  .map((part) => part.getBoundingClientRect()).map((box) => [box.x, box.y, box.width, box.height].map(Math.round))"""


@pytest.mark.parametrize(
    ("app", "dark"),
    [
        ("lab", False),
        ("lab", True),
        ("voila", False),
    ],
)
def test_axe_finds_nothing_serious(notebook: Callable[..., Notebook], app: str, dark: bool) -> None:
    """On a running dashboard axe-core finds no violation that is serious or critical, and the charts' texts can be read."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    opened = notebook(f"axe-{app}-{dark}", [CELL], app=app, dark=dark)
    page = opened.page
    if app == "lab":
        opened.run_cell(0)
    eventually("the panels are drawn", lambda: drawn(page, "latency"))
    opened.tell("lab.run.start()")
    eventually("the panels fill", lambda: points(page, "latency") >= 4)
    eventually(
        "the charts are described",
        lambda: "memory per agent" in (page.locator('[data-panel="memory"]').get_attribute("aria-label") or ""),
    )
    found = axe.Axe().run(page, {"include": [[".troupelab-lab"]]}).response["violations"]
    told = [(one["id"], one["impact"], [node["html"][:150] for node in one["nodes"][:3]]) for one in found]
    assert [one for one in told if one[1] in {"serious", "critical"}] == []
    assert page.evaluate(CONTRAST) == []
    opened.tell("lab.run.stop()")


def test_all_is_done_by_keys_and_nothing_jumps(notebook: Callable[..., Notebook]) -> None:
    """Tab reaches the controls from top to bottom; Enter starts and pauses, arrows move a limit, a fold opens; nothing moves by itself."""
    opened = notebook("keys", [CELL], height=1500)
    page, ask = opened.page, opened.ask
    opened.run_cell(0)
    eventually("the panels are drawn", lambda: drawn(page, "latency"))
    eventually("the parts are named", lambda: page.get_by_role("slider", name="recent records").count())
    page.locator(".troupelab-form select").first.focus()

    def focused() -> str:
        return str(
            page.evaluate(
                "() => { const at = document.activeElement; return at.getAttribute('aria-label') || at.textContent.trim(); }"
            )
        )

    def tab_to(name: str) -> None:
        for _ in range(40):
            if re.fullmatch(name, focused()):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab never reached {name!r}; the focus is at {focused()!r}")

    tab_to("Start")
    page.keyboard.press("Enter")
    eventually("it runs", lambda: ask("lab.run.state") == "running")
    eventually("the button may be pressed", lambda: page.locator("button:enabled", has_text="pause").count())
    eventually("the panels fill", lambda: points(page, "latency") >= 4)
    page.wait_for_timeout(1500)  # the first numbers have come
    before = page.evaluate(BOXES)
    page.evaluate(SHIFTS)
    page.wait_for_timeout(3000)
    assert page.evaluate(BOXES) == before
    assert sum(value for value, _ in page.evaluate("window.shifted")) < 0.01
    tab_to("pause")
    page.keyboard.press("Enter")
    eventually("it pauses", lambda: ask("lab.run.state") == "paused")
    tab_to("recent records")
    page.keyboard.press("ArrowLeft")
    eventually("the limit follows", lambda: ask("lab.run.limits.recent_max_records") == 25)
    tab_to("model calls")
    page.keyboard.press("Enter")
    eventually(
        "the fold opens",
        lambda: (
            page.get_by_role("slider", name="calls at once").count()
            or page.locator(".jupyter-widget-Collapse-open").count() >= 2
        ),
    )
    assert page.locator(".jp-Notebook .jp-Cell").count() >= 1
    opened.tell("lab.run.stop()")
