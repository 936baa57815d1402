"""The dashboard without a browser: what panels draw, what is sent, what controls do, and what closing leaves behind."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from browser.stand_in import StandInRun
from helpers import eventually

from troupelab.dashboard.controls import Controls, LimitControl, notches
from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.lab import Lab
from troupelab.dashboard.live import LivePanels
from troupelab.dashboard.look import for_page, for_plot
from troupelab.dashboard.panel import Feed, Panel
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings, error_rows, found_rows
from troupelab.dashboard.search import Found, Query, matching
from troupelab.dashboard.series import TimeBins, decimate, quantiles, spread_labels
from troupelab.errors import InputError, LimitError, RunError
from troupelab.events import CallDone, Consolidated, MemorySized
from troupelab.limits import Limits
from troupelab.livelimits import LiveLimits

EVIL = "<img src=x onerror=alert(1)>"


def played(agents: Any = 8, *, acts: int = 2000, **limits: Any) -> StandInRun:
    """A stand-in run that has acted so many times, at 200 acts a second."""
    run = StandInRun(agents, limits=Limits(**limits))
    for number in range(acts):
        run.act(number / 200)
    return run


def trace(panel: Panel, name: str) -> Any:
    """A trace of a panel's figure as it would be drawn."""
    return next(found for found in panel.filled().data if found.name == name)


# ------------------------------------------------------------------ series


def test_decimation_keeps_the_lowest_and_the_highest_of_each_stretch() -> None:
    """A thinned line has at most the points that were asked for, in order, and both extremes wherever they are."""
    rng = np.random.default_rng(7)
    for count in (1001, 1500, 4096, 77_777):
        y = rng.normal(size=count)
        low, high = rng.choice(count, 2, replace=False)
        y[low], y[high] = -99.0, 99.0
        x, thin = decimate(np.arange(float(count)), y, 1000)
        assert len(thin) <= 1000
        assert (np.diff(x) >= 0).all()
        assert {-99.0, 99.0} <= set(thin.tolist())
        assert {float(low), float(high)} <= set(x.tolist())


def test_decimation_leaves_short_lines_alone_and_grows_by_its_end() -> None:
    """A short line stays as it is, and a longer one keeps what was drawn before, so that little is sent."""
    y = np.sin(np.arange(3000.0))
    assert decimate(np.arange(900.0), y[:900])[1] is not None
    assert np.array_equal(decimate(np.arange(900.0), y[:900])[1], y[:900])
    before, after = (decimate(np.arange(float(count)), y[:count])[1] for count in (2500, 2600))
    same = min(len(before), len(after)) - 2
    assert np.array_equal(before[:same], after[:same])


def test_bins_widen_without_losing_anything() -> None:
    """However often bins widen, sums stay, and each stretch keeps its newest value."""
    bins = TimeBins(limit=8, width_s=0.5)
    bins.column("acts", "sum")
    bins.column("size", "keep")
    for second in range(37):
        bins.cover(float(second))
        bins["acts"][bins.index(np.array([float(second)]))] += 1
        bins["size"][bins.index(np.array([float(second)]))] = second
    assert bins["acts"].sum() == 37
    assert bins.count <= 8
    assert bins["size"][-1] == 36
    assert (np.diff(bins["size"]) > 0).all()


def test_quantiles_of_buckets_are_close_to_exact_ones() -> None:
    """Quantiles read from bucket counts are within two per cent of those of the numbers themselves."""
    from troupelab.dashboard.series import LATENCY_EDGES

    values = np.random.default_rng(3).lognormal(-1, 0.6, 20_000)
    counts, _ = np.histogram(values, LATENCY_EDGES)
    found = quantiles(counts[None, :], (0.5, 0.95, 0.99))[:, 0]
    assert found == pytest.approx(np.quantile(values, [0.5, 0.95, 0.99]), rel=0.02)


def test_labels_never_cover_each_other_or_leave_the_plot() -> None:
    """Labels that belong close together are moved apart, in the order of their values."""
    values = [0.0, 0.1, 0.1, 5.0, 9.9, 10.0, 10.0]
    placed = spread_labels(values, 10.0, gap=0.1)
    assert sorted(placed) == placed
    assert np.diff(placed).min() >= 1.0 - 1e-6
    assert placed[0] >= 0
    assert placed[-1] <= 10.0


# ------------------------------------------------------------------ panels


