"""Probes: planted facts, the questions that should find them, and that asking changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import quick_run
from hypothesis import given
from hypothesis import strategies as st

import troupelab as tl
from troupelab.engine.prober import K, _rank
from troupelab.ids import make_id
from troupelab.memory.peek import Looked, Peek
from troupelab.memory.record import Note

FERRY = tl.Probe(
    "ferry",
    "The last ferry leaves at 21:40.",
    "When does the last ferry leave?",
    ("Until when does the boat go over?",),
    neighbour="The first ferry leaves at 6:15.",
    answer=("21:40",),
)
SAME = ["step", "agent", "probe", "wording", "age_steps", "rank", "tier", "held", "neighbour_rank", "k", "shares_word"]


def asked(run: tl.Run | tl.Recording) -> list[tuple[object, ...]]:
    """All that was asked, without the times."""
    return sorted(run.frames.probes[SAME].itertuples(index=False, name=None))


def test_every_world_that_ships_has_probes_of_what_it_tells_and_a_third_share_no_word() -> None:
    """Facts and neighbours are told by the world, and at least 30 % of all questions have no content word of their fact."""
    shares, neighbours = [], 0
    for name in tl.World.names():
        world = tl.World.load(name)
        assert len(world.probes) >= 6
        neighbours += sum(bool(probe.neighbour) for probe in world.probes)
        for probe in world.probes:
            assert any(probe.fact in event.text and event.step == probe.step for event in world.stimuli)
            shares += [probe.shares_word(wording) for wording in range(len(probe.wordings))]
        assert tl.World.from_dict(world.to_dict()) == world
    assert neighbours >= 8
    assert shares.count(False) >= 0.3 * len(shares)


def test_asking_changes_nothing(tmp_path: Path) -> None:
    """With and without probes, and under caps so tight that memories leave RAM, transcript, memories and evictions are the same."""
    limits = tl.Limits(recent_max_records=12, max_age_steps=9, total_max_bytes=300_000)
    runs = [quick_run("town", steps=14, limits=limits, ask_every=every).start().wait(60) for every in (0, 1)]
    assert runs[0].frames.probes.empty
    assert len(runs[1].frames.probes) > 200
    assert runs[0].recorder.transcript_sha256() == runs[1].recorder.transcript_sha256()
    for family in ("memory", "evictions", "dedups", "consolidations"):
        columns = [each for each in getattr(runs[0].frames, family) if each not in ("at_s", "seconds", "archive_bytes")]
        both = [getattr(run.frames, family)[columns].sort_values(columns[:2], kind="stable") for run in runs]
        if family == "memory":  # what a memory takes in RAM depends on when the disk is done
            both = [each.drop(columns="total_bytes") for each in both]
        if family == "evictions":
            both = [each[each["dropped"]] for each in both]
        assert both[0].to_numpy().tolist() == both[1].to_numpy().tolist()


def test_a_fact_is_found_until_a_cap_drops_it() -> None:
    """In recent memory the fact ranks first; where all that could hold it is dropped, it is held nowhere and found nowhere."""
    run = quick_run(
        steps=12, ask_every=2, limits=tl.Limits(max_age_steps=2, semantic_max_notes=1, recent_max_records=6)
    )
    run.start(paused=True)
    planted = run.plant(FERRY)
    run.resume()
    found = run.wait(60).frames.probes.query("probe == 'ferry'")
    assert planted.step == 0
    late = found[found["age_steps"] >= 8]
    assert (late["held"] == "").any()  # who has said it again since may still have that
    assert (late.loc[late["held"] == "", "rank"] == 0).all()
    early = found[found["age_steps"] < 2]
    assert (early["held"] != "").all()
    kept = quick_run(steps=12, ask_every=2).start(paused=True)
    kept.plant(FERRY)
    kept.resume()
    best = kept.wait(60).frames.probes.query("probe == 'ferry' and wording == 0")
    assert set(best["held"]) <= {"recent", "archive"}
    assert (best["rank"] > 0).mean() > (found["rank"] > 0).mean()


def test_recordings_resumed_runs_and_forks_ask_the_same(tmp_path: Path) -> None:
    """What was planted is in the journal: a recording, the run resumed for more steps and a fork ask all of it again, once."""
    run = quick_run(steps=10, ask_every=3, folder=tmp_path / "run", limits=tl.Limits(recent_max_records=15))
    run.start(paused=True)
    run.plant(FERRY)
    run.resume()
    run.wait(60)
    told = asked(run)
    assert {each[2] for each in told} >= {"ferry", "price"}
    with tl.Recording.open(tmp_path / "run") as recording:
        assert asked(recording) == told
    fork = run.fork(at_step=6).start().wait(60)
    assert asked(fork) == told
    more = tl.Run.resume(tmp_path / "run", steps=13).start().wait(60)
    again = [each for each in asked(more) if each[0] < 10]
    assert again == told
    assert any(each[0] >= 10 and each[2] == "ferry" for each in asked(more))


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=K + 8))
def test_ties_count_against_the_fact(drawn: list[tuple[int, bool]]) -> None:
    """A rank is one more than the number of things without the fact that score as much or more."""
    drawn.sort(key=lambda each: -each[0])
    found = [
        Looked(float(score), Note(at, 0, 0, 1, "yes" if holds else "no"), "notes")
        for at, (score, holds) in enumerate(drawn)
    ]
    rank, tier = _rank(found, lambda text: text == "yes")
    best = max((score for score, holds in drawn if holds), default=None)
    ahead = 0 if best is None else sum(not holds and score >= best for score, holds in drawn)
    expected = 0 if best is None or ahead >= K else ahead + 1
    assert (rank, tier) == (expected, "notes" if expected else "")


def test_a_look_finds_what_memory_finds_and_leaves_no_trace(tmp_path: Path) -> None:
    """`Peek` finds what `Memory.relevant` finds over all tiers, and what the memory takes in RAM is the same after it."""
    with tl.Store.open(tmp_path / "store.sqlite") as store:
        memory = tl.Memory(0, tl.Limits(recent_max_records=8), tl.Pool(store, embedder=tl.HashingEmbedder()))
        for step in range(30):
            memory.begin(step, tl.Limits(recent_max_records=8))
            memory.store([tl_record(step, f"Page {step} of the ledger has {3 * step} errors in column {step % 4}.")])
            memory.settle()
        memory.archive.seal() if memory.archive else None
        memory.charge()
        before = memory.ram_bytes
        looked = Peek(memory).relevant("errors on page 7 of the ledger", 6)
        assert memory.ram_bytes == before
        found = memory.relevant("errors on page 7 of the ledger", 6, tiers=("notes", "records", "archive"))
        assert [(each.score, each.item) for each in looked] == [(each.score, each.item) for each in found]
        assert {each.tier for each in looked} <= {"recent", "archive", "notes"}


def tl_record(step: int, text: str) -> object:
    """A record of a step."""
    from troupelab.memory.record import Record

    return Record(make_id(0, step, 0), "CONVERSATION", "Elif", text, 0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"fact": ""}, "fact"),
        ({"question": 7}, "question"),
        ({"answer": ("not in it",)}, "answer"),
        ({"neighbour": "It is 21:40."}, "neighbour"),
        ({"step": -1}, "step"),
        ({"paraphrases": "one text"}, "paraphrases"),
        ({"fact": "x" * 5000}, "fact"),
    ],
)
def test_a_probe_that_cannot_be_used_is_refused_by_name(wrong: dict[str, object], named: str) -> None:
    """The error names the field."""
    given = {"name": "ferry", "fact": "It leaves at 21:40.", "question": "When?", "answer": ("21:40",)}
    with pytest.raises(tl.InputError, match=named):
        tl.Probe(**{**given, **wrong})


def test_a_worlds_probe_that_cannot_be_used_is_refused_with_its_place() -> None:
    """A world file's error names the probe and the field; a probe of nobody who is there, too."""
    raw = tl.World.load("product_launch").to_dict()
    for wrong, named in (
        ({"fact": 3}, r"probes\[0\]"),
        ({"to": ["Nobody"]}, r"probes\[0\].to"),
        ({"colour": 1}, "colour"),
    ):
        probe = {"name": "a", "fact": "It has 3 legs.", "question": "How many?", **wrong}
        with pytest.raises(tl.WorldError, match=named):
            tl.World.from_dict({**raw, "probes": [probe]})


def test_ask_every_must_be_a_number_of_steps() -> None:
    """Anything but a whole number from 0 is refused."""
    with pytest.raises(tl.RunError, match="ask_every"):
        tl.Run("product_launch", ask_every=-1)
