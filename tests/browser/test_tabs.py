"""The tabs in a real JupyterLab, by keyboard alone: searching, asking an agent, and acknowledging an alert."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from browser.jupyter import Notebook
from helpers import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

EVIL = "<img src=x onerror='window.hurt = 1'> \u202egnp"


def go(page: Page, role: str, name: str) -> None:
    """Press Tab until some control has the focus, as somebody without a mouse does."""
    wanted = page.locator(".troupelab-page:visible").get_by_role(role, name=name, exact=True).first
    for _ in range(80):
        if wanted.evaluate("(element) => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no way by keyboard to the {role} {name!r}")


def turn_to(page: Page, name: str) -> None:
    """Choose a tab with the arrow keys."""
    page.locator(
        ".troupelab-dashboard .lm-TabBar-tab[aria-selected='true'], .troupelab-dashboard .lm-mod-current"
    ).first.focus()
    for _ in range(8):
        if page.locator(".troupelab-dashboard .lm-TabBar-tab.lm-mod-current").inner_text().startswith(name):
            return
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
    raise AssertionError(f"no tab {name!r} by keyboard")


def test_search_interview_and_acknowledge_by_keyboard(notebook: Callable[..., Notebook]) -> None:
    """A word is found and marked, an agent answers, and an alert is put aside, all without a mouse; hostile texts stay text."""
    cell = (
        "import troupelab as tl\n"
        "from troupelab.events import ActionTaken, Alerted\n"
        "run = tl.Run('product_launch', steps=3, seed=7).start().wait(60)\n"
        f"evil = {EVIL!r}\n"
        "run.recorder.emit(ActionTaken(9.0, 2, 0, 9, 'TALK', evil, evil + ' zanzibar'))\n"
        "run.recorder.emit(Alerted(9.0, 2, 'price', 'the price is not known ' + evil))\n"
        "dashboard = tl.Dashboard(run)\n"
        "dashboard"
    )
    opened = notebook("tabs", [cell])
    page = opened.page
    page.set_viewport_size({"width": 900, "height": 2400})
    opened.run_cell(0)
    eventually("the transcript", lambda: page.get_by_text("actions match").is_visible())
    page.locator(".troupelab-page:visible").get_by_role("textbox", name="search").first.focus()
    page.keyboard.type("ZANZibar")
    eventually("one match is marked", lambda: page.locator(".troupelab-rows mark").all_inner_texts() == ["zanzibar"])
    assert page.evaluate("window.hurt") is None

    turn_to(page, "interview")
    go(page, "textbox", "question")
    page.keyboard.type("What do you make of it?")
    page.keyboard.press("Enter")
    eventually(
        "an answer",
        lambda: (
            page.locator(".troupelab-answer").count() == 1
            and "after" in page.locator(".troupelab-exchange").inner_text()
        ),
    )
    assert "What do you make of it?" in page.locator(".troupelab-question").inner_text()

    turn_to(page, "alerts")
    eventually("the alert", lambda: page.locator(".troupelab-said:visible").count() == 1)
    go(page, "button", "acknowledge")
    page.keyboard.press("Enter")
    eventually("it is put aside", lambda: page.get_by_role("button", name="acknowledged").is_visible())
    eventually("the header says nothing", lambda: page.locator(".troupelab-said:visible").count() == 0)
    assert page.evaluate("window.hurt") is None
