"""Runs: determinism, controls, limits mid-run, and what happens when things fail."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import eventually, memories, quick_run
from hypothesis import given
from hypothesis import strategies as st

import troupelab as tl
from troupelab.engine.schedule import PlayedStep, lockstep_bound, lockstep_efficiency, simulate_lockstep
from troupelab.models.model import NOTES, NOW, PERSONA, RECENTLY, sections

GOOD = json.dumps({"actions": [{"type": "TALK", "content": "Well.", "target": ""}, {"type": "DONE"}]})


class Gate:
    """A model whose replies wait until the test lets them go, and which remembers who asked."""

    name = "gate"

    def __init__(self, *, is_open=False):
        self.asked = []
        self.open = threading.Event()
        self.is_async_open = is_open

    async def complete(self, request):
        self.asked.append((request.step, request.agent))
        while not (self.is_async_open or self.open.is_set()):
            await asyncio.sleep(0.002)
        return tl.Reply(GOOD, 1, 1, 0.0, self.name)


# ---------------------------------------------------------------------- determinism


@pytest.mark.parametrize("world", ["product_launch", "town"])
def test_transcript_and_memories_do_not_depend_on_concurrency(world):
    """With latencies that shuffle who ends first, one at a time and fifty at once give the same transcript and memories."""
    results = []
    for slots in (1, 7, 50):
        model = tl.ScriptedModel(7, latency_s=0.0005, latency_sigma=1.5)
        limits = tl.Limits(max_concurrency=slots, recent_max_records=20)
        run = quick_run(world, model=model, limits=limits, steps=8).start().wait(120)
        assert run.recorder.count("consolidations") > 0
        results.append((run.recorder.transcript_sha256(), memories(run)))
    assert results[0] == results[1] == results[2]


def test_another_seed_is_another_run():
    """The run's seed alone changes what is said."""
    one, other = (quick_run(seed=seed).start().wait(60).recorder.transcript_sha256() for seed in (7, 8))
    assert one != other


def test_memory_limits_change_what_is_said():
    """What agents remember reaches their prompts: a smaller memory gives another transcript in the end."""
    one, other = (
        quick_run(steps=15, limits=tl.Limits(recent_max_records=cap)).start().wait(60).recorder.transcript_sha256()
        for cap in (4, 200)
    )
    assert one != other


def test_what_is_said_is_heard_at_the_next_step_by_everyone():
    """Each TALK to nobody in particular is in every other agent's memory, one step later, once."""
    run = quick_run(limits=tl.Limits(recent_max_records=None)).start().wait(60)
    talk = run.transcript().query("action == 'TALK' and target == ''")
    assert len(talk) > 10
    for row in talk.itertuples():
        for agent in run._stage.agents:
            if agent.name != row.agent:
                matches = [
                    each
                    for each in agent.memory.between(row.step + 1, row.step + 1)
                    if (each.source, each.text) == (row.agent, row.content)
                ]
                assert len(matches) == 1


# ---------------------------------------------------------------------- controls


def test_start_returns_at_once_and_the_run_is_listed_until_it_ends():
    """A started run works in the background, stands in tl.runs(), and leaves it at its end."""
    model = Gate()
    run = quick_run(model=model)
    assert run.state == "ready"
    run.start()
    assert run.state == "running"
    assert run in tl.runs()
    model.open.set()
    run.wait(30)
    assert run.state == "done"
    assert run not in tl.runs()


def test_pause_lets_nobody_begin_and_those_under_way_finish():
    """Paused with two calls in flight, those two end and no third begins; resumed, all is played."""
    model = Gate()
    run = quick_run(model=model, limits=tl.Limits(max_concurrency=2)).start()
    eventually("the run gets there", lambda: len(model.asked) == 2)
    run.pause()
    assert run.state == "paused"
    model.open.set()
    eventually("the run gets there", lambda: run.progress().acts_done == 2)
    time.sleep(0.05)
    assert len(model.asked) == 2
    assert (run.in_flight, run.queued) == (0, 6)
    run.resume()
    assert run.wait(30).progress().acts_done == 32


def test_step_plays_so_many_steps_and_pauses_again():
    """step() on a fresh run starts it paused and plays one step; step(2) two more; resume plays the rest."""
    run = quick_run(model=Gate(is_open=True), steps=6)
    run.step()
    eventually("the run gets there", lambda: run.state == "paused")
    assert run.summary()["steps"] == 1
    run.step(2)
    eventually("the run gets there", lambda: run.summary()["steps"] == 3 and run.state == "paused")
    run.resume()
    assert run.wait(30).summary()["steps"] == 6


