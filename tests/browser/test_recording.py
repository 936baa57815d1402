"""A recording in a real JupyterLab: it plays, the slider goes back and forth, and no model is asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.jupyter import Notebook, drawn, points
from helpers import eventually, quick_run

import troupelab as tl

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

PANELS = ("memory", "latency", "consolidations", "throughput")

CELL = """
import troupelab as tl
from troupelab.models.pipeline import Pipeline
asked = []
Pipeline.complete = lambda *arguments, **rest: asked.append(arguments)
board = tl.Dashboard(tl.Recording.open({folder!r}))
board
"""

TOOK_IN = "board._panels.feed._next['acts']"


def latest(page: Page) -> float:
    """The end of the time axis, as it is drawn."""
    found = page.evaluate(
        "() => document.querySelector('[data-panel=\"memory\"]')?._fullLayout?.xaxis?.range?.[1] ?? 0"
    )
    return float(found)


def test_a_recording_plays_and_goes_back_and_forth(notebook: Callable[..., Notebook], tmp_path: Path) -> None:
    """Play, pause, keys on the slider and speed do what they say; panels show what there was; limits are only shown."""
    model = tl.ScriptedModel(7, latency_s=0.25)
    run = quick_run(model=model, steps=12, folder=tmp_path / "run", limits=tl.Limits(recent_max_records=20))
    run.start(paused=True)
    run.step(6)
    run.wait(60, until="paused")
    run.limits.update(recent_max_records=10, note="smaller")
    run.resume()
    run.wait(60)
    acts, length_s = run.recorder.count("acts"), run.now_s()

    opened = notebook("recording", [CELL.format(folder=str(tmp_path / "run"))], width=1500)
    page, ask = opened.page, opened.ask
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    opened.run_cell(0)
    eventually("all of it is drawn", lambda: all(points(page, panel) >= 8 for panel in PANELS))
    assert ask(TOOK_IN) == acts
    slider = page.get_by_role("slider", name="time in the recording")
    play = page.locator("button.troupelab-play")
    assert slider.get_attribute("aria-valuetext").endswith("step 12 of 12")
    assert "▶ play" in play.inner_text()
    assert page.locator(".troupelab-header button.widget-button:visible").count() == 0
    assert page.get_by_role("slider", name="recent records").get_attribute("aria-disabled") in {None, "true"}
    assert ask("all(each.slider.disabled for each in board._controls.by_name.values())")
    whole = points(page, "memory")

    # To the start by one key, where nothing has happened, and some way on by others.
    slider.focus()
    page.keyboard.press("Home")
    eventually("the start is shown", lambda: "will appear" in str((drawn(page, "latency") or {}).get("notes")))
    assert ask("board.run.state, board.run.now_s()") == ("recording", 0.0)
    eventually("the limit is that of then", lambda: ask("board._controls.values()['recent_max_records']") == 20)
    for _ in range(4):
        page.keyboard.press("PageUp")
    eventually("some of it is drawn", lambda: 0 < points(page, "memory") < whole)
    eventually("the panels have what there was by then", lambda: 0 < ask(TOOK_IN) < acts)
    middle_s = ask("board.run.now_s()")
    assert 0.2 * length_s < middle_s < 0.8 * length_s
    eventually("the axis ends there", lambda: 0 < latest(page) < length_s)

    # It plays on from there by itself.
    page.get_by_label("speed").select_option("0.5")
    play.focus()
    page.keyboard.press("Enter")
    eventually("it goes on", lambda: ask("board.run.now_s()") > middle_s + 0.3)
    assert "pause" in play.inner_text()
    if (shot := os.environ.get("TROUPELAB_SCREENSHOTS")) is not None:
        page.screenshot(path=str(Path(shot) / "recording.png"))
    page.keyboard.press("Enter")
    eventually("it stands", lambda: ask("board.run.state") == "recording")
    stood_s = ask("board.run.now_s()")
    page.get_by_label("speed").select_option("5")
    page.keyboard.press("Tab")
    play.click()
    eventually("it has come to its end", lambda: ask("board.run.state, " + TOOK_IN) == ("recording", acts))
    assert stood_s < length_s
    eventually("all of it is drawn again", lambda: points(page, "memory") == whole)
    eventually("the limit is that of the end", lambda: ask("board._controls.values()['recent_max_records']") == 10)
    eventually("the button says what it would do", lambda: "▶ play" in play.inner_text())

    # By hand, too: a press in the middle of the slider goes there.
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    eventually("it is in the middle", lambda: 0.4 < ask("board.run.now_s() / board.run.length_s") < 0.6)
    assert ask("len(asked)") == 0
    assert problems == []