@pytest.mark.parametrize("agents", [8, 100])
def test_panels_draw_what_the_recorder_holds(agents: int) -> None:
    """The panels show the events that were recorded: sizes, quantiles, rates and consolidations."""
    run = played(agents, acts=4000, recent_max_records=150 if agents == 8 else 60)
    panels = Panels(run)
    assert all(panel.empty for panel in panels)
    panels.read()
    assert {panel.name for panel in panels if panel.empty} == {"recall", "cache", "process"}

    memory = run.recorder.read("memory").columns
    latest = dict(zip(memory["agent"].tolist(), memory["recent_records"].tolist(), strict=True))
    if agents == 8:
        ends = [line.y[-1] for line in panels.memory.filled().data if line.meta]
        assert sorted(ends) == sorted(latest.values())
    else:
        last = panels.memory.filled().data[panels.memory.heatmap].z[-1]
        assert last.tolist() == [latest[agent] for agent in range(agents)]
        assert trace(panels.memory, "largest").y[-1] == max(latest.values())

    calls = run.recorder.read("calls").columns["latency_s"]
    assert panels.latency.recent(0.5, 1e9) == pytest.approx(np.quantile(calls, 0.5), rel=0.02)
    bars = trace(panels.latency, "all calls").x
    assert bars.sum() == pytest.approx(len(calls), rel=0.01)

    assert trace(panels.throughput, "acts/s").y[20:-1] == pytest.approx(200, rel=0.05)
    assert len(trace(panels.consolidations, "consolidations").x) == run.recorder.count("consolidations") > 10


@pytest.mark.parametrize("agents", [3, 40])
def test_what_is_sent_bit_by_bit_is_what_is_sent_at_once(agents: int) -> None:
    """A browser that got only differences has the same picture as one that got everything at the end."""
    run = StandInRun(agents, limits=Limits(recent_max_records=30))
    panels = Panels(run)
    pictures: dict[str, dict[tuple[int, str], list[Any]]] = {panel.name: {} for panel in panels}
    for number in range(3000):
        run.act(number / 200)
        if number == 1500:
            run.limits.update(recent_max_records=12, note="smaller")
            panels.memory.choose([1, 2])
        if number % 47 == 0 or number == 2999:
            panels.read()
            for name, patch in panels.changes().items():
                for place, key, start, values in patch.puts:
                    array = pictures[name].setdefault((place, key), [])
                    assert start <= len(array)
                    array[start:] = list(values)
    for name, patch in panels.changes(everything=True).items():
        whole = {(place, key): list(values) for place, key, _, values in patch.puts}
        assert whole.keys() == pictures[name].keys()
        for key, values in whole.items():
            np.testing.assert_equal(pictures[name][key], values)


def test_nothing_new_means_nothing_to_send() -> None:
    """When nothing happened since the last frame, no panel has anything to send."""
    run = played()
    panels = Panels(run)
    panels.read()
    assert set(panels.changes()) == {panel.name for panel in panels}
    panels.read()
    assert panels.changes() == {}


def test_traces_stay_small_however_long_the_run() -> None:
    """No trace ever has more than a thousand points, and the title says when dots are left out."""
    run = played(5, acts=40_000, recent_max_records=8)
    panels = Panels(run)
    panels.read()
    for panel in panels:
        for shape in panel.filled().data:
            assert shape.type == "heatmap" or shape.y is None or len(shape.y) <= 1000
    assert run.recorder.count("consolidations") > 1000
    assert "1 in " in panels.consolidations.settings()["annotations"][0]["text"]


def test_a_limit_change_is_a_mark_on_every_time_axis() -> None:
    """Each panel has a vertical line where a limit was changed, whose hover text tells what, why and from when on."""
    run = played(8, acts=400)
    run._begun = time.monotonic() - 2.0
    run.limits.update(recent_max_records=50, note="smaller <b>window</b>")
    panels = Panels(run)
    panels.read()
    for panel in panels:
        mark = trace(panel, "limit change")
        assert set(mark.x[np.isfinite(mark.y)].tolist()) == {run.recorder.read("limits").columns["at_s"][0]}
        assert "200 records → 50 records" in mark.text[0] or "100 records → 50 records" in mark.text[0]
        assert "smaller &lt;b&gt;window" in mark.text[0]
        assert "effective from step 50" in mark.text[0]


