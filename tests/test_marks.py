"""Marks on the time axes: what is marked and where, what was before and after a change, and that many marks stay calm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser.stand_in import StandInRun
from helpers import eventually, quick_run, sha
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.dashboard.effects import KEPT_STEPS, SPAN
from troupelab.dashboard.live import LivePanels
from troupelab.dashboard.look import bytes_text, count_text, seconds_text
from troupelab.dashboard.marks import LISTED, MAX_MARKS, Drawn, Mark, Marks, drawn
from troupelab.dashboard.panels import Panels
from troupelab.events import Alerted, Event, Forked, LimitChanged, RunChanged, StepDone
from troupelab.telemetry.recorder import Recorder

EVIL = "<img src=x onerror=alert(1)> & $x$"


def told(*events: Event, end_s: float = 100.0, **options: Any) -> list[Drawn]:
    """What is drawn after some events, on an axis of so many seconds, where each step took a second."""
    recorder = Recorder()
    for event in events:
        recorder.emit(event)
    families = {event.family for event in events}
    marks = Marks(**options)
    marks.take({family: recorder.read(family) for family in families})
    return marks.drawn(end_s, float)


def read(run: Any) -> list[Drawn]:
    """The marks of a run's panels now."""
    panels = Panels(run)
    panels.read()
    return list(panels.clock.drawn())


def effect_of(run: tl.Run, field: str) -> str:
    """The hover text of a limit's last change."""
    label = tl.Limits.fields()[field].label
    return next(mark.text for mark in reversed(read(run)) if f": {label}, " in mark.text)


def changed(step: int, at_s: float, *, note: str = "", agents: str = "all", field: str = "recent_max_records") -> Event:
    """A change of a limit that holds from a step on."""
    return LimitChanged(at_s, step - 1, field, agents, 100.0, 50.0, note, "user", 0.1, step)


# ------------------------------------------------------------------ kinds


def test_each_kind_is_marked_at_its_time_with_a_symbol_of_its_own() -> None:
    """Changes, forks, alerts, pauses that say why, what ends them, new lives and what is kept each have a place, words and a sign."""
    found = told(
        changed(12, 12.5),
        Forked(90.0, 20, "recent_max_records=5"),
        Alerted(30.0, 29, "stalled", "Ann has been at the model for 31 s"),
        RunChanged(40.0, 39, "paused", "asked to by the intervention price"),
        RunChanged(52.0, 39, "running", ""),
        RunChanged(60.0, 59, "running", "first it lives through its past again"),
        StepDone(70.0, 69, 69.0, 70.0, 0.0, 4),
        keeps=True,
    )
    assert [(mark.at_s, mark.text.split("<br>")[0]) for mark in found] == [
        (12.5, "<b>limit change</b>: recent records, 100 records → 50 records"),
        (20.0, "<b>fork</b> from step 20"),
        (30.0, "<b>alert</b>: stalled, step 29"),
        (40.0, "<b>pause</b>"),
        (52.0, "<b>resume</b> after a pause of 12 s"),
        (60.0, "<b>new life</b>"),
        (70.0, "<b>kept up to here</b>"),
    ]
    assert len({(mark.symbol, mark.color) for mark in found}) == len(found)
    assert [mark.foot for mark in found] == [False] * 6 + [True]
    assert "with recent_max_records=5" in found[1].text
    assert "asked to by the intervention price" in found[3].text


def test_pauses_that_say_nothing_are_not_marked_and_a_guardrails_is_its_alert() -> None:
    """A start in a pause and a pause after some steps are no marks; of a guardrail's pause and its alert one stays, in either order."""
    silent = [RunChanged(1.0, -1, "paused", ""), RunChanged(2.0, -1, "running", "")]
    asked = [RunChanged(3.0, 0, "paused", "after step 0"), RunChanged(4.0, 0, "running", "")]
    assert told(*silent, *asked) == []
    sentence = "the run is paused: 1,000 tokens are spent; raise max_tokens and it goes on"
    pause, alert = RunChanged(5.0, 3, "paused", "max_tokens: 1,000 tokens"), Alerted(5.001, 3, "max_tokens", sentence)
    for batches in ([[pause, alert]], [[pause], [alert]], [[alert], [pause]]):
        marks, recorder = Marks(), Recorder()
        for batch in batches:
            seen = {event.family: recorder.count(event.family) for event in batch}
            for event in batch:
                recorder.emit(event)
            marks.take({family: recorder.read(family, since) for family, since in seen.items()})
        (only,) = marks.drawn(100.0, float)
        assert only.text.startswith("<b>alert</b>: max_tokens")


