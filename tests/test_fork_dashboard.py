"""A fork beside its run: in one frame, and in the dashboard; alerts; and a lab that goes on with what is in a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser.stand_in import StandInRun
from helpers import eventually, quick_run

import troupelab as tl
from troupelab.compare import side_by_side
from troupelab.dashboard.comparison import Comparison, differences
from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.lab import Lab
from troupelab.dashboard.panels import Panels
from troupelab.errors import InputError
from troupelab.events import Alerted, RunChanged, StepDone

EXACT = ["step", "agent", "recent_records", "recent_bytes", "archive_records", "notes", "note_bytes"]
"""What is the same in a past that is lived through again, to the last digit."""


COMPARED = ("total_bytes", "recent_records", "notes", "p50_s", "tokens", "cost_usd")


def by_step(run: tl.Run, column: str) -> pd.Series[float]:
    """What pandas says that a run's steps came to, of what is compared."""
    frames = run.frames
    if column in frames.memory:
        return frames.memory.groupby("step")[column].sum()
    calls = frames.calls[frames.calls.step >= 0]
    if column == "p50_s":
        return calls[~calls.cached & (calls.error == "")].groupby("step").latency_s.median()
    return calls.assign(tokens=calls.tokens_in + calls.tokens_out).groupby("step")[column].sum()


def paused_after(step: int, *, steps: int = 12, **options: Any) -> tl.Run:
    """A run that has played some steps and is paused."""
    run = quick_run(steps=steps, **options)
    run.step(step)
    return run.wait(30, until="paused")


def press_fork(shown: Dashboard) -> tl.Run:
    """Press the button, and wait for another fork than the one that is shown."""
    before = shown.fork
    eventually("the button can be pressed", lambda: not shown._header.buttons["fork"].disabled)
    shown._header.buttons["fork"].click()
    fork: tl.Run = eventually("there is a fork", lambda: shown.fork is not before and shown.fork)
    return fork


# ------------------------------------------------------------------ one frame


def test_two_runs_of_one_past_are_alike_before_the_fork_and_differ_after() -> None:
    """Side by side, the rows of memory below the fork's step are the same, and with another limit those above are not."""
    run = quick_run(steps=10).start().wait(30)
    fork = run.fork({"recent_max_records": 5}, at_step=4).start().wait(30)
    both = side_by_side(run, fork)
    assert list(both.columns) == ["run", *run.frames.memory.columns]
    assert both["run"].cat.categories.tolist() == ["run", "fork at step 4"]
    assert both["agent"].dtype == run.frames.memory["agent"].dtype

    def sizes(name: str, past: bool) -> pd.DataFrame:
        rows = both[(both["run"] == name) & ((both.step < 4) == past)][EXACT]
        return rows.sort_values(["step", "agent"]).reset_index(drop=True)

    pd.testing.assert_frame_equal(sizes("run", True), sizes("fork at step 4", True))
    after = [sizes(name, False) for name in ("run", "fork at step 4")]
    assert len(after[0]) == len(after[1]) > 0
    assert (after[0]["recent_records"] > after[1]["recent_records"]).any()
    assert after[1]["recent_records"].max() <= 5


def test_runs_side_by_side_have_names_of_their_own() -> None:
    """Runs that would be called the same are numbered, a mapping names them, and what does not exist is refused."""
    run = quick_run(steps=3).start().wait(30)
    forks = [run.fork(at_step=1).start().wait(30) for _ in range(2)]
    names = side_by_side(run, *forks, run, family="acts")["run"].cat.categories.tolist()
    assert names == ["run", "fork at step 1", "fork at step 1 (2)", "run (2)"]
    named = side_by_side({"wide": run, "narrow": forks[0]}, family="dedups")
    assert named["run"].cat.categories.tolist() == ["wide", "narrow"]
    assert named.attrs == {"rows_lost": 0}
    with pytest.raises(InputError, match="memory"):
        side_by_side(run, family="memories")
    with pytest.raises(InputError, match="at least one run"):
        side_by_side()


