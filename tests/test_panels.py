"""The panels beyond memory, latency and throughput: what they show is what pandas says of the same events, however they arrive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser.stand_in import StandInRun
from hypothesis import given, settings
from hypothesis import strategies as st

from troupelab.dashboard.panel import Panel
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.series import AgentSums, TimeBins
from troupelab.events import (
    CacheUsed,
    CallDone,
    Consolidated,
    Deduped,
    Event,
    Evicted,
    Failed,
    MemorySized,
    ProbeAsked,
    ProcessSampled,
)
from troupelab.limits import Limits

EVIL = "<img src=x onerror=alert(1)>"
KINDS = ["ReplyError", "ModelTimeoutError", EVIL, "A", "B", "C", "D", "E"]


def trace(panel: Panel, name: str) -> Any:
    """A trace of a panel's figure as it would be drawn."""
    return next(found for found in panel.filled().data if found.name == name)


def told(panel: Panel) -> str:
    """All labels of a panel."""
    return " | ".join(note["text"] for note in panel.settings()["annotations"])


def size(at_s: float, agent: int, recent: int, archive: int = 0, notes: int = 0) -> MemorySized:
    """What an agent tells of its memory: records of 100 bytes, archived ones of 20, notes of 50, and as much again."""
    content = 100 * recent + 50 * notes
    return MemorySized(at_s, 0, agent, recent, 100 * recent, archive, 20 * archive, notes, 50 * notes, 2 * content)


def moved(at_s: float, agent: int, records: int, notes: int) -> Consolidated:
    """A consolidation."""
    kept = 0.5 if notes else math.nan
    return Consolidated(at_s, 0, agent, "high water", records, notes, 100 * records, 50 * notes, kept, 0.0, 0)


def dropped(at_s: float, agent: int, what: str, records: int) -> Evicted:
    """Something that is gone for good."""
    return Evicted(at_s, 0, agent, "archive_max_bytes", what, records, 100, True)


def called(
    at_s: float, source: str = "model", *, tokens: tuple[int, int] = (500, 60), usd: float = 0.0, why: str = "act"
) -> CallDone:
    """A call."""
    cached = source in ("cache", "flight", "semantic")
    return CallDone(at_s, 0, 0, why, 0.2, 0.0, *tokens, usd, cached, 1, "", source, 0, math.nan)


def shown(events: Sequence[Event], agents: Any = 3, **limits: Any) -> Panels:
    """Panels that have taken in these events."""
    run = StandInRun(agents, limits=Limits(**limits))
    for event in events:
        run.recorder.emit(event)
    panels = Panels(run)
    panels.read()
    return panels


# ------------------------------------------------------------------ what each shows


def test_tiers_are_the_sums_over_all_agents() -> None:
    """Recent records, notes and disk are the sums of what each agent told last; RAM is what the process says of all memories."""
    events: list[Event] = []
    rng = np.random.default_rng(5)
    rows = []
    for number in range(300):
        row = (number / 10, number % 3, int(rng.integers(1, 90)), int(rng.integers(0, 900)), int(rng.integers(0, 20)))
        events.append(size(*row))
        rows.append(row)
    events += [ProcessSampled(second / 2, 10**8, 1.0, 1, 0, 50_000 + 100 * second) for second in range(60)]
    panels = shown(events, total_max_bytes=60_000)
    frame = pd.DataFrame(rows, columns=["at_s", "agent", "recent", "archive", "notes"]).groupby("agent").last()
    held = {name: trace(panels.tiers, name).y for name in ("recent", "notes", "rest", "in RAM", "on disk")}
    assert held["recent"][-1] == 100 * frame["recent"].sum()
    assert held["notes"][-1] == 50 * frame["notes"].sum()
    assert held["on disk"][-1] == 20 * frame["archive"].sum()
    assert held["in RAM"][-1] == 50_000 + 100 * 59
    assert (
        held["recent"] + held["notes"] + held["rest"] == np.maximum(held["in RAM"], held["recent"] + held["notes"])
    ).all()
    assert trace(panels.tiers, "cap").y.tolist() == [60_000, 60_000]
    assert "in RAM 55.9 kB" in told(panels.tiers)
    assert "cap 60 kB" in told(panels.tiers)