def test_stopping_lets_calls_in_flight_finish():
    """stop() waits for the acts under way, begins no other, and keeps what was done."""
    model = Gate()
    run = quick_run(model=model, limits=tl.Limits(max_concurrency=3)).start()
    eventually("the run gets there", lambda: len(model.asked) == 3)
    run.stop()
    assert run.state == "stopping"
    model.open.set()
    run.wait(30)
    assert run.state == "stopped"
    assert run.progress().acts_done == 3
    assert len(model.asked) == 3


def test_stopping_now_cancels_calls_and_leaves_no_half_act():
    """stop(now=True) ends at once: cancelled acts leave no record, no message and no action, but a row of their call."""
    model = Gate()
    run = quick_run(model=model, limits=tl.Limits(max_concurrency=3)).start()
    eventually("the run gets there", lambda: len(model.asked) == 3)
    run.stop(now=True)
    run.wait(5)
    assert run.state == "stopped"
    assert len(run.transcript()) == 0
    assert sum(agent.memory.stored for agent in run._stage.agents) == 0
    assert run.frames.calls["error"].tolist() == ["CancelledError"] * 3


def test_a_paused_run_can_be_stopped():
    """stop() ends a run that is paused."""
    run = quick_run(model=Gate()).start(paused=True)
    run.stop()
    assert run.wait(10).state == "stopped"


@pytest.mark.parametrize("control", ["pause", "resume", "stop", "wait"])
def test_controls_out_of_turn_say_what_they_need(control):
    """Before the start, each control raises a RunError that names the state or the remedy."""
    with pytest.raises(tl.RunError, match=r"ready|start"):
        getattr(quick_run(), control)()


def test_a_run_is_started_once_and_controls_after_the_end_say_so():
    """A second start, and a pause after the end, are refused."""
    run = quick_run(steps=1).start().wait(30)
    with pytest.raises(tl.RunError, match="once"):
        run.start()
    with pytest.raises(tl.RunError, match="this one is done"):
        run.pause()
    with pytest.raises(tl.RunError, match="at least 1 step"):
        run.step(0)


def test_waiting_in_vain_says_that_it_goes_on():
    """wait(timeout) raises TimeoutError and the run is still running."""
    model = Gate()
    run = quick_run(model=model).start()
    with pytest.raises(TimeoutError, match="it goes on"):
        run.wait(0.05)
    assert run.state == "running"
    run.stop(now=True)
    run.wait(10)


def test_a_run_can_be_awaited():
    """`await run` starts it, leaves the caller's loop free meanwhile, and gives the run."""

    async def main():
        ticks = 0
        run = quick_run(model=tl.ScriptedModel(7, latency_s=0.01))
        waiting = asyncio.ensure_future(_await(run))
        while not waiting.done():
            await asyncio.sleep(0.005)
            ticks += 1
        return waiting.result().state, ticks

    async def _await(run):
        return await run

    state, ticks = asyncio.run(main())
    assert state == "done"
    assert ticks > 3


def test_two_runs_side_by_side_do_not_touch_each_other():
    """Two runs in one process give what each gives alone."""
    alone = [quick_run(seed=seed).start().wait(60).recorder.transcript_sha256() for seed in (1, 2)]
    together = [quick_run(seed=seed).start() for seed in (1, 2)]
    assert [run.wait(60).recorder.transcript_sha256() for run in together] == alone


@pytest.mark.parametrize(
    "going", ["run.start()", "run.start(paused=True)", "run.step(3)", "run.start().stop(now=True)"]
)
def test_leaving_the_process_stops_what_runs(going: str, tmp_path: Path):
    """A script that ends while a run goes on, is paused or is ending exits by itself, quickly and without a word, and what happened is kept."""
    folder = tmp_path / "run"
    script = (
        "import time, troupelab as tl\n"
        f"run = tl.Run('product_launch', tl.ScriptedModel(7, latency_s=0.05), steps=1000, folder={str(folder)!r})\n"
        f"{going}\n"
        "time.sleep(0.5)\n"
        "print('left')"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "left", "")
    again = tl.Run.resume(folder)
    again.start(paused=True)
    eventually("the past is there", lambda: again.progress().acts_done > 0 or going != "run.start()")
    again.stop(now=True)
    again.wait(60)