# ------------------------------------------------------------------ the panels


def test_the_comparison_shows_the_sums_of_both_runs_after_each_step() -> None:
    """Each line is the sum over all agents, the fork's from the last shared step on; the mark stands at the fork's step."""
    run = quick_run(steps=10).start().wait(30)
    fork = run.fork({"recent_max_records": 5}, at_step=4).start().wait(30)
    comparison = Comparison(run, fork)
    assert all(panel.empty for panel in comparison)
    comparison.read()
    for panel, column in zip(comparison, COMPARED, strict=True):
        figure = panel.filled()
        mark, one, other = figure.data
        if panel.empty:
            assert panel.name == "both costs"
            assert [note.text for note in figure.layout.annotations] == ["no call has cost anything so far"]
            assert all(len(line.x) == 0 for line in figure.data)
            assert by_step(run, column).sum() == 0
            continue
        for line, each, since in ((one, run, 1), (other, fork, 4)):
            sums = by_step(each, column).loc[since - 1 : 9]
            assert line.x.tolist() == [step + 1 for step in sums.index]
            np.testing.assert_allclose(line.y, sums.to_numpy(), rtol=1e-6)
        assert mark.x.tolist() == [4, 4]
        assert figure.layout.xaxis.title.text == "steps played"
        told = [note.text for note in figure.layout.annotations]
        assert any("this run" in text for text in told)
        assert any("fork from step 4" in text.replace("<br>", " ") for text in told)
        assert tuple(figure.layout.xaxis.range) == (0, 10)
        if panel.name in ("both bytes", "both records"):
            assert one.y[3] == other.y[0]
            assert other.y[-1] != one.y[-1]
    assert comparison.changes()
    assert comparison.changes() == {}
    assert "recent records: 100 → 5 records" in differences(run, fork)
    assert differences(run, run) == "all limits are the same so far"


def test_a_fork_is_a_mark_on_the_time_axis_of_its_panels() -> None:
    """Every panel of a fork has a mark where the shared past ends, and so has every panel of the run that it left."""
    run = quick_run(steps=4).start().wait(30)
    fork = run.fork(at_step=2).start().wait(30)
    ended = run.frames.acts.query("step < 2").end_s.max()
    for each, places in ((run, {ended}), (fork, {ended})):
        panels = Panels(each)
        panels.read()
        for panel in panels:
            mark = next(shape for shape in panel.filled().data if shape.name == "limit change")
            lines = [place for place, text in enumerate(mark.text) if "kept up to here" not in text]
            assert sorted(set(mark.x[lines].tolist())) == pytest.approx(sorted(places), rel=1e-5)
            assert all("fork</b> from step 2" in mark.text[line] for line in lines)


# ------------------------------------------------------------------ the dashboard


def test_the_fork_button_shows_a_paused_fork_below_and_a_new_one_takes_its_place(
    dashboard: Callable[[Any], Dashboard],
) -> None:
    """One press makes a fork of a paused run and its dashboard; a second stops that fork and shows another in its place."""
    run = paused_after(3)
    shown = dashboard(run)
    assert shown.fork is None
    first = press_fork(shown)
    assert (first.forked_at, first.state, run.state) == (3, "paused", "paused")
    below = shown._forks._dashboard
    assert below is not None
    assert below.run is first
    assert below._header.buttons["fork"].layout.display == "none"
    eventually("it says what it is", lambda: "fork from step 3" in below._header.title.value)
    eventually("it shows the past", lambda: first.progress().acts_done == run.progress().acts_done)
    below._controls.by_name["recent_max_records"].slider.value = 5
    eventually("what differs is told", lambda: "recent records: 100 → 5 records" in shown._forks._beside._heading.value)
    assert run.limits.recent_max_records == 100

    run.step(2)
    run.wait(30, until="paused")
    second = press_fork(shown)
    assert second.forked_at == 5
    assert first.wait(30).state == "stopped"
    assert shown._forks._dashboard is below
    assert below.run is second
    below._header.buttons["resume"].click()
    assert second.wait(30).state == "done"
    assert run.state == "paused"