def test_the_cap_is_drawn_where_it_applies() -> None:
    """The cap of records is a line in the view of records, steps where it was changed, and is absent without a limit."""
    run = played(4, acts=400, recent_max_records=60)
    run._begun = time.monotonic() - 2.0
    run.limits.update(recent_max_records=30)
    panels = Panels(run)
    panels.memory.measure = "recent_records"
    panels.read()
    assert trace(panels.memory, "cap").y.tolist() == [60, 30, 30]
    assert any("cap 30" in note["text"] for note in panels.memory.settings()["annotations"])
    free = Panels(played(4, acts=400, recent_max_records=None))
    free.memory.measure = "recent_records"
    free.read()
    assert not np.isfinite(trace(free.memory, "cap").y).any()


def test_every_panel_says_what_will_appear() -> None:
    """Before the first event each panel is a sentence, not an empty pair of axes."""
    for panel in Panels(StandInRun(30)):
        assert panel.waiting in panel.filled().layout.annotations[0].text
        assert panel.filled().layout.xaxis.visible is False


def test_all_panels_share_one_time_axis_in_seconds_or_steps() -> None:
    """The range is the same everywhere, and in steps the ticks stand where the steps began."""
    panels = Panels(played(10, acts=1000))
    panels.read()
    assert len({tuple(panel.filled().layout.xaxis.range) for panel in panels}) == 1
    panels.clock.unit = "steps"
    axis = panels.throughput.filled().layout.xaxis
    assert axis.ticktext[0] == "0"
    assert list(axis.tickvals) == sorted(axis.tickvals)


def test_names_and_notes_cannot_become_markup() -> None:
    """Names and reasons reach Plotly without tags, entities or formulas, and the page's tables escaped."""
    run = StandInRun([EVIL, "Ann & $x$ <b>"])
    for number in range(300):
        run.act(number / 100)
    run.recorder.emit(Consolidated(3.0, 5, 0, EVIL, 3, 1, 10, 5, 0.5, 0.0, 0))
    panels = Panels(run)
    readings = Readings(run, panels)
    readings.take(panels.read())
    for panel in panels:
        text = panel.filled().to_json()
        assert "<img" not in text
        assert "$x$" not in text
    batch, found = run.recorder.read("actions"), Found(Query())
    found.add(batch.start, batch.next, matching(Query(), batch.columns))
    table = found_rows(run, found) + error_rows(run.agent_names, readings.errors)
    assert "<img" not in table
    assert "&lt;img" in table
    assert for_page('"><script>') == "&quot;&gt;&lt;script&gt;"
    assert for_plot("a\nb\x00<i>") == "a b &lt;i&gt;"


def test_calls_from_the_cache_or_failed_have_no_latency() -> None:
    """Only calls that the model answered count as its latency."""
    run = StandInRun(2)
    rest = (0, 0, "act", 5.0, 0.0, 1, 1, 0.0)
    run.recorder.emit(CallDone(1.0, *rest, True, 1, "", "cache", 0, math.nan))
    run.recorder.emit(CallDone(1.0, *rest, False, 3, "ModelTimeoutError", "model", 0, math.nan))
    panels = Panels(run)
    panels.read()
    assert panels.latency.empty


def test_notes_that_take_more_room_than_the_records_are_told_apart() -> None:
    """A consolidation that freed nothing has another colour, and the label says so."""
    run = StandInRun(2)
    run.recorder.emit(MemorySized(1.0, 0, 0, 1, 10, 0, 0, 0, 0, 10))
    run.recorder.emit(Consolidated(1.0, 0, 0, "high water", 3, 1, 100, 300, 0.5, 0.0, 0))
    panels = Panels(run)
    panels.read()
    assert trace(panels.consolidations, "consolidations").marker.color.tolist() == [1.0]
    assert "took more" in panels.consolidations.settings()["annotations"][0]["text"]


def test_two_feeds_read_the_same_recorder_side_by_side() -> None:
    """Each dashboard has its own cursor, and reading removes nothing."""
    run = played(2, acts=20)
    first, second = Feed(run.recorder), Feed(run.recorder)
    assert len(first.take()["acts"]) == len(second.take()["acts"]) == 20
    run.act(1.0)
    assert len(first.take()["acts"]) == 1
    assert first.take() == {}
    assert len(second.take()["acts"]) == 1


# ------------------------------------------------------------------ the wire


class Wire(LivePanels):
    """The live widget with a clock that is set by hand, and a record of what it sent."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[tuple[dict[str, Any], Any]] = []
        super().__init__(clock=lambda: self.now)

    def send(self, content: Any, buffers: Any = None) -> None:
        """Keep it instead."""
        self.sent.append((content, buffers))

    def hear(self, **content: Any) -> None:
        """A message from the browser."""
        self._heard(self, content, [])

    def frames(self) -> list[dict[str, Any]]:
        """The frames that were sent."""
        return [content for content, _ in self.sent if content["kind"] == "frame"]


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A live widget."""
    made = Wire()
    yield made
    made.close()


