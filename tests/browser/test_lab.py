"""The lab in a real JupyterLab: what a user sees, and what the controls do to the run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from browser.jupyter import Notebook, drawn, points, press
from helpers import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

PANELS = ("memory", "tiers", "consolidations", "latency", "throughput", "remembered")
"""Those that are not folded away."""

HELD = f"{{panel.name: sum(int((line['y'] == line['y']).sum()) for line in panel.traces()) for panel in lab.dashboard._panels if panel.name in {PANELS}}}"
"""How many points the kernel holds for each of them."""

CAUGHT_UP = "all(lab.run.recorder.count(name) == seen for name, seen in lab.dashboard._panels.feed._next.items() if name != 'process')"
"""Whether the dashboard has taken in every event but the process's, which go on in a pause."""


def marks(page: Page, panel: str) -> list[str]:
    """The hover texts of the limit changes that are marked in a panel, each once."""
    found = drawn(page, panel) or {"traces": []}
    texts = [text for trace in found["traces"] if trace["name"] == "limit change" for text in trace["text"]]
    return [text for text in dict.fromkeys(texts) if text.startswith("<b>limit change")]


def all_filled(page: Page) -> bool:
    """Whether every panel shows a good number of points, and something is painted."""
    return all(points(page, panel) >= 8 and (drawn(page, panel) or {}).get("marks", 0) > 0 for panel in PANELS)


def test_a_run_is_launched_watched_changed_and_followed_by_another(notebook: Callable[..., Notebook]) -> None:
    """Start fills all panels; a slider, pause, step, resume and stop work; a second run and a reload show theirs."""
    cell = "import troupelab as tl\nlab = tl.Lab(world='product_launch', steps=4000, latency_s=0.02, limits=tl.Limits(recent_max_records=30))\nlab"
    opened = notebook("lab", [cell])
    page, ask = opened.page, opened.ask
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    opened.run_cell(0)
    eventually(
        "the panels say what will appear", lambda: "will appear" in str((drawn(page, "latency") or {}).get("notes"))
    )
    assert ask("lab.run.state") == "ready"

    press(page, "Start")
    eventually("all panels fill", lambda: all_filled(page))
    assert ask("lab.run.state") == "running"
    before = points(page, "memory")
    eventually("the lines grow", lambda: points(page, "memory") > before)

    # The slider by keyboard: each press is one notch down, and one accepted change.
    handle = page.get_by_role("slider", name="recent records")
    handle.focus()
    for _ in range(3):  # 25, 20, 15
        page.keyboard.press("ArrowLeft")
    eventually("the new cap is accepted", lambda: ask("lab.run.limits.recent_max_records") == 15)
    assert handle.get_attribute("aria-valuetext") == "15"
    assert ask("{change.by for change in lab.run.limits.log}") == {"dashboard"}
    eventually("the note tells the step", lambda: page.get_by_text("effective at step").is_visible())
    for panel in PANELS:
        eventually(
            f"the change is marked on {panel}",
            lambda panel=panel: any("→ 15 records" in text for text in marks(page, panel)),
        )
    effective = ask("int(lab.run.recorder.read('limits').columns['effective_step'][-1])")
    beyond = f"(lambda rows: rows['recent_records'][rows['step'] > {effective}].tolist())(lab.run.recorder.read('memory').columns)"
    eventually("steps under the new cap", lambda: len(ask(beyond)) > 40)
    assert max(ask(beyond)) <= 15

    # A refused value is told beside its control, which goes back.
    opened.tell("lab.run.limits.update(consolidate_to=0.9)")
    handle = page.get_by_role("slider", name="consolidate at")
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    eventually(
        "the refusal is told", lambda: page.get_by_text("consolidate_to must be below consolidate_at").is_visible()
    )
    assert ask("lab.run.limits.consolidate_at") > 0.9

    press(page, "pause")
    eventually("paused", lambda: ask("lab.run.state") == "paused")
    eventually("nobody acts", lambda: ask("lab.run.in_flight") == 0)
    step = ask("lab.run.progress().step")
    eventually(
        "the step button can be pressed",
        lambda: page.locator("button.widget-button:enabled", has_text=re.compile(r"^\s*step\s*$")).count() == 1,
    )
    press(page, "step")
    eventually(
        "paused again later",
        lambda: ask("(lab.run.state, lab.run.progress().step)") in [("paused", step), ("paused", step + 1)],
    )
    press(page, "resume")
    eventually("it goes on", lambda: ask("lab.run.progress().step") > step + 3)
    press(page, "stop")
    eventually("stopped", lambda: ask("lab.run.state") == "stopped")
    eventually("the header says so", lambda: page.get_by_text("stopped").first.is_visible())

    # A second run in the same widget starts from nothing.
    first = points(page, "memory")
    opened.tell("before = (lab.run, lab.dashboard)")
    press(page, "Start")
    eventually("a second run", lambda: ask("lab.run is not before[0] and lab.run.state == 'running'"))
    assert ask("lab.dashboard is before[1]")
    eventually("the marks of the first are gone", lambda: marks(page, "memory") == [])
    eventually("all panels fill again", lambda: all_filled(page))
    assert first > 0

    # After a reload the page has the history, not only what is new.
    eventually("some history", lambda: ask("lab.run.now_s()") > 4)
    press(page, "pause")
    eventually("paused", lambda: ask("lab.run.state") == "paused")
    eventually("nobody acts", lambda: ask("lab.run.in_flight") == 0)
    eventually("the last event is taken in", lambda: ask(CAUGHT_UP))
    held = ask(HELD)
    assert min(held.values()) >= 8
    opened.save()
    opened.open()
    eventually("the history is back", lambda: {panel: points(page, panel) for panel in PANELS} == held)
    press(page, "stop")
    assert [
        url
        for url in asked
        if not url.startswith((opened.server.url, "data:", "blob:", opened.server.url.replace("http", "ws")))
    ] == []