def test_a_stopped_run_can_be_forked_and_one_that_is_done_cannot(dashboard: Callable[[Any], Dashboard]) -> None:
    """The button is able where steps are left; where none is, and before the start, its tooltip says why it is not."""
    run = paused_after(2)
    run.stop()
    run.wait(30)
    shown = dashboard(run)
    fork = press_fork(shown)
    assert fork.forked_at == 2
    button = shown._header.buttons["fork"]
    done = quick_run(steps=2).start().wait(30)
    shown.attach(done)
    eventually("the fork goes with its run", lambda: shown.fork is None and fork.state == "stopped")
    eventually("it cannot be pressed", lambda: button.disabled)
    assert "all steps have been played" in button.tooltip
    shown.attach(quick_run())
    eventually("it says why", lambda: button.disabled and "has not begun" in button.tooltip)


def test_what_a_fork_is_refused_for_is_shown_as_a_sentence(dashboard: Callable[[Any], Dashboard]) -> None:
    """Where no step is left when the button's wish comes to be heard, the dashboard says so and shows no fork."""
    shown = dashboard(quick_run(steps=2).start().wait(30))
    shown._header.buttons["fork"].click()
    eventually("it says so", lambda: "no step is left to play" in shown._header.said.value)
    assert shown.fork is None


def test_closing_frees_the_forks_dashboard_too() -> None:
    """After close there is no thread and no widget of either dashboard, and the runs go on."""
    import ipywidgets

    run = paused_after(2)
    before, threads = set(ipywidgets.widgets.widget._instances), set(threading.enumerate())
    shown = Dashboard(run)
    fork = press_fork(shown)
    shown.close()
    left = {thread.name for thread in set(threading.enumerate()) - threads}
    assert "troupelab-dashboard" not in left
    assert set(ipywidgets.widgets.widget._instances) - before == set()
    assert (run.state, fork.state) == ("paused", "paused")
    for each in (run, fork):
        each.stop(now=True)
        each.wait(30)


# ------------------------------------------------------------------ two runs


def lines(shown: Dashboard) -> dict[str, Any]:
    """The lines of a dashboard's comparison, by panel."""
    comparison = shown._beside._comparison
    assert comparison is not None
    return {panel.name: panel.filled().data[1:] for panel in comparison}


def test_two_runs_of_any_length_are_compared_and_named_by_what_sets_them_apart() -> None:
    """Both lines are drawn whole, without a mark; the other is called by its limit, and both sums are those of the frames."""
    wide = quick_run(steps=9).start().wait(30)
    tight = quick_run(steps=5, limits=tl.Limits(recent_max_records=8)).start().wait(30)
    comparison = Comparison(wide, tight)
    comparison.read()
    assert comparison.pair.names == ("this run", "recent records: 8 records")
    for panel, column in zip(comparison, COMPARED, strict=True):
        mark, *both = panel.filled().data
        assert len(mark.x) == 0
        for line, run in zip(both, (wide, tight) if not panel.empty else (), strict=not panel.empty):
            np.testing.assert_allclose(line.y, by_step(run, column).loc[: run.steps - 1].to_numpy(), rtol=1e-6)
            assert line.x.tolist() == list(range(1, run.steps + 1))


def test_a_fork_beside_the_run_that_it_left_says_so() -> None:
    """Shown from the fork's side, it is the fork that is this run, and the common past is drawn once as well."""
    run = quick_run(steps=6).start().wait(30)
    fork = run.fork({"recent_max_records": 5}, at_step=3).start().wait(30)
    comparison = Comparison(fork, run)
    comparison.read()
    assert comparison.pair.names == ("this fork, from step 3", "the run it left")
    records = next(panel for panel in comparison if panel.name == "both records").filled().data
    assert records[1].x.tolist() == [1, 2, 3, 4, 5, 6]
    assert records[2].x.tolist() == [3, 4, 5, 6]