def test_frames_that_are_not_acknowledged_are_skipped(wire: Wire) -> None:
    """With two frames on the way no third is sent; after an acknowledgement, or the time-out, one is."""
    run = StandInRun(4)
    panels = Panels(run)
    at = iter(range(10_000))

    def more() -> bool:
        run.act(next(at) / 10)
        panels.read()
        return wire.send_frame(panels)

    assert not more()  # nobody is looking
    wire.hear(kind="ready", view="a", library=True)
    assert more()
    assert more()
    assert not more()
    assert not more()
    wire.hear(kind="ack", view="a", seq=wire.frames()[0]["seq"])
    assert more()
    assert not more()
    wire.now = 2.5
    assert more()
    for _ in range(8):
        wire.now += 2.5
        more()
    assert not wire.watched  # nobody has answered for long
    before = len(wire.frames())
    more()
    assert len(wire.frames()) == before
    wire.hear(kind="ready", view="b", library=True)
    assert more()
    assert "figures" in wire.frames()[-1]


def test_a_reload_gets_the_history_again_and_the_library_only_where_it_is_missing(wire: Wire) -> None:
    """Each page that says that it is there gets whole figures; plotly.js goes out in parts below Jupyter's limit, if asked."""
    import gzip

    import plotly.offline

    panels = Panels(played(4))
    panels.read()
    wire.hear(kind="ready", view="a", library=False)
    assert wire.send_frame(panels)
    parts = [buffers[0] for content, buffers in wire.sent if content["kind"] == "library"]
    assert gzip.decompress(b"".join(parts)).decode() == plotly.offline.get_plotlyjs()
    assert sum(map(len, parts)) < 2_500_000
    wire.hear(kind="ready", view="a", library=False)  # a page that is impatient, not new
    assert not wire.send_frame(panels)
    wire.sent.clear()
    wire.hear(kind="ready", view="b", library=True)
    assert wire.send_frame(panels)
    assert [content["kind"] for content, _ in wire.sent] == ["frame"]
    assert list(wire.frames()[0]["figures"]) == [panel.name for panel in panels]


def test_a_frame_is_json_and_one_buffer_of_numbers(wire: Wire) -> None:
    """Every array of a frame lies in its buffer at the place that the header says."""
    run = played(12)
    panels = Panels(run)
    panels.read()
    wire.hear(kind="ready", view="a", library=True)
    wire.send_frame(panels)
    header, buffers = wire.sent[-1]
    header = json.loads(json.dumps(header, allow_nan=False))
    numbers = np.frombuffer(buffers[0], "<f4")
    puts = [put for patch in header["panels"].values() for put in patch["puts"] if "length" in put]
    assert sum(put["length"] for put in puts) == len(numbers)
    heatmap = next(put for put in header["panels"]["memory"]["puts"] if put["key"] == "z")
    assert heatmap["width"] == 12
    last = numbers[heatmap["from"] : heatmap["from"] + heatmap["length"]].reshape(-1, 12)[-1]
    assert last.tolist() == panels.memory.latest("recent_records").tolist()


# ------------------------------------------------------------------ controls


def test_controls_are_built_from_the_limits_metadata() -> None:
    """Each limit has a slider within its range, with its label, and "no limit" as the last notch where that is allowed."""
    controls = Controls(Limits().as_dict(), lambda name, value: None)
    for name, field in Limits.fields().items():
        slider = controls.by_name[name].slider
        assert slider.description == field.label
        if field.switch:
            assert slider.value is field.default
            continue
        assert slider.continuous_update is False
        if hasattr(slider, "options"):
            values = [value for _, value in slider.options]
            assert values[0] == field.low
            assert (values[-1] == math.inf) is field.optional
            Limits(**({name: values[1]} if name != "consolidate_at" else {}))
        else:
            assert (slider.min, slider.max) == (field.low, field.high)
    assert controls.values() == Limits().as_dict()
    controls.close()


def test_every_notch_of_a_slider_is_a_value_that_limits_accept() -> None:
    """No slider can be moved to where its limit would be refused for being out of range."""
    for name, field in Limits.fields().items():
        if field.log_scale:
            for value in notches(field):
                assert Limits(**{name: value}).as_dict()[name] == value


