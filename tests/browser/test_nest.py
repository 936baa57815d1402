"""A run with `nest=True` in a real JupyterLab: a tool calls asyncio.run while it plays, and the sliders answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from browser.jupyter import points
from helpers import eventually

if TYPE_CHECKING:
    from browser.jupyter import Notebook

pytestmark = pytest.mark.slow

CELLS = (
    """
import asyncio, json
import troupelab as tl
from troupelab.models.model import Reply

async def price_of(count):
    await asyncio.sleep(0.03)  # as a library does that asks a service
    await asyncio.to_thread(lambda: None)
    return f"{count} loaves cost {3 * count}"

class Baker:
    name = "baker"
    used = 0

    async def complete(self, request):
        await asyncio.sleep(0.005)
        found = asyncio.run(price_of(request.step))
        Baker.used += 1
        acts = [{"type": "THINK", "content": found, "target": ""}, {"type": "DONE", "content": "", "target": ""}]
        answer = {"actions": acts, "cognitive_state": {"goals": "", "context": [], "attention": "", "emotions": ""}}
        return Reply(json.dumps(answer), 1, 1, 0.0, self.name)

run = tl.Run("product_launch", Baker(), steps=10_000, seed=7, nest=True, limits=tl.Limits(recent_max_records=30))
dashboard = tl.Dashboard(run)
run.start()
dashboard
""",
    """
import time
began = time.monotonic()
while time.monotonic() < began + 3:
    time.sleep(0.02)
ended = time.monotonic()
print("the cell", "is over")
""",
)


def test_a_tool_calls_asyncio_run_while_sliders_answer(notebook: Callable[..., Notebook]) -> None:
    """The limit follows the slider during nested runs, and while a cell blocks; what the tool found is in the transcript; the kernel goes on."""
    opened = notebook("nest", CELLS)
    page, ask = opened.page, opened.ask
    opened.run_cell(0)
    eventually("the panels fill", lambda: points(page, "memory") >= 8 and points(page, "latency") >= 8)
    assert ask("(run.state, run.frames.alerts['kind'].tolist())") == ("running", ["nest"])
    handle = page.get_by_role("slider", name="recent records")

    def press_thrice() -> None:
        handle.focus()
        for _ in range(3):
            page.keyboard.press("ArrowLeft")

    press_thrice()  # 25, 20, 15
    eventually("the new cap is accepted", lambda: ask("run.limits.recent_max_records") == 15)
    eventually("the note tells the step", lambda: page.get_by_text("effective at step").is_visible())
    effective = ask("int(run.recorder.read('limits').columns['effective_step'][-1])")
    beyond = f"(lambda rows: rows['recent_records'][rows['step'] > {effective}].tolist())(run.recorder.read('memory').columns)"
    eventually("steps under the new cap", lambda: len(ask(beyond)) > 40)
    assert max(ask(beyond)) <= 15

    cell = opened.run_cell(1)
    eventually("the cell blocks", lambda: cell.locator(".jp-InputPrompt").inner_text().strip() == "[*]:")
    press_thrice()  # 12, 10, 8 or whichever are next: on a subshell, while the kernel's own thread is busy
    eventually("it is answered", lambda: handle.get_attribute("aria-valuetext") != "15")
    shown = handle.get_attribute("aria-valuetext")
    eventually("the cell is over", lambda: cell.get_by_text("the cell is over").is_visible())
    assert str(ask("run.limits.recent_max_records")) == shown
    assert ask("began < run.limits.log[-1].requested_at < ended")
    asked = (
        "[bool(asyncio._get_running_loop() and hasattr(asyncio._get_running_loop(), '_nest_patched')), Baker.used > 40]"
    )
    assert ask(asked) == [False, True]

    opened.tell("run.stop(); run.wait(30)")
    assert ask("run.state") == "stopped"
    told = "{(step, content) for step, content in zip(*(run.transcript()[name] for name in ('step', 'content')))}"
    found = ask(f"sorted((int(step), str(content)) for step, content in {told})")
    assert len(found) > 5
    assert found == [(step, f"{step} loaves cost {3 * step}") for step in range(len(found))]
    assert ask("len(run.frames.errors)") == 0
