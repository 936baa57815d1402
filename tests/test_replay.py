"""Replays: the same past under other limits, exact where it is the run's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import eventually, quick_run
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl

SAME = {
    "memory": {"at_s", "total_bytes", "archive_bytes"},
    "consolidations": {"at_s", "seconds"},
    "dedups": {"at_s"},
    "evictions": {"at_s"},
    "probes": set(),
    "acts": set(),
    "actions": set(),
    "calls": set(),
    "limits": set(),
}
"""The families that a replay gives again, without the columns that it measures anew."""


def rows(recorder: Any, family: str) -> list[tuple[str, ...]]:
    """A family's rows, sorted, without what may differ."""
    columns = recorder.read(family).columns
    kept = [column.tolist() for name, column in columns.items() if name not in SAME[family]]
    return sorted(tuple(map(repr, row)) for row in zip(*kept, strict=True))


def check_exact(run: tl.Run, source: Any) -> None:
    """A replay under the run's own limits has the run's events, digest and count of records."""
    again = tl.replay(source)
    assert again.exact, again.exactness
    for family in SAME:
        assert rows(again.recorder, family) == rows(run.recorder, family), family
    assert again.recorder.transcript_sha256() == run.recorder.transcript_sha256()
    told, summary = again.summary(), run.summary()
    for name in ("merged", "consolidations", "notes", "archived"):
        assert told[name] == summary[name]
    assert told["records"] == summary["records"]


@pytest.mark.parametrize(
    ("world", "how"),
    [
        ("product_launch", {"limits": tl.Limits(recent_max_records=12)}),
        ("town", {"limits": tl.Limits(recent_max_records=16, max_age_steps=6, semantic_max_notes=5), "order": "free"}),
        ("classroom_debate", {"consolidate": "model", "limits": tl.Limits(recent_max_records=15)}),
        ("market_panel", {"embedder": tl.HashingEmbedder(), "limits": tl.Limits(recent_max_bytes=6_000)}),
        ("product_launch", {"consolidate": "off", "embedder": None, "limits": tl.Limits(recent_max_records=10)}),
    ],
    ids=["plain", "free order, drops", "notes by the model", "hashed words", "no notes"],
)
def test_under_its_own_limits_a_replay_is_the_run(world: str, how: dict[str, Any], tmp_path: Path) -> None:
    """Every size, merge, note, drop and answer is the run's own, with limits that were changed on the way and things told by a user."""
    run = quick_run(world, steps=12, folder=tmp_path, ask_every=3, **how).start(paused=True)
    run.step(4)
    eventually("four steps are done", lambda: run.state == "paused" and run.progress().step >= 3)
    run.limits.update(recent_max_records=8, retain_fraction=0.5, note="smaller")
    run.limits.update(dedup_similarity=0.9, agents=[run.agent_names[1]])
    run.tell("The price has doubled to 158 euros.", source="A customer")
    run.plant(
        tl.Probe(
            "key",
            "The key lies under the 3rd stone.",
            "Where is the key?",
            neighbour="The key lies under the 4th stone.",
        )
    )
    run.resume()
    run.wait(60)
    check_exact(run, tmp_path)
    check_exact(run, run)
    with tl.Recording.open(tmp_path) as recording:
        check_exact(run, tl.Stream.of(recording))


def test_other_limits_hold_from_the_first_step_and_the_changes_of_others_stay(tmp_path: Path) -> None:
    """What is given holds throughout, what was changed of it in the run is left out, and the result says that it is an approximation."""
    run = quick_run("town", steps=10, limits=tl.Limits(recent_max_records=30)).start(paused=True)
    run.step(3)
    eventually("three steps are done", lambda: run.state == "paused" and run.progress().step >= 2)
    run.limits.update(recent_max_records=20, semantic_max_notes=3)
    run.resume()
    run.wait(60)
    other = tl.replay(run, {"recent_max_records": 9, "max_concurrency": 3})
    assert other.frames.memory.recent_records.max() == 9
    assert other.limits.semantic_max_notes == 3
    assert other.frames.memory.notes.max() == 3
    assert set(other.frames.limits.field) == {"semantic_max_notes"}
    assert not other.exact
    assert "approximation" in other.exactness
    assert "max_concurrency: no limit of memory" in other.exactness
    assert other.transcript().equals(run.transcript())