def test_a_refused_change_leaves_limits_as_they_were(dashboard: Callable[..., Dashboard]) -> None:
    """A value at odds with another is told beside its slider, which goes back to the value in force."""
    run = StandInRun(4)
    shown = dashboard(run)
    control = shown._controls.by_name["consolidate_to"]
    before = run.limits.current
    control.slider.value = 0.9
    assert run.limits.current.consolidate_to == 0.9
    shown._controls.by_name["consolidate_at"].slider.value = 0.5
    assert run.limits.current == before.replace(consolidate_to=0.9)
    assert shown._controls.by_name["consolidate_at"].slider.value == before.consolidate_at
    assert "consolidate_to must be below consolidate_at" in shown._controls.by_name["consolidate_at"].note.value


def test_a_moved_slider_is_logged_as_the_dashboards(dashboard: Callable[..., Dashboard]) -> None:
    """Moving a slider is one entry in the log of limits, and the note tells from which step it holds."""
    run = StandInRun(4)
    shown = dashboard(run)
    run._begun = time.monotonic()
    run.act(0.1)
    control = shown._controls.by_name["recent_max_records"]
    control.slider.value = 50
    assert run.limits.recent_max_records == 50
    assert [(change.by, dict(change.new)) for change in run.limits.log] == [("dashboard", {"recent_max_records": 50})]
    eventually("the note says when", lambda: "effective at step 1" in control.note.value)
    assert "in use: " in control.note.value


def test_a_change_from_elsewhere_moves_the_slider(dashboard: Callable[..., Dashboard]) -> None:
    """A limit that is set in Python shows on its slider, even where it is no round number, and is not logged twice."""
    run = StandInRun(4)
    shown = dashboard(run)
    run.limits.update(recent_max_records=137, timeout_s=None, retain_fraction=0.33)
    sliders = {name: control.slider for name, control in shown._controls.by_name.items()}
    eventually(
        "the sliders follow",
        lambda: sliders["recent_max_records"].value == 137 and sliders["timeout_s"].value == math.inf,
    )
    eventually("a share follows", lambda: sliders["retain_fraction"].value == 0.33)
    assert len(run.limits.log) == 1
    assert shown._header.said.value == ""


@pytest.mark.parametrize("name", [name for name, field in Limits.fields().items() if field.optional])
def test_no_limit_is_a_notch_like_any_other(name: str) -> None:
    """A slider can be moved to "no limit" and away from it, by hand and from Python, and always shows what holds."""
    live = LiveLimits()
    control = LimitControl(Limits.fields()[name], getattr(live, name), lambda name, value: live.update(**{name: value}))
    slider = control.slider
    for place in (2, len(slider.options) - 1, 1):
        slider.index = place  # what the browser sends
        assert getattr(live, name) == (None if place == len(slider.options) - 1 else slider.options[place][1])
        assert slider.index == place
    for value in (None, notches(control.field)[3], None):
        live.update(**{name: value})
        control.follow(lambda name: getattr(live, name))
        assert slider.options[slider.index][1] == (math.inf if value is None else value)
    assert slider.label == ("never" if name.endswith("similarity") else "no limit")


def test_readouts_carry_their_unit_and_tell_limits_apart() -> None:
    """Sizes read as one says them, and of two limits with the same label each has its own unit in the note."""
    controls = Controls(Limits().as_dict(), lambda name, value: None)
    read = {
        name: control.slider.label for name, control in controls.by_name.items() if hasattr(control.slider, "label")
    }
    assert (read["total_max_bytes"], read["archive_max_bytes"], read["segment_cache_max_bytes"]) == (
        "64 MB",
        "4 GB",
        "8 MB",
    )
    assert (read["dedup_similarity"], read["max_age_steps"], read["max_age_hours"]) == ("0.93", "no limit", "no limit")
    told = [(control.slider.description, control.field.unit) for control in controls.by_name.values()]
    assert len(set(told)) == len(told)
    for name in ("max_age_steps", "max_age_hours"):
        assert controls.by_name[name].field.unit in controls.by_name[name].note.value
    for control in controls.by_name.values():
        options = [text for text, _ in getattr(control.slider, "options", ())]
        assert len(set(options)) == len(options)
    controls.close()


def test_a_control_alone_goes_back_when_refused() -> None:
    """The control asks and believes the answer; news of an earlier change do not hide a refusal, a new value does."""

    def refuse(name: str, value: Any) -> None:
        raise LimitError(f"{name} <not> today")

    control = LimitControl(Limits.fields()["max_attempts"], 3, refuse)
    control.slider.value = 5
    assert control.slider.value == 3
    assert "&lt;not&gt; today" in control.note.value
    control.accepted("accepted in 1 ms")
    assert "&lt;not&gt; today" in control.note.value
    control.follow(lambda name: 7)
    assert control.slider.value == 7
    assert "today" not in control.note.value