def test_a_run_that_lost_its_journal_is_kept_no_further() -> None:
    """What ends after the journal was full does not move the mark, and what cannot be forked has none."""
    steps = [StepDone(float(step + 1), step, float(step), float(step + 1), 0.0, 4) for step in range(9)]
    full = Alerted(4.5, 4, "journal_max_bytes", "the journal is full")
    assert "step 3 is over" in told(*steps, full, keeps=True)[-1].text
    assert all("kept" not in mark.text for mark in told(*steps))


def test_texts_of_users_and_models_cannot_become_markup() -> None:
    """Notes, names, reasons and alerts are escaped, and long ones are shortened and wrapped."""
    found = told(
        changed(2, 10.0, note=EVIL + "x" * 5000, agents=EVIL),
        Alerted(30.0, 1, EVIL, EVIL * 100),
        RunChanged(60.0, 1, "paused", EVIL),
        Forked(80.0, 80, EVIL),
    )
    assert len(found) == 4
    for mark in found:
        assert "<img" not in mark.text
        assert "$" not in mark.text
        assert "&lt;img" in mark.text
        assert len(mark.text) < 2500
        assert max(map(len, mark.text.split("<br>"))) < 300


def test_a_real_run_marks_its_pauses_its_new_life_and_how_far_it_is_kept(tmp_path: Path) -> None:
    """A guardrail's alert, an intervention's pause, and after a resumption the end of the earlier life are where they happened."""

    def hold(run: tl.Run) -> None:
        run.pause()

    calm = tl.Intervention(hold, at=2)
    run = quick_run(steps=8, folder=tmp_path, interventions=[calm]).start()
    run.wait(30, until="paused")
    texts = [mark.text for mark in read(run)]
    assert any("asked to by the intervention hold" in text for text in texts)
    run.stop()
    run.wait(30)
    lived_s = run.frames.acts.at_s.max()
    again = tl.Run.resume(tmp_path, interventions=[calm]).start().wait(30)
    marks = read(again)
    (life,) = [mark for mark in marks if "<b>new life</b>" in mark.text]
    assert life.at_s >= min(lived_s, again.frames.acts.at_s.max())
    assert life.at_s <= again.frames.acts.query("step >= 3").start_s.min()
    assert marks[-1].foot
    assert "step 7 is over for everybody" in marks[-1].text
    assert marks[-1].at_s == again.frames.steps.end_s.max()


def test_a_fork_is_marked_on_its_parent_and_changes_nothing_in_it() -> None:
    """The parent tells of the fork at the step where they part, as a row of `forks`; transcript, journal and determinism stay."""
    run = quick_run(steps=6).start().wait(30)
    before = sha(run), str(run.deterministic), run.frames.runs.shape
    fork = run.fork({"recent_max_records": 5}, at_step=4).start().wait(30)
    again = run.fork(at_step=4).start().wait(30)
    assert (sha(run), str(run.deterministic), run.frames.runs.shape) == before
    assert sha(again) == sha(run) != sha(fork)
    assert run.frames.forks[["step", "changed"]].values.tolist() == [[4, "recent_max_records=5"], [4, ""]]
    assert len(fork.frames.forks) == len(again.frames.forks) == 0
    parted_s = run.frames.acts.query("step < 4").end_s.max()
    (mark,) = [mark for mark in read(run) if "fork" in mark.text and not mark.foot]
    assert mark.at_s == parted_s
    assert mark.text.count("<b>fork</b> from step 4") == 2
    (own,) = [mark for mark in read(fork) if not mark.foot and "limit change" not in mark.text.split("<br><br>")[0]]
    assert own.at_s == pytest.approx(parted_s)


# ------------------------------------------------------------------ before and after


def sides(run: tl.Run, before: range, after: range) -> list[dict[str, float]]:
    """What pandas says of the steps on both sides of a change."""
    frames, found = run.frames, []
    for steps in (before, after):
        memory = frames.memory[frames.memory.step.isin(steps)].groupby("step")
        acts = frames.acts[frames.acts.step.isin(steps)]
        calls = frames.calls[frames.calls.step.isin(steps) & ~frames.calls.cached & (frames.calls.error == "")]
        found.append(
            {
                "bytes": memory.total_bytes.sum().mean(),
                "records": memory.recent_records.sum().mean(),
                "notes": memory.notes.sum().mean(),
                "p50": calls.latency_s.quantile(0.5),
                "p95": calls.latency_s.quantile(0.95),
                "rate": len(acts) / (acts.end_s.max() - acts.start_s.min()),
            }
        )
    return found