def test_each_record_is_word_for_word_in_notes_only_or_dropped() -> None:
    """Of 100 records 20 are recent and 50 archived; 30 left the archive, and half of all notes are gone, the oldest first."""
    events: list[Event] = [
        size(1.0, 0, 100),
        moved(2.0, 0, 80, 8),
        dropped(3.0, 0, "archived records", 30),
        size(3.5, 0, 20, 50, 8),
    ]
    remembered = shown(events).remembered
    assert [trace(remembered, name).y[-1] for name in ("recent", "archive", "notes only", "dropped")] == [20, 50, 30, 0]
    events += [dropped(4.0, 0, "notes", 2), size(5.0, 0, 20, 50, 6)]  # a quarter of the notes: of the 20 oldest records
    remembered = shown(events).remembered
    assert [trace(remembered, name).y[-1] for name in ("recent", "archive", "notes only", "dropped")] == [
        20,
        50,
        10,
        20,
    ]
    assert "dropped 20 %" in told(remembered)
    without_notes = shown([moved(0.5, 0, 40, 0), dropped(0.6, 0, "records", 10), size(1.0, 0, 10, 30)]).remembered
    assert [trace(without_notes, name).y[-1] for name in ("recent", "archive", "notes only", "dropped")] == [
        20,
        60,
        0,
        20,
    ]


def test_what_left_a_memory_counts_from_when_the_agent_tells_its_size_again() -> None:
    """Between a drop and the agent's next size nothing is counted twice."""
    events: list[Event] = [moved(0.5, 1, 60, 6), size(1.0, 1, 40, 60), dropped(1.5, 1, "archived records", 60)]
    remembered = shown(events).remembered
    assert trace(remembered, "archive").y[-1] == 60
    remembered = shown([*events, size(2.0, 1, 40, 0)]).remembered
    assert [trace(remembered, name).y[-1] for name in ("archive", "notes only")] == [0, 60]


def test_repeats_are_counted_beside() -> None:
    """Merged repeats stand in a label, not in the shares."""
    remembered = shown(
        [size(1.0, 0, 5), *[Deduped(1.0, 0, 0, 9, number, 1.0, 2, 90) for number in range(7)]]
    ).remembered
    assert "repeats merged:<br>7" in told(remembered)
    assert trace(remembered, "recent").y[-1] == 100


def test_a_real_runs_records_are_all_accounted_for() -> None:
    """In a run that drops from its archive, the parts are what its memories hold, and all of them what they ever stored but for repeats."""
    import troupelab as tl

    limits = tl.Limits(recent_max_records=12, max_age_steps=6, semantic_max_notes=5)
    run = tl.Run("product_launch", tl.ScriptedModel(seed=7, latency_s=0.0), limits=limits, steps=25, seed=7)
    run.start().wait(60)
    panels = Panels(run)
    panels.read()
    memory = run.frames.memory.groupby("agent").last()
    gone = run.frames.evictions.query("dropped and what.isin(['records', 'archived records'])")["records"].sum()
    total = memory["recent_records"].sum() + memory["archive_records"].sum() + gone
    shares = {name: trace(panels.remembered, name).y[-1] for name in ("recent", "archive", "notes only", "dropped")}
    assert gone > 0
    assert shares["recent"] == pytest.approx(100 * memory["recent_records"].sum() / total, abs=2)
    assert shares["archive"] == pytest.approx(100 * memory["archive_records"].sum() / total, abs=2)
    assert shares["notes only"] + shares["dropped"] == pytest.approx(100 * gone / total, abs=4)


def test_the_share_of_answers_without_a_request_is_by_kind() -> None:
    """Shares and savings are those of the frames; checks in shadow are no questions; a false hit is told."""
    rng = np.random.default_rng(2)
    sources = rng.choice(["model", "cache", "flight", "semantic", "pack"], 400)
    events: list[Event] = [called(number / 20, str(source)) for number, source in enumerate(sources)]
    events += [called(19.0, why="shadow"), CacheUsed(19.0, 0, 0, "exact", 1.0, 900, 0.5, False)]
    events += [CacheUsed(19.5, 0, 0, "shadow", 0.95, -100, 0.0, wrong) for wrong in (True, False)]
    cache = shown(events).cache
    x, parts = cache.shares()
    frame = pd.DataFrame({"at_s": np.arange(400) / 20, "source": sources})
    frame["bin"] = (frame["at_s"] / 0.5).astype(int)
    for part, source in zip(parts, ("cache", "flight", "semantic"), strict=True):
        expected = frame.groupby("bin")["source"].agg(lambda found, source=source: 100 * (found == source).mean())
        assert part == pytest.approx(expected.to_numpy())
    assert len(x) == 40
    assert f"exact {100 * (sources == 'cache').mean():.2g} %" in told(cache)
    assert "saved 700" in told(cache)
    assert "1 of 2<br>checked: false" in told(cache)


