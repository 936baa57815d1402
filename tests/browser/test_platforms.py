"""The same lab in JupyterLab, Notebook 7 and Voila, and in narrow and wide pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from browser.jupyter import ROOT, drawn, points, press
from helpers import eventually

if TYPE_CHECKING:
    from browser.jupyter import Notebook
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

CELL = """
import troupelab as tl
lab = tl.Lab(world="product_launch", steps=4000, latency_s=0.05, limits=tl.Limits(recent_max_records=30))
lab
"""
PANELS = ("memory", "latency", "consolidations", "throughput")

CUT = """() => [...document.querySelectorAll(".troupelab-lab, .troupelab-lab *")].filter((part) => {
  const style = getComputedStyle(part);
  if (!part.clientWidth || part.parentElement.closest(".troupelab-panel") || part.closest("svg, .noUi-target, .noUi-base, .troupelab-rows, .lm-TabBar") || style.overflowX === "auto") return false;
  const text = [...part.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const page = document.querySelector(".troupelab-lab").getBoundingClientRect();
  return (text && style.display !== "inline" && part.scrollWidth > part.clientWidth + 1) || part.getBoundingClientRect().right > page.right + 2;
}).map((part) => `${part.tagName} ${part.className}: ${part.textContent.slice(0, 60)}`)"""
"""Parts of ours whose text is cut, or that stick out at the right; what is inside a panel is drawn to its width once it is in sight."""


def filled(page: Page) -> bool:
    """Whether all panels show some points."""
    return all(points(page, panel) >= 4 for panel in PANELS)


@pytest.mark.parametrize("app", ["lab", "notebook", "voila"])
def test_a_lab_works_in(notebook: Callable[..., Notebook], app: str) -> None:
    """Start fills the panels, a slider moved by keys changes the limit, and a reload shows all again; nothing is cut."""
    opened = notebook(f"platform-{app}", [CELL], app=app)
    page, ask = opened.page, opened.ask
    if app != "voila":
        opened.run_cell(0)
    eventually("the panels are drawn", lambda: drawn(page, "latency"))
    press(page, "Start")
    eventually("the panels fill", lambda: filled(page))
    page.get_by_role("slider", name="recent records").focus()
    for _ in range(3):  # 25, 20, 15
        page.keyboard.press("ArrowLeft")
    eventually("the new cap is accepted", lambda: ask("lab.run.limits.recent_max_records") == 15)
    for width in (900, 2560) if app == "lab" else (600,):
        page.set_viewport_size({"width": width, "height": 1200})
        eventually(f"nothing is cut at {width} px", lambda: page.evaluate(CUT) == [])
    page.set_viewport_size({"width": 1600, "height": 1900})
    if app == "voila":
        opened.open()  # a visit of its own, with a kernel of its own
        eventually("a lab that is ready", lambda: "will appear" in str((drawn(page, "latency") or {}).get("notes")))
    elif app == "lab":
        opened.save()
        opened.open()
        eventually("the history is back", lambda: filled(page), timeout_s=60)
    else:
        page.keyboard.press("Control+s")
        eventually("it is saved", lambda: "widget-view" in (opened.server.notebooks / opened.path).read_text())
        opened.open()
        eventually("the history is back", lambda: filled(page), timeout_s=60)
    opened.tell("lab.run.stop()")


def test_voila_serves_the_first_notebook(notebook: Callable[..., Notebook]) -> None:
    """The quickstart is an app as it is: its lab is drawn, its last cell is shown, and no cell failed."""
    opened = notebook("quickstart", ROOT / "notebooks" / "01_quickstart.ipynb", app="voila")
    page = opened.page
    eventually("the panels are drawn", lambda: drawn(page, "latency"), timeout_s=60)
    eventually("the last cell is shown", lambda: page.get_by_text("sha256").first.is_visible())
    assert page.locator(".jp-OutputArea-output[data-mime-type*=stderr], .voila-error").count() == 0


def test_at_twice_the_size_nothing_is_cut(notebook: Callable[..., Notebook]) -> None:
    """With 200 % zoom on a screen of 1,500 px, the page that is left shows all texts whole."""
    opened = notebook("zoomed", [CELL], width=1500, zoom=2)
    opened.run_cell(0)
    eventually("the panels are drawn", lambda: drawn(opened.page, "memory"))
    eventually("nothing is cut", lambda: opened.page.evaluate(CUT) == [])
