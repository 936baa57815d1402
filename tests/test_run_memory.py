"""Runs and their memories: caps that move, disks that fill, notes that the model writes."""

from __future__ import annotations

import random

import pytest
from helpers import eventually, quick_run, sha

import troupelab as tl
from troupelab.errors import StoreError, StoreFullError
from troupelab.memory.pool import Pool
from troupelab.store import Store


def test_a_cap_for_all_never_changes_what_is_done():
    """Under a cap so low that memories move to disk all the time, the transcript is the same, and the cap is kept."""
    roomy = quick_run(steps=20).start().wait(60)
    tight = (
        quick_run(steps=20, limits=tl.Limits(total_max_bytes=500_000, segment_cache_max_bytes=20_000)).start().wait(60)
    )
    moved = tight.frames.evictions
    assert len(moved) > 20
    assert not moved["dropped"].any()
    assert (tight.frames.process["memory_bytes"] <= 500_000).all()
    assert tight.summary()["memory_bytes"] <= 500_000 < roomy.summary()["memory_bytes"]
    assert sha(tight) == sha(roomy)
    assert len(tight.frames.errors) == 0


@pytest.mark.parametrize("consolidate", ["extracted", "model", "off"])
def test_each_way_of_consolidating_is_the_same_at_any_concurrency(consolidate):
    """Extracted, written by the model or off: one call in flight or fifty give the same transcript and the same notes."""
    limits = tl.Limits(recent_max_records=30)
    runs = [
        quick_run(steps=12, consolidate=consolidate, limits=limits.replace(max_concurrency=slots)).start().wait(60)
        for slots in (1, 50)
    ]
    assert sha(runs[0]) == sha(runs[1])
    notes = [[[note.text for note in agent.memory.notes] for agent in run._stage.agents] for run in runs]
    assert notes[0] == notes[1]
    assert any(notes[0]) == (consolidate != "off")


def test_the_model_writes_notes_after_the_agent_s_own_last_prompt():
    """The request begins with the agent's last prompt, byte for byte; its tokens and calls are told; facts are not lost."""

    class Watched(tl.ScriptedModel):
        def __init__(self):
            super().__init__(7, latency_s=0.0)
            self.asked = []

        async def complete(self, request):
            self.asked.append(request)
            return await super().complete(request)

    model = Watched()
    run = (
        quick_run(
            steps=14, model=model, consolidate="model", limits=tl.Limits(recent_max_records=30, batch_window_ms=0)
        )
        .start()
        .wait(60)
    )
    written = [request for request in model.asked if request.purpose == "consolidate"]
    done = run.frames.consolidations
    assert len(written) == len(done) == (run.frames.calls["purpose"] == "consolidate").sum() > 8
    assert (done["tokens"] > 0).all()
    prompts = {(request.agent, request.step): request.messages for request in model.asked if request.purpose == "act"}
    for request in written:
        if request.step < 14:
            assert request.messages[:-1] == prompts[request.agent, request.step]
    assert run.efficiency().value > 0


def test_a_model_that_cannot_write_notes_has_them_extracted():
    """A reply without notes is asked for again, told, and then the notes are extracted: nothing is lost."""

    class Silent(tl.ScriptedModel):
        async def complete(self, request):
            reply = await super().complete(request)
            return reply if request.purpose == "act" else tl.Reply('{"notes": []}', 1, 1, 0.0, "silent")

    limits = tl.Limits(recent_max_records=30, max_attempts=2, batch_window_ms=0)
    run = quick_run(steps=12, model=Silent(7, latency_s=0.0), consolidate="model", limits=limits).start().wait(60)
    plain = quick_run(steps=12, limits=limits).start().wait(60)
    errors = run.frames.errors
    assert set(errors["kind"]) == {"ReplyError"}
    assert len(errors) == 2 * len(run.frames.consolidations)
    assert sha(run) == sha(plain)


def test_episodes_end_where_the_world_says():
    """After every so many steps of an episode, memories condense what is over their low water."""
    world = tl.World.load("product_launch")
    scenes = tl.World.from_dict(
        {
            "type": "TroupeLabWorld", "format": 1, "name": "scenes", "start": "2026-03-02T18:00:00", "step_minutes": 5,
            "episode_steps": 4, "agents": ["elif_aydin", "amara_okafor", "oskar_leitner"],
            "opening": [{"text": "Good evening. Who are you?"}],
        }
    )  # fmt: skip
    assert world.episode_steps is None
    run = quick_run(scenes, steps=8, limits=tl.Limits(recent_max_records=20)).start().wait(60)
    done = run.frames.consolidations
    assert set(done[done["reason"] == "episode end"]["step"]) == {3, 7}