def test_tokens_add_up_and_dollars_are_told_where_they_are_known() -> None:
    """The areas end at the sums; the budget is a line where it is near, else an arrow; unknown prices are said to be so."""
    events: list[Event] = [called(number / 10, tokens=(100 + number, 7), usd=0.001) for number in range(100)]
    panels = shown(events, max_tokens=20_000, max_cost_usd=1.0)
    sent, received = trace(panels.cost, "sent").y, trace(panels.cost, "received").y
    assert (sent[-1], received[-1]) == (sum(range(100, 200)), 700)
    assert (np.diff(sent) >= 0).all()
    assert panels.cost.settings()["yaxis.range"][1] >= 20_000
    assert "cost $0.1000<br>of $1.00" in told(panels.cost)
    assert "budget 20k" in told(panels.cost)
    assert "budget 900k ↑" in told(shown(events, max_tokens=900_000).cost)
    assert "price not known" in told(shown([called(1.0, usd=math.nan)]).cost)
    assert "and more" in told(shown([called(1.0, usd=math.nan), called(1.0, usd=0.5)]).cost)
    assert "cost" not in told(shown([called(1.0)]).cost)


def test_errors_are_counted_by_kind_and_the_seventh_is_other() -> None:
    """Six kinds have bars of their own, the rest is other; counts are those of the frames, and names stay text."""
    kinds = np.random.default_rng(3).choice(KINDS, 200)
    errors = shown([Failed(number / 7, 0, 0, str(kind), "", 1) for number, kind in enumerate(kinds)]).errors
    counts = pd.Series(kinds).value_counts()
    first = list(dict.fromkeys(kinds))[:6]
    assert errors.counts() == {
        **{str(kind): int(counts[kind]) for kind in first},
        "other": int(counts.drop(first).sum()),
    }
    bars = errors.filled().data[:7]
    assert [int(bar.y.sum()) for bar in bars] == list(errors.counts().values())
    assert "<img" not in errors.filled().to_json()
    assert "other" in told(errors)


def test_the_process_has_its_cap_drawn_where_it_is_near() -> None:
    """The cap on the process is a line and a label; far above it is an arrow."""
    events = [ProcessSampled(second / 2, 150_000_000, 1.0, 1, 0, 40_000_000) for second in range(9)]
    near, far = shown(events, max_rss_bytes=200_000_000).process, shown(events, max_rss_bytes=10**10).process
    assert trace(near, "cap").y.tolist() == [200, 200]
    assert near.settings()["yaxis.range"][1] >= 200
    assert "cap 200 MB" in told(near)
    assert "cap 10,000 MB ↑" in told(far)
    assert far.settings()["yaxis.range"][1] < 300


def test_the_time_out_is_a_line_where_calls_come_near_it() -> None:
    """Latencies of 0.2 s have a time-out of 0.3 s in view, and none of 60 s."""
    events = [called(number / 10) for number in range(50)]
    near, far = shown(events, timeout_s=0.3).latency, shown(events, timeout_s=60.0).latency
    assert "time-out 0.3 s" in told(near)
    assert near.settings()["yaxis.range"][1] >= 0.3
    assert "time-out" not in told(far)


def test_what_is_only_archived_is_no_consolidation() -> None:
    """Records that went to the archive without notes are rings of their own and counted apart."""
    consolidations = shown([moved(1.0, 0, 9, 3), moved(2.0, 1, 9, 0), moved(3.0, 1, 9, 0)]).consolidations
    assert (consolidations.total, consolidations.archived_only) == (1, 2)
    dots = trace(consolidations, "consolidations")
    assert list(dots.marker.symbol) == ["circle", "circle-open", "circle-open"]
    assert "1 into notes" in told(consolidations)
    assert "2 only<br>archived" in told(consolidations)
    assert "archive, without notes" in dots.text[1]


# ------------------------------------------------------------------ whatever comes, in whatever pieces