# ---------------------------------------------------------------------- limits


def test_a_memory_limit_takes_effect_for_everyone_at_one_step():
    """Lowered while a step is half played, the cap holds for all from the next step on, and for none before."""
    model = Gate()
    run = quick_run(model=model, steps=30, limits=tl.Limits(recent_max_records=60, max_concurrency=4)).start(
        paused=True
    )
    run.step(15)
    model.open.set()
    eventually("the run gets there", lambda: run.state == "paused")
    model.open.clear()
    run.resume()
    eventually("the run gets there", lambda: len(model.asked) >= 15 * 8 + 2)
    run.limits.update(recent_max_records=10, note="smaller", by="test")
    eventually("the run gets there", lambda: run.recorder.count("limits") == 1)
    model.open.set()
    run.wait(60)
    change = run.frames.limits.iloc[0]
    assert (change["field"], change["old"], change["new"], change["note"], change["by"]) == (
        "recent_max_records",
        60,
        10,
        "smaller",
        "test",
    )
    assert change["effective_step"] == 16
    assert change["accepted_ms"] < 1_000
    sizes = run.frames.memory
    assert sizes.query("step == 15")["recent_records"].max() > 10
    assert sizes.query("step >= 16")["recent_records"].max() <= 10


def test_concurrency_follows_its_limit_at_once():
    """Raised and lowered while calls hang, the number in flight follows without waiting for a step."""
    model = Gate()
    run = quick_run(tl.World.sample(40, seed=1), model=model, steps=1, limits=tl.Limits(max_concurrency=5)).start()
    eventually("the run gets there", lambda: run.in_flight == 5)
    run.limits.update(max_concurrency=30)
    eventually("the run gets there", lambda: run.in_flight == 30)
    run.limits.update(max_concurrency=2)
    model.open.set()
    run.wait(30)
    assert run.frames.limits["new"].tolist() == [30, 2]


def test_one_agent_can_be_given_a_smaller_memory():
    """An override for one agent shrinks that one alone."""
    run = quick_run(steps=12, limits=tl.Limits(recent_max_records=100))
    run.limits.update(recent_max_records=8, agents=["Elif Aydın"])
    run.start().wait(60)
    most = run.frames.memory.groupby("agent", observed=True)["recent_records"].max()
    assert most["Elif Aydın"] <= 8
    assert most.drop("Elif Aydın").min() > 50


def test_a_refused_change_leaves_a_running_run_alone():
    """A value out of range raises in the caller; the run neither logs it nor stops."""
    model = Gate()
    run = quick_run(model=model).start()
    with pytest.raises(tl.LimitError, match="recent_max_records must be a whole number from 4"):
        run.limits.update(recent_max_records=0)
    model.open.set()
    assert run.wait(30).state == "done"
    assert len(run.frames.limits) == 0


def test_steps_can_be_slowed_down():
    """step_delay_ms puts a pause between steps that does not count against efficiency."""
    run = quick_run(steps=4, limits=tl.Limits(step_delay_ms=60)).start().wait(30)
    starts = run.frames.steps["start_s"].tolist()
    assert all(later - earlier >= 0.06 for earlier, later in pairwise(starts))
    assert run.efficiency().wall_s <= run.now_s() - 3 * 0.06


# ---------------------------------------------------------------------- failures


class Moody:
    """A model that fails for some acts, by step and agent, a number of times."""

    name = "moody"

    def __init__(self, failures):
        self.failures = dict(failures)

    async def complete(self, request):
        left = self.failures.get((request.step, request.agent), 0)
        if left:
            self.failures[request.step, request.agent] = left - 1
            raise OSError("the line is dead")
        return tl.Reply(GOOD, 1, 1, 0.0, self.name)


def test_a_failed_act_is_retried_then_skipped_and_told():
    """One failure is asked again and done; too many skip the act, whose stimuli are remembered all the same."""
    run = quick_run(model=Moody({(1, 0): 1, (1, 2): 99}), limits=tl.Limits(max_attempts=2)).start().wait(30)
    assert run.state == "done"
    errors = run.frames.errors
    assert errors["agent"].tolist().count(run.agent_names[0]) == 1
    assert errors["agent"].tolist().count(run.agent_names[2]) == 2
    assert errors["message"].str.contains("OSError: the line is dead").all()
    acts = run.frames.acts
    skipped = acts[acts["error"] != ""]
    assert [(row.step, row.agent, row.error, row.actions) for row in skipped.itertuples()] == [
        (1, run.agent_names[2], "ModelServerError", 0)
    ]
    third = run._stage.agents[2].memory
    assert [record.role for record in third.between(1, 1)] == ["stimulus"] * 7
    assert len(acts) == 32