def test_sliders_have_names_and_panels_fold(notebook: Callable[..., Notebook]) -> None:
    """Every slider handle has an accessible name, and with less than 1,000 px all stands in one column."""
    opened = notebook(
        "narrow", ["import troupelab as tl\nlab = tl.Lab(world='classroom_debate', latency_s=0.02, steps=30)\nlab"]
    )
    page = opened.page
    opened.run_cell(0)
    eventually("the panels are drawn", lambda: drawn(page, "throughput"))

    def lefts() -> set[int]:
        boxes = [page.locator(f'[data-panel="{panel}"]').bounding_box() for panel in PANELS]
        return {round(box["x"]) for box in boxes if box}

    assert len(lefts()) == 2
    labels = [handle.get_attribute("aria-label") for handle in page.locator(".noUi-handle").all()]
    assert "recent records" in labels
    assert all(labels)
    page.set_viewport_size({"width": 1000, "height": 1200})
    eventually("one column", lambda: len(lefts()) == 1)
    eventually("plots as wide as their place", lambda: page.evaluate(
        "() => ['memory', 'tiers'].map((name) => document.querySelector(`[data-panel=${name}]`)).every((p) => Math.abs(p._fullLayout.width - p.clientWidth) < 2)"
    ))  # fmt: skip


def test_a_name_that_is_markup_stays_text(notebook: Callable[..., Notebook]) -> None:
    """A persona called like an image tag is shown as such, in panels, rows and tags, and nothing of it runs."""
    cell = """
import troupelab as tl
from browser.stand_in import StandInRun
evil = "<img src=x onerror=\\"window.harmed=1\\">"
run = StandInRun([evil, "<b onmouseover='window.harmed=1'>Bo</b>", *[f"Agent {n}" for n in range(10)]], limits=tl.Limits(recent_max_records=20))
dashboard = tl.Dashboard(run)
dashboard
"""
    opened = notebook("evil", [cell])
    page = opened.page
    opened.run_cell(0)
    eventually("the panels are there", lambda: drawn(page, "memory"))
    opened.tell("run.start()")
    eventually("all panels fill", lambda: all_filled(page))
    opened.tell("dashboard._view.agents.value = [evil]; run.limits.update(recent_max_records=15, note=evil)")
    eventually(
        "it is drawn as a line",
        lambda: any("&lt;img" in note for note in (drawn(page, "memory") or {"notes": []})["notes"]),
    )
    eventually("its words are in the rows", lambda: "<img src=x" in page.locator(".troupelab-rows").first.inner_text())
    eventually("its note is marked", lambda: any("&lt;img" in text for text in marks(page, "memory")))
    box = page.locator('[data-panel="memory"]').bounding_box()
    assert box is not None
    for place in range(20):  # hover over lines, marks and rows: their labels are drawn then
        page.mouse.move(box["x"] + 100 + 12 * place, box["y"] + 60 + 14 * place)
    assert page.evaluate("() => window.harmed") is None
    assert page.locator(".troupelab-dashboard img").count() == 0
    opened.tell("run.stop()")


