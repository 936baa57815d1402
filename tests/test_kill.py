"""Runs that are killed with kill -9 again and again come to the end of a run that was never killed, and pay for nothing twice."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import troupelab as tl
from troupelab.bench import kill
from troupelab.bench.lives import LIMITS, STEPS, Note, begin_life, memories_digest
from troupelab.bench.order import worlds
from troupelab.models.rehearsal.process import Rehearsal


@pytest.fixture(scope="module")
def server() -> Iterator[Rehearsal]:
    """A rehearsal server whose latencies shuffle who ends first."""
    with Rehearsal(latency="lognorm:0.01:0.8", seed=7) as server:
        yield server


def check(tallies: list[kill.Tally], rounds: int) -> None:
    """Hold a kill table against what a kill may cost."""
    for each in tallies:
        assert each.problems == [], each
        assert each.resumed + each.no_run_yet == each.rounds, each
        assert each.equal_transcripts == each.equal_memories == each.rounds, each
        assert each.paid_twice == 0, each
        assert each.asked == each.needed + each.not_durable + each.in_flight, each
    assert sum(each.rounds for each in tallies) == rounds
    assert {each.graph for each in tallies if each.rounds} == set(kill.GRAPHS)
    assert {each.order for each in tallies if each.rounds} == {"lockstep", "free"}


def table(server: Rehearsal, folder: Path, rounds: int, seed: int, kills: int = 7) -> None:
    """Kill so many times, and compare what the lives say that they asked for with what the server counted."""
    server.reset()
    tallies = kill.kill_runs(folder, rounds, base_url=server.base_url, seed=seed, kills=kills)
    check(tallies, rounds)
    needed, asked = sum(each.needed for each in tallies), sum(each.asked for each in tallies)
    # What was noted in the moment of a kill may not have gone out.
    assert needed <= server.stats()["requests"] <= asked
    for each in tallies:
        print(each)


def test_kills_change_nothing_and_nothing_is_paid_twice(server, tmp_path):
    """Over HTTP, on three graphs and in both orders: the same transcript, the same memories, no acknowledged call again."""
    table(server, tmp_path, 8, seed=7, kills=2)


@pytest.mark.slow
def test_a_hundred_kills_change_nothing_and_nothing_is_paid_twice(server, tmp_path):
    """The same at a hundred other moments."""
    table(server, tmp_path, 100, seed=8)


def test_an_undisturbed_run_s_folder_holds_what_its_agents_remember(tmp_path):
    """What the table compares with, read from the folder of another process, is what the agents of a run in this one remember."""
    with begin_life(tmp_path / "run", "degree4", "free", "", tmp_path / "notes") as life:
        life.end()
    assert (life.started, life.problem) == (True, "")
    model = tl.ScriptedModel(7, latency_s=0.0)
    run = tl.Run(worlds(25)["degree4"], model, limits=LIMITS, steps=STEPS, seed=7).start().wait(60)
    memories = memories_digest(run)
    assert (life.result["transcript"], life.result["memories"]) == (run.recorder.transcript_sha256(), memories)
    assert run.recorder.count("consolidations") > 50
    assert run.recorder.count("dedups") > 5
    run._stage.agents[0].state = {"emotions": "another"}
    assert memories_digest(run) != memories


def test_replies_that_are_durable_are_not_paid_for_again_even_without_the_journal(server, tmp_path):
    """Begun anew beside the replies of a killed run, with its own file gone, a run asks for none of those again."""
    folder = tmp_path / "run"
    with begin_life(folder, "groups5", "free", server.base_url, tmp_path / "first") as killed:
        killed.kill_after(500, 0.01)
        killed.end()
    with contextlib.closing(sqlite3.connect(folder / "replies.sqlite")) as connection:
        durable = {key.hex() for (key,) in connection.execute("SELECT key FROM reply")}
    assert len(durable) > 50
    for file in folder.glob("run.sqlite*"):
        file.unlink()
    with begin_life(folder, "groups5", "free", server.base_url, tmp_path / "second") as life:
        life.end()
    asked = {note.key for note in life.notes() if note.asked}
    assert life.result["whole"]
    assert not asked & durable
    assert len(asked) == 25 * STEPS - len(durable)


def test_the_table_tells_what_was_paid_twice_from_what_was_lost():
    """Asked for again: a durable reply, a reply that had come, one that was under way, and an act that was durable."""
    said, tally = kill.Said(), kill.Tally("full", "free")
    first = [Note(True, agent, 0, key) for agent, key in enumerate("abcd")]
    said.count([*first, *(Note(False, agent, 0, key) for agent, key in enumerate("abd"))], tally)
    assert (tally.asked, tally.paid_twice, tally.not_durable, tally.in_flight) == (4, 0, 0, 0)
    said.durable.add("a")
    said.acts.add((3, 0))
    said.count([*first, Note(True, 4, 0, "e")], tally)
    assert (tally.asked, tally.paid_twice, tally.not_durable, tally.in_flight) == (9, 2, 1, 1)