@st.composite
def happenings(draw: st.DrawFn) -> list[Event]:
    """Events of all families that the panels read, in the order of time, with odd agents, numbers and names among them."""
    at_s = 0.0
    events: list[Event] = []
    for _ in range(draw(st.integers(0, 60))):
        at_s += draw(st.sampled_from([0.0, 0.01, 0.4, 3.0]))
        agent, number = draw(st.integers(-1, 4)), draw(st.integers(0, 50))
        made: list[Event] = [
            size(at_s, agent, number, number % 7, number % 3),
            moved(at_s, agent, number, number % 4),
            dropped(at_s, agent, ("notes", "records", "archived records", "facts")[number % 4], number),
            called(
                at_s, ("model", "cache", "flight", "semantic", "pack")[number % 5], usd=(0.01, math.nan)[number % 2]
            ),
            CacheUsed(at_s, 0, agent, ("exact", "shadow")[number % 2], 1.0, number - 20, math.nan, number % 3 == 0),
            Failed(at_s, 0, agent, KINDS[number % 8], EVIL, 1),
            ProcessSampled(at_s, 10**8 + number, 1.0, 1, 0, 10**4 * number),
            Deduped(at_s, 0, agent, 1, 2, math.nan, 2, number),
        ]
        events.append(made[draw(st.integers(0, 7))])
    return events


@settings(max_examples=20, deadline=None)
@given(happenings(), st.sets(st.integers(0, 60), max_size=6))
def test_pieces_make_the_same_picture_as_all_at_once(events: list[Event], cuts: set[int]) -> None:
    """Whatever happens, and in whatever pieces it is read, a page that got only differences shows what one read at the end does."""
    run = StandInRun(4)
    panels = Panels(run)
    page: dict[tuple[str, int, str], list[Any]] = {}
    layouts: dict[str, dict[str, Any]] = {panel.name: {} for panel in panels}
    for place in range(len(events) + 1):
        if place in cuts or place == len(events):
            panels.read()
            for name, patch in panels.changes().items():
                layouts[name] |= patch.layout
                for number, key, start, values in patch.puts:
                    array = page.setdefault((name, number, key), [])
                    assert start <= len(array)
                    array[start:] = list(values)
        if place < len(events):
            run.recorder.emit(events[place])
    at_once = Panels(run)
    at_once.read()
    for panel in at_once:
        patch = panel.changes(everything=True)
        assert layouts[panel.name] == patch.layout
        for number, key, _, values in patch.puts:
            np.testing.assert_equal(page[panel.name, number, key], list(values))


@settings(max_examples=20, deadline=None)
@given(happenings())
def test_parts_make_up_the_whole(events: list[Event]) -> None:
    """Shares of what is remembered add up to 100 at each moment, those without a request to no more; tiers reach at least to RAM."""
    panels = shown(events, 4)
    if not panels.remembered.empty:
        parts = np.array([line["y"] for line in panels.remembered.traces()])
        assert parts.sum(axis=0) == pytest.approx(100)
        assert parts.min(initial=0.0) >= 0
    if not panels.cache.empty:
        assert np.sum([line["y"] for line in panels.cache.traces()], axis=0).max() <= 100 + 1e-9
    if not panels.tiers.empty:
        recent, notes, rest, ram, _, _ = (line["y"] for line in panels.tiers.traces())
        assert (recent + notes + rest == np.maximum(ram, recent + notes)).all()
    assert panels.consolidations.total + panels.consolidations.archived_only == sum(
        isinstance(event, Consolidated) for event in events
    )
    assert sum(panels.errors.counts().values()) == sum(isinstance(event, Failed) for event in events)
    assert "<img" not in str([(panel.traces(), panel.settings()) for panel in panels])


@pytest.mark.parametrize("agents", [1, 8, 100, 500])
def test_panels_are_bounded_for_any_number_of_agents(agents: int) -> None:
    """With no event, with one, and after hours, every panel can be drawn and no trace has many points."""
    assert all(
        panel.empty and panel.waiting in panel.filled().to_plotly_json()["layout"]["annotations"][0]["text"]
        for panel in Panels(StandInRun(agents))
    )
    assert not shown([size(0.0, 0, 5)], agents).tiers.empty
    run = StandInRun(agents, limits=Limits(recent_max_records=8))
    for number in range(1000):
        run.act(number * 15.0)
        run.recorder.emit(ProcessSampled(number * 15.0, 10**8, 1.0, 1, 0, 10**7))
        run.recorder.emit(Failed(number * 15.0, 0, -1, KINDS[number % 8], "", 1))
        run.recorder.emit(called(number * 15.0, "cache"))
        run.recorder.emit(asked(number * 15.0, number, 0, found=number % 3 > 0, age=number % 30))
    panels = Panels(run)
    panels.read()
    for panel in panels:
        assert not panel.empty
        for line in panel.traces():
            assert len(line.get("y", line.get("z"))) <= 1000


# ------------------------------------------------------------------ the series under them