def lines_of(both: list[dict[str, float]]) -> list[str]:
    """The numbers as a hover text writes them."""
    words: dict[str, tuple[str, Callable[[float], str]]] = {
        "bytes": ("memory, all agents", bytes_text),
        "records": ("recent records", count_text),
        "notes": ("notes", count_text),
        "p50": ("latency p50", seconds_text),
        "p95": ("latency p95", seconds_text),
        "rate": ("acts/s", count_text),
    }
    one, two = both
    return [f"{word} {write(one[key])} → {write(two[key])}" for key, (word, write) in words.items()]


def test_what_was_before_and_after_a_change_is_what_the_frames_say() -> None:
    """Bytes, records, notes, latency and acts a second of three steps before and after equal those that pandas computes."""
    run = quick_run(steps=14, model=tl.ScriptedModel(7, latency_s=0.01))
    run.step(7)
    run.wait(30, until="paused")
    run.limits.update(recent_max_records=5, note="smaller")
    run.resume()
    run.wait(30)
    text = effect_of(run, "recent_max_records")
    assert "effective from step 7" in text
    assert "3 steps before → 3 steps after:" in text
    for line in lines_of(sides(run, range(4, 7), range(7, 10))):
        assert line in text
    assert "text kept" not in text or "%" in text
    assert text.index("memory, all agents") < text.index("latency p50")


def test_a_limit_of_calls_tells_of_calls_first_and_leaves_out_the_step_in_between() -> None:
    """A change that holds at once is compared from the next step on, and a pause meanwhile is no time of the acts."""
    run = quick_run(steps=12, model=tl.ScriptedModel(7, latency_s=0.01))
    run.step(6)
    run.wait(30, until="paused")
    run.limits.update(max_concurrency=1)
    run.step(2)
    run.wait(30, until="paused")
    assert "2 steps before" not in effect_of(run, "max_concurrency")
    assert "3 steps before → 2 steps after so far:" in effect_of(run, "max_concurrency")
    held_s = run.now_s()
    run.resume()
    run.wait(30)
    text = effect_of(run, "max_concurrency")
    both = sides(run, range(2, 5), range(6, 9))
    acts = run.frames.acts.query("6 <= step < 9")
    paused = run.frames.runs
    resumed_s = paused.query("state == 'running'").at_s.max()
    since_s = paused.query("state == 'paused'").at_s.max()
    assert since_s <= held_s <= resumed_s
    both[1]["rate"] = len(acts) / (acts.end_s.max() - acts.start_s.min() - (resumed_s - since_s))
    for line in lines_of(both):
        assert line in text
    assert text.index("acts/s") < text.index("latency p50") < text.index("memory, all agents")


def test_a_mark_grows_until_its_steps_are_over_and_then_stays() -> None:
    """With the first step after it a mark tells so far, at the third it is settled, and what is kept for it goes."""
    run = StandInRun(4)
    panels = Panels(run)
    seen = []
    for number in range(4 * 60):
        run.act(number / 100)
        if number == 4 * 10 - 1:
            run._begun = 1e-9
            run.recorder.emit(changed(10, number / 100))
        if number % 4 == 3:
            panels.read()
            seen.append(next((mark.text for mark in panels.clock.drawn()), ""))
    assert "→" not in seen[9].split("changed by")[1]
    for step, words in (
        (10, "3 steps before → 1 step after so far:"),
        (11, "2 steps after so far:"),
        (12, "3 steps after:"),
    ):
        assert words in seen[step]
    assert len(set(seen[12:])) == 1
    sums = panels.clock._marks._sums
    assert max(len(sums._calls), len(sums._kept)) <= KEPT_STEPS + 1
    assert 10 - SPAN not in sums._calls