# ------------------------------------------------------------------ dashboard and lab


def test_buttons_match_the_runs_state(dashboard: Callable[..., Dashboard]) -> None:
    """Only buttons that the run's state allows can be pressed, and pressing them drives the run."""
    run = StandInRun(4, steps=100_000)
    buttons = (shown := dashboard(run))._header.buttons

    def able() -> set[str]:
        return {name for name, button in buttons.items() if not button.disabled}

    assert able() == {"start", "step"}
    buttons["start"].click()
    eventually("running", lambda: able() == {"pause", "stop", "fork"})
    buttons["pause"].click()
    eventually("paused", lambda: able() == {"step", "resume", "stop", "fork"})
    buttons["resume"].click()
    eventually("running again", lambda: able() == {"pause", "stop", "fork"})
    buttons["stop"].click()
    run.wait(5)
    eventually("nothing more but to fork what is left", lambda: able() == {"fork"})
    assert "stopped" in shown._header.title.value


def test_closing_ends_the_thread_and_frees_the_dashboard() -> None:
    """After close nothing of the dashboard is left: no thread, no widget, no object."""
    import ipywidgets

    before = set(ipywidgets.widgets.widget._instances)
    threads = set(threading.enumerate())
    shown = Dashboard(played(30))
    assert len(set(threading.enumerate()) - threads) == 1
    shown.close()
    assert set(threading.enumerate()) - threads == set()
    assert set(ipywidgets.widgets.widget._instances) - before == set()
    gone = weakref.ref(shown)
    del shown
    gc.collect()
    assert gone() is None


def test_a_dashboard_moves_to_another_run(dashboard: Callable[..., Dashboard]) -> None:
    """Attached to another run, the same widgets show that one."""
    shown = dashboard(played(4))
    live = shown._live
    eventually("the first run's actions", lambda: "<table>" in shown._tabs["transcript"].rows.value)
    second = played([EVIL, "Bo", *map(str, range(10))], acts=30)
    shown.attach(second)
    eventually("the second run's name", lambda: "&lt;img" in shown._tabs["transcript"].rows.value)
    eventually("its agents", lambda: "12 agents" in shown._header.title.value)
    assert shown._live is live
    assert EVIL not in shown._tabs["transcript"].rows.value


def test_an_error_in_the_ui_thread_is_shown_and_it_goes_on(
    dashboard: Callable[..., Dashboard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in drawing is said in a sentence, and the thread lives."""
    shown = dashboard(played(4))
    eventually("it has begun", lambda: shown._panels is not None)

    def broken() -> None:
        raise ZeroDivisionError("on <purpose>")

    monkeypatch.setattr(shown._panels, "read", broken)
    shown._live.woken.set()
    eventually("it says so", lambda: "ZeroDivisionError: on &lt;purpose&gt;" in shown._header.said.value)
    assert shown._thread.is_alive()


def test_the_lab_runs_one_after_the_other_in_one_dashboard() -> None:
    """Start makes runs of the present choices, refuses a second while one goes on, and keeps one dashboard."""
    lab = Lab("product_launch", steps=2, latency_s=0.0)
    try:
        first, shown = lab.run, lab.dashboard
        lab._steps.value = 3
        assert lab.run is not first
        assert lab.start().wait(30).steps == 3
        lab._seed.value = 11
        lab._latency.value = 5.0
        second = lab.start()
        assert (second.seed, second.state) == (11, "running")
        with pytest.raises(RunError, match="still running"):
            lab.start()
        lab._button.click()
        assert "still running" in shown._header.said.value
        second.stop(now=True)
        second.wait(10)
        assert lab.dashboard is shown
        assert shown.run is second
    finally:
        lab.close()


def test_the_lab_offers_agents_only_where_a_world_samples_them() -> None:
    """The number of agents can be chosen for sampled worlds alone, and an unknown world is refused by name."""
    lab = Lab("product_launch")
    try:
        assert lab._agents.layout.display == "none"
        lab._world.value = "market_panel"
        assert lab._agents.layout.display is None
        lab._agents.value = 12
        assert len(lab.run.agent_names) == 12
    finally:
        lab.close()
    with pytest.raises(InputError, match="product_launch"):
        Lab("no_such_world")