def test_a_value_stands_until_the_next_one() -> None:
    """A column that keeps carries the last value on into new bins, and is unknown before the first."""
    bins = TimeBins(limit=8, width_s=1.0)
    bins.column("size", "keep")
    bins.cover(2.0)
    bins.carry("size", np.array([1.0, 1.5]), np.array([4.0, 5.0]))
    bins.cover(4.0)
    np.testing.assert_equal(bins["size"], [np.nan, 5, 5, 5, 5])
    bins.cover(9.0)
    np.testing.assert_equal(bins["size"], [5, 5, 5, 5, 5])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(-1, 3), st.integers(0, 9)), min_size=1, max_size=50))
def test_sums_over_agents_are_of_what_each_told_last(rows: list[tuple[int, int, int]]) -> None:
    """At the end of each bin the sum is that of the last value of each agent until then."""
    rows.sort(key=lambda row: row[0])
    sums = AgentSums(3, ("size",))
    at_s, agent, value = (np.array(column) for column in zip(*rows, strict=True))
    for place in range(0, len(rows), 7):
        part = slice(place, place + 7)
        sums.add(at_s[part] / 100, agent[part], [value[part]])
    last: dict[int, int] = {}
    for _, who, number in rows:
        if 0 <= who < 3:
            last[who] = number
    assert (sums.bins["size"][-1] if sums.bins.count else 0) == sum(last.values())


def asked(at_s: float, step: int, agent: int, *, found: bool, held: bool = True, age: int = 3) -> ProbeAsked:
    """An answer to a question about a planted fact."""
    return ProbeAsked(
        at_s, step, agent, "ferry", 0, age, 1 if found else 0, "recent" if found else "", "recent" if held else "", 0, 5, False
    )  # fmt: skip


def test_recall_is_the_share_of_questions_that_found_their_fact() -> None:
    """Points are shares of what was asked since the point before, bands lie around them, and what is old has a line of its own."""
    first: list[Event] = [asked(1.0, 5, number % 3, found=number % 2 == 0) for number in range(12)]
    then: list[Event] = [asked(9.0, 15, number % 3, found=number < 3, held=number < 6, age=12) for number in range(12)]
    recall = shown([*first, *then]).recall
    assert trace(recall, "found").y.tolist() == [50, 25]
    assert trace(recall, "held").y.tolist() == [100, 50]
    assert trace(recall, "old").y.tolist() == [25]
    assert (trace(recall, "low").y <= trace(recall, "found").y).all()
    assert (trace(recall, "high").y >= trace(recall, "found").y).all()
    assert recall.recall_now()[0] == 0.25
    assert "held 50 %" in told(recall)
    assert "now 25 ±" in recall.settings()["title.text"]


def test_recall_waits_until_somebody_was_asked() -> None:
    """Before that, and for answers of agents that there are not, it says what will appear."""
    for events in ([], [asked(1.0, 5, 99, found=True)]):
        recall = shown(events).recall
        assert recall.empty
        assert len(trace(recall, "found").x) == 0
        assert all(math.isnan(value) for value in recall.recall_now())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 500), st.integers(0, 2), st.booleans()), min_size=1, max_size=60))
def test_every_question_is_in_one_point(answers: list[tuple[float, int, bool]]) -> None:
    """However they are spread over time: the points' questions and finds are all of them, and every share is one."""
    recall = shown([asked(at_s, 1, agent, found=found) for at_s, agent, found in sorted(answers)]).recall
    _, counts = recall._points()
    assert counts["asked"].sum() == len(answers)
    assert counts["found"].sum() == sum(found for *_, found in answers)
    assert all(0 <= y <= 100 for y in trace(recall, "found").y)
    assert (np.diff(trace(recall, "found").x) >= 0).all()


def test_a_real_runs_last_recall_is_what_its_frame_says() -> None:
    """The panel's points have all questions of a run, as pandas counts them."""
    import troupelab as tl

    run = tl.Run("product_launch", tl.ScriptedModel(seed=7, latency_s=0.0), steps=25, seed=7).start().wait(60)
    panels = Panels(run)
    panels.read()
    frame = run.frames.probes
    _, counts = panels.recall._points()
    assert counts["asked"].sum() == len(frame) > 50
    assert counts["found"].sum() == (frame["rank"] > 0).sum()
    assert counts["held"].sum() == (frame["held"] != "").sum()
    assert counts["old found"].sum() == ((frame["rank"] > 0) & (frame["age_steps"] >= 10)).sum()