def test_a_dashboard_that_comes_late_tells_the_same() -> None:
    """Whether the events were taken in one by one or all at once, every mark says the same."""
    run = StandInRun(4)
    run.limits.bind(None)
    early = Panels(run)
    for number in range(4 * 50):
        run.act(number / 100)
        if number % 40 == 7:
            run.recorder.emit(changed(number // 4 + 1, number / 100))
        if number % 5 == 0:
            early.read()
    early.read()
    assert list(early.clock.drawn()) == read(run)
    assert sum("→ 3 steps after:" in mark.text for mark in read(run)) >= 4


# ------------------------------------------------------------------ many


@given(
    st.lists(st.floats(0, 100), max_size=300),
    st.floats(0.01, 30),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_marks_none_is_lost_and_none_stands_on_another(times: list[float], apart_s: float) -> None:
    """Every mark is in exactly one that is drawn, these are in order and apart, and few lines are told of many."""
    marks = [Mark("alert", at_s, f"mark {number};") for number, at_s in enumerate(times)]
    found = drawn(marks, apart_s)
    at = [mark.at_s for mark in found]
    assert all(later - earlier >= apart_s for earlier, later in pairwise(at))
    assert len(found) <= 100 / apart_s + 1
    assert set(at) <= set(times)
    count = 0
    for mark in found:
        named = sum(f"mark {number};" in mark.text for number in range(len(times)))
        more = mark.text.split("<br>")[-1]
        left_out = int(more.split()[1]) if more.startswith("and ") else 0
        assert named <= LISTED
        count += named + left_out
    assert count == len(times)
    text = "".join(mark.text for mark in found)
    assert all(text.count(f"mark {number};") <= 1 for number in range(len(times)))


def test_many_changes_stay_calm() -> None:
    """Of five hundred changes the newest two hundred are kept, fewer than ninety lines are drawn, and no text is long."""
    found = told(*[changed(step, step / 10) for step in range(1, 501)], end_s=50.0)
    assert len(found) < 90
    assert min(mark.at_s for mark in found) == pytest.approx(50 - (MAX_MARKS - 1) / 10)
    assert max(mark.text.count("<br>") for mark in found) <= LISTED + 1


class Wire(LivePanels):
    """The live widget, with a record of what it sent, and a page that draws at once."""

    def __init__(self) -> None:
        self.heads: list[dict[str, Any]] = []
        super().__init__()

    def send(self, content: Any, buffers: Any = None) -> None:
        """Keep it instead."""
        self.heads.append(content)
        self._heard(self, {"kind": "ack", "view": "page", "seq": content.get("seq", -1)}, [])


def test_the_texts_of_marks_go_to_the_page_once_and_only_what_is_new() -> None:
    """A hundred marks cost the page their texts once for all panels; a new one costs itself, and nothing new costs nothing."""
    run = StandInRun(12)
    panels, wire = Panels(run), Wire()
    for number in range(2400):
        run.act(number / 100)
        if number % 24 == 0:
            run.recorder.emit(
                changed(number // 12 + 2, number / 100, note=f"note {number} of some length, as one writes")
            )
    panels.read()
    wire._heard(wire, {"kind": "ready", "view": "page", "library": True}, [])
    assert wire.send_frame(panels)
    (head,) = wire.heads
    rows = head["marks"]["rows"]
    assert head["marks"]["start"] == 0
    assert len(rows) > 30
    text = json.dumps(head)
    assert all(text.count(json.dumps(row.text)) == 1 for row in rows)
    assert not wire.send_frame(panels)
    run.recorder.emit(Alerted(23.99, 1, "price", "not known"))
    run.recorder.emit(Alerted(23.995, 1, "price", "not known"))
    panels.read()
    assert wire.send_frame(panels)
    assert len(wire.heads[-1]["marks"]["rows"]) <= 2
    assert all(put["trace"] is not None for panel in wire.heads[-1]["panels"].values() for put in panel["puts"])
    assert math.isclose(rows[-1].at_s, list(panels.clock.drawn())[len(rows) - 1].at_s)


def test_what_is_sent_of_marks_bit_by_bit_is_what_is_sent_at_once() -> None:
    """A page that got only differences has the same marks as one that got all at the end."""
    run = StandInRun(4)
    panels = Panels(run)
    rows: list[Drawn] = []
    for number in range(1200):
        run.act(number / 50)
        if number % 61 == 5:
            run.recorder.emit(changed(number // 4 + 1, number / 50))
        if number % 7 == 0 or number == 1199:
            panels.read()
            if (new := panels.marks()) is not None:
                rows[new[0] :] = new[1]
    assert panels.marks() is None
    assert panels.marks(everything=True) == (0, rows)


def test_a_fork_button_marks_the_parent_in_its_dashboard(dashboard: Callable[[Any], Any]) -> None:
    """After a press of the button the run's own panels have the fork's mark."""
    run = quick_run(steps=6)
    run.step(2)
    run.wait(30, until="paused")
    shown = dashboard(run)
    eventually("it can be pressed", lambda: not shown._header.buttons["fork"].disabled)
    shown._header.buttons["fork"].click()
    eventually("there is a fork", lambda: shown.fork)
    eventually(
        "its mark is there",
        lambda: any("<b>fork</b> from step 2" in mark.text for mark in shown._panels.clock.drawn()),
    )


def test_static_figures_have_the_marks_too() -> None:
    """A figure that is saved has a line with a symbol at its top for each mark, and on the axis what is kept."""
    run = quick_run(steps=4).start().wait(30)
    panels = Panels(run)
    panels.read()
    line = panels.memory.filled().data[-1]
    assert line.marker.symbol.tolist() == [5, 5]
    assert line.marker.size.tolist() == [7, 0]
    assert line.y[0] == 0
    assert np.isnan(line.y[1])
    assert line.x[0] == pd.Series(run.frames.steps.end_s).max()