def test_a_fork_of_another_run_has_no_common_past() -> None:
    """Beside a run that it did not leave, and that remembered other things, a fork is drawn from its first step on."""
    run = quick_run(steps=5).start().wait(30)
    other = quick_run(steps=5, limits=tl.Limits(recent_max_records=5)).start().wait(30)
    fork = other.fork({"recent_max_records": 80}, at_step=4).start().wait(30)
    comparison = Comparison(run, fork)
    comparison.read()
    assert comparison.pair.parted == -1
    assert comparison.pair.names == ("this run", "recent records: 80 records")


def test_compare_shows_another_run_and_takes_it_away_again(dashboard: Callable[[Any], Dashboard]) -> None:
    """A run can be put beside the one that is shown at any time, another in its place, and none; itself it cannot be."""
    run, other = paused_after(3), quick_run(steps=3, limits=tl.Limits(recent_max_records=9)).start().wait(30)
    shown = dashboard(run)
    hidden = shown._beside.box.layout
    assert hidden.display == "none"
    shown.compare(other)
    eventually("it is shown", lambda: hidden.display is None)
    eventually("what differs is told", lambda: "100 → 9 records" in shown._beside._heading.value)
    eventually("both are drawn", lambda: [len(line.y) for line in lines(shown)["both records"][:2]] == [3, 3])
    run.step(2)
    run.wait(30, until="paused")
    eventually("it grows", lambda: len(lines(shown)["both records"][0].y) == 5)
    with pytest.raises(InputError, match="another run"):
        shown.compare(run)
    shown.compare(None)
    eventually("it is gone", lambda: hidden.display == "none" and shown._beside._comparison is None)


def test_two_dashboards_on_one_run_come_and_go_and_compare_at_any_time(dashboard: Callable[[Any], Dashboard]) -> None:
    """Each has a cursor of its own: both hold the same, one closes or moves to another run, and the run does not know of it."""
    run = paused_after(3)
    fork = run.fork({"recent_max_records": 5}).start().wait(30)
    first, second = dashboard(run), Dashboard(run, compare=fork)
    eventually("the fork is beside it", lambda: second._beside._comparison is not None)

    def held(shown: Dashboard) -> int:
        return 0 if shown._panels is None else shown._panels.feed._next["acts"]

    eventually("both hold all", lambda: held(first) == held(second) == run.recorder.count("acts"))
    assert first._beside._comparison is None
    second.attach(fork)
    first.compare(fork)
    eventually("a run is not beside itself", lambda: second._beside._comparison is None)
    eventually("but beside the other", lambda: first._beside._comparison is not None)
    second.attach(run)
    eventually("again beside it", lambda: second._beside._comparison is not None)
    second.close()
    run.step(1)
    run.wait(30, until="paused")
    eventually("the first goes on", lambda: held(first) == run.recorder.count("acts") == 4 * len(run.agent_names))


# ------------------------------------------------------------------ alerts


def listed(shown: Dashboard) -> str:
    """The rows of the alerts tab that are seen."""
    return "".join(slot.text.value for slot in shown._tabs["alerts"]._slots if slot.box.layout.display != "none")