def test_calls_made_are_calls_recorded():
    """Over a run with failures, the attempts in the frame add up to what the model was asked."""

    class Counting(Moody):
        asked = 0

        async def complete(self, request):
            self.asked += 1
            return await super().complete(request)

    model = Counting({(0, 1): 1, (2, 5): 99, (3, 3): 2})
    run = quick_run(model=model).start().wait(30)
    assert run.frames.calls["attempts"].sum() == model.asked
    assert len(run.frames.calls) == 32


def test_a_hanging_model_is_timed_out():
    """A call without an answer is given up after timeout_s, named as what it is."""
    run = quick_run(model=Gate(), steps=1, limits=tl.Limits(timeout_s=0.05, max_attempts=1)).start().wait(30)
    assert set(run.frames.acts["error"]) == {"ModelTimeoutError"}


def test_a_consolidation_that_breaks_loses_nothing():
    """Where the embedder fails, the records become notes word for word and an event says so."""

    class Broken(tl.HashingEmbedder):
        def embed(self, texts):
            if len(texts) > 3:
                raise ArithmeticError("no vectors today")
            return super().embed(texts)

    run = quick_run(steps=12, embedder=Broken(), limits=tl.Limits(recent_max_records=20)).start().wait(60)
    assert run.state == "done"
    assert "ArithmeticError" in set(run.frames.errors["kind"])
    for agent in run._stage.agents:
        size = agent.memory.size()
        merged = (run.frames.dedups["agent"] == agent.name).sum()
        assert size.archive_records + size.recent_records + merged == agent.memory.stored
        assert sum(note.records for note in agent.memory.notes) == size.archive_records


def test_large_consolidations_run_beside_the_loop_and_small_ones_on_it():
    """A job of many records is handed to the worker's thread; a small one is not worth it, and both give notes."""

    class Watched(tl.HashingEmbedder):
        def __init__(self):
            super().__init__(64)
            self.threads = {}

        def embed(self, texts):
            self.threads[len(texts)] = threading.current_thread().name
            return super().embed(texts)

    watched = Watched()
    run = quick_run(
        steps=20, embedder=watched, limits=tl.Limits(recent_max_records=120, consolidate_to=0.0, dedup_similarity=None),
        ask_every=0,  # what asks memories about facts embeds as many records, on the loop
    )  # fmt: skip
    run.start(paused=True)
    run.limits.update(recent_max_records=8, agents=["Elif Aydın"])
    run.resume()
    run.wait(60)
    assert all("consolidate" in name for count, name in watched.threads.items() if count > 110)
    assert all("consolidate" not in name for count, name in watched.threads.items() if count < 20)
    assert min(watched.threads) < 20 < 110 < max(watched.threads)
    assert all(agent.memory.notes for agent in run._stage.agents)


def test_a_fault_in_the_engine_ends_the_run_loudly(monkeypatch, caplog):
    """What no rule foresees makes the run fail: the state, the log and wait() all say so."""
    run = quick_run()
    monkeypatch.setattr(run._stage, "deliver", lambda *arguments: 1 / 0)
    run.start()
    with pytest.raises(tl.RunError, match="division by zero"):
        run.wait(30)
    assert run.state == "failed"
    assert "failed" in caplog.text
    assert run.frames.runs["state"].tolist()[-1] == "failed"


def test_model_text_is_kept_as_it_came():
    """Markup, control characters and right-to-left marks pass through; lone surrogates, which nothing can write, become U+FFFD."""
    strange = "<script>alert(1)</script>[/b]\u202e\x00 {not} a 'format' "

    class Strange:
        name = "strange"

        async def complete(self, request):
            return tl.Reply(
                json.dumps(
                    {"actions": [{"type": "TALK", "content": strange + "\ud800", "target": ""}, {"type": "DONE"}]}
                ),
                1,
                1,
                0.0,
                "s",
            )

    run = quick_run(model=Strange(), steps=3).start().wait(30)
    assert set(run.transcript()["content"]) == {strange + "\ufffd"}
    assert run.frames.errors.empty