def test_a_second_dashboard_gets_no_second_library(notebook: Callable[..., Notebook]) -> None:
    """plotly.js goes out once a page, and a closed dashboard leaves the run alone."""
    shared = "import troupelab as tl\nfrom browser.stand_in import StandInRun\nrun = StandInRun(30, limits=tl.Limits(recent_max_records=20))\none = tl.Dashboard(run)\none"
    opened = notebook("two", [shared, "two = tl.Dashboard(run)\ntwo"])
    page = opened.page
    opened.run_cell(0)
    eventually("the first is drawn", lambda: drawn(page, "memory"))
    opened.tell("run.start()")
    opened.run_cell(1)
    eventually("the second is drawn", lambda: page.locator('[data-panel="memory"] .main-svg').count() >= 4)
    eventually("the first has the library", lambda: opened.ask("one._live.bytes_sent") > 1_000_000)
    assert opened.ask("two._live.bytes_sent") < 500_000
    opened.tell("one.close()")
    eventually("one is left", lambda: page.locator(".troupelab-dashboard").count() == 1)
    assert opened.ask("run.state") == "running"
    opened.tell("run.stop(); two.close()")


@pytest.mark.slow
def test_a_fork_is_made_changed_played_and_compared(notebook: Callable[..., Notebook]) -> None:
    """The fork button shows a second dashboard and the comparison; a slider there changes the fork alone, which plays to its end."""
    opened = notebook(
        "fork",
        [
            "import troupelab as tl\nlab = tl.Lab(steps=40, latency_s=0.02, limits=tl.Limits(recent_max_records=30))\nlab"
        ],
        height=4600,
    )
    page, ask = opened.page, opened.ask
    opened.run_cell(0)
    eventually("the panels are drawn", lambda: drawn(page, "latency"))
    press(page, "Start")
    eventually("it has a past", lambda: ask("lab.run.progress().step") >= 8)
    press(page, "pause")
    eventually("paused", lambda: ask("lab.run.state") == "paused")
    press(page, "fork")
    eventually("there is a fork", lambda: ask("lab.dashboard.fork is not None"))
    below = page.locator(".troupelab-fork")
    eventually(
        "both dashboards are painted",
        lambda: page.locator('[data-panel="memory"] .main-svg').count() >= 4 and points(page, "both bytes") >= 8,
    )
    step = ask("lab.dashboard.fork.forked_at")
    assert step >= 8
    assert below.get_by_text(f"fork from step {step}").first.is_visible()
    assert below.locator("button.widget-button:visible", has_text="fork").count() == 0

    handle = below.get_by_role("slider", name="recent records")
    handle.focus()
    for _ in range(3):  # 25, 20, 15
        page.keyboard.press("ArrowLeft")
    eventually("the fork's cap is another", lambda: ask("lab.dashboard.fork.limits.recent_max_records") == 15)
    assert ask("lab.run.limits.recent_max_records") == 30
    eventually("what differs is told", lambda: below.get_by_text("recent records: 30 → 15 records").is_visible())
    below.locator("button.widget-button", has_text="resume").click()
    eventually("the fork plays to its end", lambda: ask("lab.dashboard.fork.state") == "done")
    assert ask("lab.run.state") == "paused"
    for panel in ("both bytes", "both records"):
        eventually(
            f"the fork's future is in {panel}",
            lambda panel=panel: points(page, panel, f"fork from step {step}") == 40 - step + 1,
        )
        assert points(page, panel, "this run") == step
        notes = " ".join((drawn(page, panel) or {"notes": []})["notes"])
        assert "this run" in notes
        assert f"step {step}" in notes
    assert page.locator('[data-panel="both bytes"] .scatterlayer path').count() >= 3
    opened.tell("lab.run.stop()")
