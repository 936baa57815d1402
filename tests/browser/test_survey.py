"""Presets, the run as code, the estimate and a survey in a real JupyterLab: what a user sees, chooses and copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from browser.jupyter import Notebook, drawn
from helpers import eventually

pytestmark = pytest.mark.slow

CELL = "import troupelab as tl\nlab = tl.Lab(world='product_launch', steps=400, latency_s=0.02)\nlab"


def test_a_preset_the_code_and_a_survey(notebook: Callable[..., Notebook]) -> None:
    """A preset is one change; a button shows code that can be copied; a survey's answers fill a table while the run goes on."""
    opened = notebook("survey", [CELL], height=1500)
    page, ask = opened.page, opened.ask
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.run_cell(0)
    eventually("the panels say what will appear", lambda: drawn(page, "latency"))
    eventually("the estimate stands below the form", lambda: page.get_by_text("about 3,200 calls").is_visible())

    page.get_by_label("presets").select_option("tight memory")
    eventually(
        "it is accepted", lambda: ask("[change.note for change in lab.run.limits.log]") == ["preset: tight memory"]
    )
    eventually("its sentence stands below", lambda: page.get_by_text("consolidation after consolidation").is_visible())

    page.locator("button.widget-toggle-button:visible", has_text="as code").first.click()
    code = page.get_by_role("textbox", name="code of this run")
    eventually("the code is there", lambda: "recent_max_records=20" in code.input_value())
    page.get_by_role("button", name="copy the code of this run").click()
    eventually("it says so", lambda: page.get_by_text("copied").is_visible())
    assert page.evaluate("navigator.clipboard.readText()") == code.input_value() == ask("lab.run.as_code()")
    code.focus()
    assert page.evaluate("getSelection().toString()") == code.input_value()

    page.locator("button.widget-button:visible", has_text="Start").first.click()
    eventually("it runs", lambda: ask("lab.run.state") == "running")
    page.get_by_label("presets").select_option("forgetful")
    eventually("the change is in the code", lambda: "note='preset: forgetful'), at=" in code.input_value())

    page.get_by_role("tab", name="survey", exact=True).click()
    eventually("the tab says what to do", lambda: page.get_by_text("Write a question, or several").is_visible())
    page.get_by_label("questions", exact=True).fill("Would you buy the lamp?\n<img src=x onerror='window.harmed=1'>")
    page.get_by_label("choices", exact=True).fill("yes; no; not sure")
    page.get_by_label("choices", exact=True).press("Tab")
    page.locator(".troupelab-ask button").click()
    eventually("all have answered", lambda: page.get_by_text("16 of 16 answered").is_visible())
    eventually("the code is there", lambda: "lab.run" not in survey_code(page) and "choices=" in survey_code(page))
    assert page.evaluate("window.harmed") is None
    assert ask("lab.run.state") == "running"


def survey_code(page: Any) -> str:
    """The code of the survey that is shown."""
    found: str = page.get_by_role("textbox", name="code of this survey").input_value()
    return found
