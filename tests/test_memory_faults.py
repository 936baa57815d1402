"""Memories that are killed: what was kept is there, whole, and nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from memory_writer import AGENTS, LIMITS, live, text_of

import troupelab as tl
from troupelab.ids import split_id
from troupelab.memory.pool import Pool
from troupelab.store import Store


def killed_at(folder: Path, seed: int) -> int:
    """Let a process live over a store and kill it at some moment; returns the last step that it said was kept."""
    script = [sys.executable, str(Path(__file__).with_name("memory_writer.py")), str(folder / "run.sqlite")]
    path = os.pathsep.join([str(Path(tl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    kept = int(process.stdout.readline())
    time.sleep(random.Random(seed).uniform(0.0, 0.25))
    process.send_signal(signal.SIGKILL)
    told = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    return int(told[-1]) if told else kept


def check(folder: Path, kept: int) -> int:
    """Open the memories and look at every record; returns how many there are."""
    assert Store.verify(folder / "run.sqlite") == []
    count = 0
    with Store.open(folder / "run.sqlite") as store:
        pool = Pool(store, scratch=lambda: folder / "scratch")
        for agent in range(AGENTS):
            memory = tl.Memory(agent, LIMITS, pool)
            found = memory.between(0, 10**6)
            ids = [split_id(record.id) for record in found]
            assert len(set(ids)) == len(ids)
            assert all(record.text == text_of(*id_[:3]) for record, id_ in zip(found, ids, strict=True))
            there = {(id_.step, id_.sequence) for id_ in ids}
            assert {(step, place) for step in range(1, kept + 1) for place in range(step % 4 + 1)} <= there
            assert memory.size().recent_records <= 20
            assert len(memory.notes) <= 40
            count += len(found)
        if kept % 2:
            live([tl.Memory(agent, LIMITS, Pool(store)) for agent in range(AGENTS)], kept + 1)
    return count


def kill_again_and_again(folder: Path, rounds: int) -> None:
    """Each round lives on from where the last one was killed."""
    kept, counts = 0, []
    for number in range(rounds):
        kept = max(kept, killed_at(folder, number))
        counts.append(check(folder, kept))
    print(
        f"memories killed {rounds} times: {counts[-1]} records kept up to step {kept}, none lost, none wrong, none twice"
    )


def test_a_killed_memory_has_all_that_was_kept(tmp_path):
    """Kill -9 in the middle of storing, moving and keeping: every record that was said to be kept is there once."""
    kill_again_and_again(tmp_path, 6)


@pytest.mark.slow
def test_a_memory_that_is_killed_a_hundred_times(tmp_path):
    """The same, a hundred times over one store."""
    kill_again_and_again(tmp_path, 100)
