"""Benchmark: runs that are killed with kill -9 at random moments, and what going on with them costs and changes.

25 agents play 20 steps at a rehearsal server, over HTTP, in three graphs (see `troupelab.bench.order`) and both orders. A folder's run is
killed, gone on with in a fresh process, killed again, and so on; each kill is a round, and the last life plays to the end. Most kills
fall after a random number of requests and replies, some at a random moment after the process's start, so that they hit the
store's beginning and the living through of the past as well. The run's transcript and what its folder says that all agents
remember must then be those of a run that was never killed.

How it is known what was paid twice: each life notes whose request goes out under which key of the cache, and which reply has come, in
a file that a kill does not touch. After each kill a copy of the folder tells which replies were durable in `replies.sqlite`, and
which acts in `run.sqlite`. What a later life asks for again is `paid_twice` where the reply or the act was durable at an earlier
kill (it must be 0), `not_durable` where the reply had come and was not on the disk yet, and `in_flight` where none had come. The
server's own count of requests is the check: it is at most that of the notes, and at least what the runs needed.

Counts, not times: 100 kills in all, shared out over the graphs. `no_run_yet` are kills before there was anything to go on with, as the
next life said in so many words; it begins anew then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from troupelab.bench.harness import report
from troupelab.bench.lives import AGENTS, NO_RUN, SEED, STEPS, Note, begin_life
from troupelab.engine.options import OrderName
from troupelab.folder import RUN_FILE
from troupelab.models.rehearsal.process import Rehearsal
from troupelab.store import Store
from troupelab.telemetry.journal import ActRow, read_rows

__all__ = ["GRAPHS", "Said", "Tally", "kill_runs", "run"]

GRAPHS = ("groups5", "degree4", "full")
_ORDERS: tuple[OrderName, ...] = ("lockstep", "free")
_LATENCY = "lognorm:0.02:0.8"
_KILLS = 5
"""So often is the run in one folder killed."""


def run(*, quick: bool = False) -> dict[str, object]:
    """Kill and report; `quick` kills six times instead of a hundred."""
    problems: list[str] = []

    def measure() -> Mapping[str, float]:
        with Rehearsal(latency=_LATENCY, seed=SEED) as server, tempfile.TemporaryDirectory() as folder:
            tallies = kill_runs(Path(folder), 6 if quick else 100, base_url=server.base_url, seed=SEED)
            requests = server.stats()["requests"]
        problems.extend(problem for each in tallies for problem in each.problems)
        return {**_figures(tallies), "requests_sent": requests, "problems": len(problems)}

    return {**report("kill", measure, 1), "problems": problems}


def _figures(tallies: Sequence[Tally]) -> dict[str, float]:
    counts = [each.name for each in dataclasses.fields(Tally) if each.type == "int"]
    figures: dict[str, float] = {}
    for graph in GRAPHS:
        for count in counts:
            figures[f"{count}_{graph}"] = sum(getattr(each, count) for each in tallies if each.graph == graph)
    for count in counts:
        figures[count] = sum(getattr(each, count) for each in tallies)
    return figures


@dataclasses.dataclass
class Tally:
    """What came of the kills in one folder."""

    graph: str
    order: OrderName
    rounds: int = 0
    """How often it was killed."""
    no_run_yet: int = 0
    """Kills before there was a run to go on with, as the next life said."""
    resumed: int = 0
    """Kills after which a fresh process went on."""
    equal_transcripts: int = 0
    """Kills of a run whose transcript was that of the undisturbed one in the end."""
    equal_memories: int = 0
    """Kills of a run whose memories were."""
    paid_twice: int = 0
    not_durable: int = 0
    in_flight: int = 0
    asked: int = 0
    """Requests in all lives, as they noted them."""
    needed: int = 0
    """Requests that a run takes which is not killed."""
    problems: list[str] = dataclasses.field(default_factory=list)


def kill_runs(folder: Path, rounds: int, *, base_url: str, seed: int, kills: int = _KILLS) -> list[Tally]:
    """Kill runs of all graphs in both orders until it has been done so many times.

    Args:
        folder: an empty one to work in.
        rounds: how many kills.
        base_url: of a rehearsal server; empty for the scripted model.
        seed: of the moments.
        kills: how often at most the run in one folder is killed.

    Returns:
        A tally for each run, those of the undisturbed ones (without a round) first.
    """
    moments = random.Random(seed)  # noqa: S311
    undisturbed, tallies = {}, []
    for graph in GRAPHS:
        tally = Tally(graph, "lockstep")
        undisturbed[graph] = _play(folder / graph, tally, [], base_url, {})
        tallies.append(tally)
    left, place = rounds, 0
    while left > 0:
        tally = Tally(GRAPHS[place % 3], _ORDERS[place % 2])
        plan = _plan(moments, min(kills, left))
        _play(folder / str(place), tally, plan, base_url, undisturbed[tally.graph])
        tallies.append(tally)
        left, place = left - max(1, tally.rounds), place + 1
    return tallies


def _plan(moments: random.Random, kills: int) -> list[tuple[int | None, float]]:
    """When to kill: after so many notes of a life and some seconds more, or (None) some seconds after the life's start."""
    notes = 2 * AGENTS * STEPS
    cuts = sorted(moments.randrange(0, notes * 97 // 100) for _ in range(kills))
    lengths = [cut - before for cut, before in zip(cuts, [0, *cuts], strict=False)]
    return [
        (None, moments.uniform(0.0, 0.4))
        if moments.random() < (0.15 if place else 0.4)
        else (length, moments.uniform(0.0, 0.03))
        for place, length in enumerate(lengths)
    ]


def _play(
    folder: Path, tally: Tally, plan: Sequence[tuple[int | None, float]], base_url: str, undisturbed: dict[str, Any]
) -> dict[str, Any]:
    """Play a run through all its lives; returns what the last one said."""
    said, run_folder = Said(), folder / "run"
    folder.mkdir()
    pending, resume = 0, False
    for number in itertools.count():
        notes = folder / f"notes{number}"
        with begin_life(run_folder, tally.graph, tally.order, base_url, notes, resume=resume) as life:
            if number < len(plan):
                life.kill_after(*plan[number])
            life.end()
        said.count(life.notes(), tally)
        if life.problem:
            tally.problems.append(life.problem)
            return {}
        if life.started:
            tally.resumed += pending
            pending = 0
        if life.process.returncode == 0:
            break
        if life.process.returncode == NO_RUN:
            tally.no_run_yet += pending
            pending, resume = 0, False
            shutil.rmtree(run_folder, ignore_errors=True)
        else:
            tally.rounds += 1
            pending, resume = pending + 1, True
            said.look(run_folder, folder / "copy")
    tally.needed = AGENTS * STEPS
    faults = {key: value for key, value in life.result.items() if key in ("strays", "errors") and value}
    if faults or not life.result["whole"]:
        tally.problems.append(f"acts are missing, twice there or of another prompt: {life.result}")
    if undisturbed:
        tally.equal_transcripts = tally.rounds * (life.result["transcript"] == undisturbed["transcript"])
        tally.equal_memories = tally.rounds * (life.result["memories"] == undisturbed["memories"])
    shutil.rmtree(folder)
    return life.result


class Said:
    """What the lives of one run asked for, and what of it was durable when they were killed."""

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._answered: set[str] = set()
        self.durable: set[str] = set()
        self.acts: set[tuple[int, int]] = set()

    def count(self, notes: Sequence[Note], tally: Tally) -> None:
        """Count what a life asked for again."""
        for note in notes:
            if not note.asked:
                self._answered.add(note.key)
                continue
            tally.asked += 1
            if note.key in self.durable or (note.agent, note.step) in self.acts:
                tally.paid_twice += 1
            elif note.key in self._answered:
                tally.not_durable += 1
            elif note.key in self._asked:
                tally.in_flight += 1
            self._asked.add(note.key)

    def look(self, folder: Path, copy: Path) -> None:
        """See what a killed process has left, in a copy: looking must not mend anything."""
        if not folder.is_dir():
            return
        shutil.copytree(folder, copy)
        if (copy / "replies.sqlite").is_file():
            with contextlib.closing(sqlite3.connect(copy / "replies.sqlite")) as connection:
                self.durable |= {key.hex() for (key,) in connection.execute("SELECT key FROM reply")}
        if (copy / RUN_FILE).is_file():
            with Store.open(copy / RUN_FILE) as store:
                self.acts |= {(row.agent, row.step) for row in read_rows(store) if isinstance(row, ActRow)}
        shutil.rmtree(copy)