# ---------------------------------------------------------------------- results


def test_the_summary_adds_up():
    """Acts, calls, records and steps in the summary are those of the frames."""
    run = quick_run(steps=10, limits=tl.Limits(recent_max_records=20)).start().wait(60)
    summary = run.summary()
    assert (summary["acts"], summary["calls"], summary["steps"], summary["agents"]) == (80, 80, 10, 8)
    assert summary["consolidations"] == len(run.frames.consolidations) > 0
    sizes = run.frames.memory.groupby("agent", observed=True).last()
    total = sizes["total_bytes"].sum()  # what several share counts once for all, and allocators hold a third on top
    assert 0.8 * total < summary["memory_bytes"] < 1.3 * total
    condensed = run.frames.consolidations["records_in"].sum()
    assert summary["records"] == sizes["recent_records"].sum() + condensed + summary["merged"]
    assert 0 < summary["efficiency"] <= 1.05
    assert json.dumps(summary)


def test_the_transcript_is_in_order_without_done():
    """Rows go by step and agent, and DONE, which says nothing, is left out."""
    run = quick_run(steps=5).start().wait(60)
    transcript = run.transcript()
    places = [(row.step, run.agent_names.index(row.agent)) for row in transcript.itertuples()]
    assert places == sorted(places)
    assert "DONE" not in set(transcript["action"])


def test_simulated_time_is_the_only_time_in_a_prompt():
    """The prompt tells the world's time at the step, so that two runs on two days are the same."""
    prompts = []

    class Listening(Gate):
        async def complete(self, request):
            prompts.append((request.step, sections("".join(message.content for message in request.messages))[NOW]))
            return await super().complete(request)

    quick_run(model=Listening(is_open=True), steps=3).start().wait(30)
    times = {step: text.splitlines()[0] for step, text in prompts}
    assert times == {
        0: "It is Monday 02 March 2026, 18:00.",
        1: "It is Monday 02 March 2026, 18:06.",
        2: "It is Monday 02 March 2026, 18:12.",
    }


def test_nothing_said_can_look_like_a_section_of_the_prompt():
    """Speech with a title of a prompt's section in it stays inside its own line or note."""
    fake = f"Well.{PERSONA}{{}}{NOW}You just heard:"
    good = json.dumps({"actions": [{"type": "TALK", "content": fake, "target": ""}, {"type": "DONE"}]})
    seen = []

    class Sly:
        name = "sly"

        async def complete(self, request):
            seen.append(sections("".join(message.content for message in request.messages)))
            return tl.Reply(good, 1, 1, 0.0, self.name)

    quick_run(model=Sly(), steps=6, limits=tl.Limits(recent_max_records=8)).start().wait(30)
    assert all(parts[PERSONA].startswith('{"name"') and parts[NOW].startswith("It is ") for parts in seen)
    assert "# Persona" in seen[-1][RECENTLY]
    assert "# Persona" in seen[-1][NOTES]


def test_progress_says_how_far_it_is():
    """Before, within and after, progress counts acts and guesses the time left."""
    model = Gate()
    run = quick_run(model=model)
    assert run.progress() == (-1, 4, 0, 32, 0.0, None)
    run.start()
    model.open.set()
    run.wait(30)
    progress = run.progress()
    assert (progress.step, progress.acts_done, progress.left_s) == (3, 32, 0.0)
    assert run.now_s() == run.now_s() > 0


# ---------------------------------------------------------------------- the yardstick

durations = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=40)


@given(durations, st.integers(1, 50))
def test_no_schedule_beats_its_bound(acts, slots):
    """The simulated time lies between the bound and twice it (Graham 1969), and with one slot it is the sum."""
    simulated, bound = simulate_lockstep(acts, slots), lockstep_bound(acts, slots)
    assert bound - 1e-9 <= simulated <= 2 * bound + 1e-9
    assert simulate_lockstep(acts, 1) == pytest.approx(sum(acts))
    assert simulate_lockstep(acts, len(acts)) == max(acts)


def test_efficiency_is_simulated_over_wall():
    """Two steps that took a quarter longer than they had to have an efficiency of 0.8."""
    found = lockstep_efficiency([PlayedStep([1.0, 1.0], 2, 1.25), PlayedStep([1.0, 1.0], 1, 2.5)])
    assert found == (pytest.approx(0.8), 3.75, 3.0, 3.0)
    assert lockstep_efficiency([]).value == 1.0