def test_what_everybody_knows_is_known_from_the_beginning():
    """A world's knowledge stands in every agent's notes before anything happens, once for all."""
    world = tl.World.from_dict(
        {
            "type": "TroupeLabWorld", "format": 1, "name": "island", "start": "2026-03-02T18:00:00", "step_minutes": 5,
            "knowledge": ["The ferry to the island will be cut on 3 May.", "Nobody may keep goats."],
            "agents": {"sample": 20}, "opening": [{"text": "When will the ferry be cut?"}],
        }
    )  # fmt: skip
    run = quick_run(world, steps=2).start().wait(60)
    agents = run._stage.agents
    assert all("3 May" in agent.memory.recall(["When is the ferry cut?"], 1)[0].text for agent in agents)
    assert len({id(agent.memory.notes[0].text) for agent in agents}) == 1


def test_a_folder_keeps_memories_for_the_next_process(tmp_path):
    """A run with a folder leaves its memories there, whole; another run does not write over them."""
    run = quick_run(steps=20, folder=tmp_path / "launch", limits=tl.Limits(recent_max_records=40)).start().wait(60)
    there = {agent.name: agent.memory.size() for agent in run._stage.agents}
    with Store.open(tmp_path / "launch" / "run.sqlite", create=False) as store:
        pool = Pool(store, embedder=run._stage.pool.embedder)
        for index, name in enumerate(run.agent_names):
            size = tl.Memory(index, tl.Limits(recent_max_records=40), pool).size()
            known = there[name]
            assert (size.recent_records, size.notes) == (known.recent_records, known.notes)
            assert size.archive_records == known.archive_records > 0
    assert Store.verify(tmp_path / "launch" / "run.sqlite") == []
    with pytest.raises(tl.RunError, match="holds a run already"):
        quick_run(folder=tmp_path / "launch")


def test_a_full_disk_pauses_the_run_and_loses_nothing(tmp_path):
    """When nothing more can be written, the run pauses and says why; with room again it goes on to the same end."""
    options = {"steps": 24, "limits": tl.Limits(recent_max_records=20, total_max_bytes=250_000)}
    run = quick_run(folder=tmp_path / "full", **options)
    store = run._file.opened()
    pages = store._writer._connection.execute("PRAGMA page_count").fetchone()[0]

    run.start(paused=True)
    store._writer._connection.execute(f"PRAGMA max_page_count={pages + 2}")
    store.put("filler", -1, b"", random.Random(7).randbytes(100_000))
    with pytest.raises(StoreFullError):
        store.flush(10)
    run.resume()
    eventually("the run pauses", lambda: run.state == "paused")
    assert run.progress().step < 23
    assert "StoreFullError" in set(run.frames.errors["kind"])
    assert any("disk" in reason for reason in run.frames.runs["reason"])
    store._writer._connection.execute("PRAGMA max_page_count=1073741823")
    run.resume()
    run.wait(60)
    assert sha(run) == sha(quick_run(**options).start().wait(60))
    assert run.summary()["archived"] > 0


def test_a_disk_that_stays_full_is_told_at_the_end(tmp_path):
    """Memories that could not be kept in the folder fail the run's end loudly, never silently."""
    run = quick_run(steps=1, folder=tmp_path / "full").start(paused=True)
    store = run._file.opened()
    pages = store._writer._connection.execute("PRAGMA page_count").fetchone()[0]
    store._writer._connection.execute(f"PRAGMA max_page_count={pages}")
    run.resume()
    with pytest.raises(tl.RunError, match="full"):
        run.wait(60)
    assert isinstance(run.error, StoreError)


def test_limits_of_memory_hold_from_their_step_on():
    """Caps changed while it runs are obeyed by every agent from their effective step on; raising one loses nothing."""
    run = quick_run(steps=30, limits=tl.Limits(recent_max_records=60))
    run.start(paused=True)
    run.step(12)
    eventually("twelve steps are played", lambda: run.state == "paused")
    run.limits.update(recent_max_records=12, max_age_steps=5, semantic_max_notes=6, total_max_bytes=400_000)
    eventually("the limits are accepted", lambda: len(run.frames.limits) == 4)
    effective = int(run.frames.limits["effective_step"].max())
    run.step(8)
    eventually("eight more are played", lambda: run.state == "paused" and run.progress().acts_done == 160)
    sizes = run.frames.memory
    later = sizes[sizes["step"] >= effective]
    assert (later["recent_records"] <= 12).all()
    assert (later["notes"] <= 6).all()
    assert later["archive_records"].max() <= 8 * 6 * 8
    before = later.groupby("agent", observed=True).last()["recent_records"]
    run.limits.update(recent_max_records=500, max_age_steps=None, semantic_max_notes=None, total_max_bytes=None)
    run.resume()
    run.wait(60)
    after = run.frames.memory.groupby("agent", observed=True).last()["recent_records"]
    assert (after > before).all()