def test_an_alert_of_a_stalled_agent_is_shown_until_its_step_is_over(dashboard: Callable[[Any], Dashboard]) -> None:
    """Its sentence stands below the header and in the list of alerts, and leaves the header when the step is done."""
    run = StandInRun(4)
    shown = dashboard(run)
    run.recorder.emit(RunChanged(0.0, 0, "running", ""))
    sentence = "Ann <b> has been at the model for 31 s in step 2; whoever need not wait goes on"
    run.recorder.emit(Alerted(33.0, 2, "stalled", sentence))
    eventually(
        "it is said",
        lambda: "31 s in step 2" in shown._header.said.value and "Ann &lt;b&gt;" in shown._header.said.value,
    )
    shown._tabs.open("alerts")
    eventually(
        "it is listed",
        lambda: "31 s in step 2" in listed(shown) and "<b>stalled</b>" in listed(shown),
    )
    assert shown._tabs.box.get_title([tab.name for tab in shown._tabs.tabs].index("alerts")) == "alerts (1)"
    run.recorder.emit(StepDone(40.0, 2, 0.0, 40.0, 0.0, 4))
    eventually("it is over", lambda: shown._header.said.value == "")
    assert "31 s in step 2" in listed(shown)
    run.recorder.emit(Alerted(50.0, 3, "price", "the price is not known"))
    eventually("the next is said", lambda: "the price is not known" in shown._header.said.value)
    shown.attach(StandInRun(3))
    eventually(
        "it goes with its run",
        lambda: shown._header.said.value == "" and shown._tabs["alerts"].rows.value.startswith("<p>"),
    )


def test_a_free_order_that_is_none_is_told(dashboard: Callable[[Any], Dashboard]) -> None:
    """In a world in which everyone hears everyone, the run's alert about its order is shown."""
    run = quick_run(order="free")
    shown = dashboard(run)
    shown._header.buttons["start"].click()
    run.wait(30)
    eventually("it is said", lambda: "no order waits less than lockstep" in shown._header.said.value)


# ------------------------------------------------------------------ the lab


def test_the_lab_keeps_a_run_in_a_folder_and_goes_on_with_it(tmp_path: Path) -> None:
    """A folder without a run is where the next is kept; of one that holds a run the button says that it goes on with it."""
    folder = tmp_path / "kept"
    lab = Lab(steps=12, latency_s=0.02)
    try:
        lab._order.value = "free"
        lab._folder.value = str(folder)
        assert lab._button.description == "Start"
        assert not folder.exists()
        first = lab.start()
        assert (first.folder, first._options.order) == (folder, "free")
        eventually("it has come some way", lambda: first.progress().step > 3)
        first.stop()
        first.wait(30)
    finally:
        lab.close()
    again = Lab(world="classroom_debate")
    try:
        for typing in ("~no such one", "x" * 5000, str(tmp_path)):
            again._folder.value = typing
            assert again._button.description == "Start"
        again._folder.value = str(folder)
        assert again._button.description == "Continue"
        assert again._world.disabled
        second = again.start()
        assert again.dashboard.run is second
        assert (second.name, second.steps) == (first.name, 12)
        assert second.wait(60).state == "done"
        assert len(second.transcript()) > len(first.transcript())
        again._folder.value = ""
        assert not again._world.disabled
    finally:
        again.close()


def test_the_lab_refuses_an_order_that_does_not_exist() -> None:
    """An unknown order is refused by the names of those that there are."""
    with pytest.raises(InputError, match="lockstep, free"):
        Lab(order="random")  # type: ignore[arg-type]


def test_what_a_folder_is_refused_for_is_shown_as_a_sentence(tmp_path: Path) -> None:
    """A run that is open elsewhere, or one that needs its model given again, is refused in the words of the error."""

    class Mine(tl.ScriptedModel):
        """A model of one's own."""

    open_one = quick_run(folder=tmp_path / "open")
    open_one.step(1)
    quick_run(folder=tmp_path / "mine", model=Mine(7, latency_s=0.0), steps=2).start().wait(30)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.sqlite").write_bytes(b"no database at all" * 100)
    lab = Lab(steps=2)
    try:
        shown = lab.run
        for name, words in (("open", "open"), ("mine", "give it again"), ("other", "run.sqlite")):
            lab._folder.value = str(tmp_path / name)
            lab._button.click()
            assert words in lab.dashboard._header.said.value
            assert lab.run is shown
    finally:
        lab.close()
        open_one.stop(now=True)
        open_one.wait(30)
    mine = Lab(model=Mine(7, latency_s=0.0), folder=tmp_path / "mine")
    try:
        assert mine._button.description == "Continue"
        assert mine.start().wait(30).state == "done"
    finally:
        mine.close()