def test_every_record_has_a_place_and_drops_are_those_that_events_tell() -> None:
    """Of all records that were to be remembered, those that no tier has are as many as events say were dropped or condensed without a trace."""
    run = quick_run("town", steps=14, limits=tl.Limits(recent_max_records=20)).start().wait(60)
    wide = tl.replay(run, {"recent_max_records": None, "recent_max_bytes": None, "dedup_similarity": None})
    assert set(wide.records().tier) == {"recent"}
    assert len(wide.records()) == wide.summary()["records"]
    tight = tl.replay(run, {"max_age_steps": 3, "semantic_max_notes": 1, "dedup_similarity": None})
    places = tight.records()
    dropped = tight.frames.evictions.query("what == 'records' or what == 'archived records'").records.sum()
    assert (~places.tier.isin(["recent", "archive"])).sum() == dropped
    assert (places.tier == "dropped").any()
    assert places.id.is_unique


def test_facts_that_are_drawn_are_told_and_asked() -> None:
    """A seed draws facts, the same ones every time; without memory limits they are held at the end."""
    run = quick_run(steps=20, ask_every=4).start().wait(60)
    one, same, other = (tl.replay(run, {"recent_max_records": 30}, seed=seed) for seed in (1, 1, 2))
    assert rows(one.recorder, "probes") == rows(same.recorder, "probes")
    assert rows(one.recorder, "probes") != rows(other.recorder, "probes")
    assert one.recall().questions > 100
    assert "in nobody's answers" in one.exactness
    own = set(tl.replay(run).frames.probes.probe)
    assert len(set(one.frames.probes.probe) - own) == 8


@settings(max_examples=12, deadline=None)
@given(
    st.one_of(st.none(), st.integers(4, 60)),
    st.floats(0.1, 1.0),
    st.one_of(st.none(), st.floats(0.8, 1.0)),
    st.one_of(st.none(), st.integers(1, 20)),
    st.one_of(st.none(), st.integers(1, 40)),
)
def test_whatever_the_limits_caps_hold_and_nothing_is_lost_untold(
    most: int | None, retain: float, alike: float | None, age: int | None, notes: int | None
) -> None:
    """After every act no cap is exceeded, and at the end every record that was stored is in one place."""
    limits = {
        "recent_max_records": most,
        "retain_fraction": retain,
        "dedup_similarity": alike,
        "max_age_steps": age,
        "semantic_max_notes": notes,
    }
    found = tl.replay(STREAM, limits)
    memory = found.recorder.read("memory").columns
    assert most is None or memory["recent_records"].max() <= most
    assert notes is None or memory["notes"].max() <= notes
    places = found.records()
    last = {agent: place for place, agent in enumerate(memory["agent"].tolist())}
    at_end = list(last.values())
    merged = found.recorder.count("dedups")
    ids = set(found.frames.dedups.merged_id)
    alone = places[~places.id.isin(ids)]
    assert len(places) == len(alone) + merged
    assert (alone.tier == "recent").sum() == memory["recent_records"][at_end].sum()
    assert (alone.tier == "archive").sum() == memory["archive_records"][at_end].sum()


STREAM = tl.Stream.of(quick_run("product_launch", steps=10).start().wait(60))
"""One past for all examples."""


def test_what_cannot_be_replayed_is_refused_by_name(tmp_path: Path) -> None:
    """An unknown limit, one out of range, a folder without a run, a run that has not begun: each says which."""
    with pytest.raises(tl.LimitError, match="no limit 'recent'"):
        tl.replay(STREAM, {"recent": 3})
    with pytest.raises(tl.LimitError, match="retain_fraction"):
        tl.replay(STREAM, {"retain_fraction": 3})
    with pytest.raises(tl.InputError, match="ask_every"):
        tl.replay(STREAM, ask_every=-1)
    with pytest.raises(tl.CheckpointError, match="holds no run"):
        tl.replay(tmp_path)
    with pytest.raises(tl.CheckpointError, match="yet to begin"):
        tl.replay(quick_run())


def test_a_replay_leaves_its_source_as_it_was(tmp_path: Path) -> None:
    """The file of a run that was replayed is the same, byte for byte."""
    quick_run(steps=4, folder=tmp_path).start().wait(60)
    before = (tmp_path / "run.sqlite").read_bytes()
    assert np.isfinite(tl.replay(tmp_path, {"recent_max_records": 4}).seconds)
    assert (tmp_path / "run.sqlite").read_bytes() == before
