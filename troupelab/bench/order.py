"""Benchmark: what free order saves against lockstep, and whether the engine gets out of it what there is.

100 agents play 30 steps, with one call an act, in three worlds: tables of five that hear only themselves, a random graph in which
each hears four others, and one in which all hear all (which is played in lockstep, so its speed-up is 1). Calls take 0.1 s
in the median, with a long tail (log-normal, sigma 1: one in a hundred takes a second). That is short for a language model, so
what the engine loses weighs more here than it would in use; yet it is long enough that this process, which plays the scripted
model's part as well, is idle most of the time: in free order it brings about 200 acts a second to their end, a tenth of what
it can.

`speedup_…` is the wall time in lockstep over that in free order, each from the first act's beginning to the last one's end;
`simulated_…` the same ratio without overhead, from the latencies that the model drew; `share_of_simulated` the least of the ratios
of the two. `efficiency_…` is a simulation over the wall time. Both orders must give the same transcript, or there is no figure.
Which of them is played first changes from one repetition to the next.

`checkpoint_share` is what keeping a journal takes of a run's CPU, the store's thread included, where calls take no time at all, so that
there is nothing else to the run but its overhead: with and without a journal in turn, by the medians of ten runs each.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence

from troupelab.bench.harness import report
from troupelab.engine.options import OrderName
from troupelab.engine.order import MAX_LEAD, hears
from troupelab.engine.schedule import simulate_lockstep
from troupelab.engine.yardstick import simulate_free
from troupelab.ids import draw
from troupelab.limits import Limits
from troupelab.models.scripted import ScriptedModel
from troupelab.people.world import World
from troupelab.run import Run

__all__ = ["check_same", "drawn_latencies", "play", "run", "wall_s", "worlds"]

_SEED = 7
_LATENCY_S = 0.1
_SIGMA = 1.0
_ORDERS: tuple[OrderName, ...] = ("lockstep", "free")
_WAIT_S = 1_200.0


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` takes fewer steps and shorter calls, once, to try the benchmark itself."""
    steps, scale, cpu_steps = (5, 0.5, 20) if quick else (30, 1.0, 100)
    turns = itertools.cycle((_ORDERS, _ORDERS[::-1]))

    def measure() -> Mapping[str, float]:
        orders = next(turns)
        return {
            **_graphs(orders, steps, _LATENCY_S * scale),
            **_many(orders, 3, 1.0 * scale),
            **_cpu(orders, cpu_steps),
            "checkpoint_share": _checkpoint_share(cpu_steps // 2, 2 if quick else 10),
        }

    return report("order", measure, 1 if quick else 3)


def worlds(agents: int) -> dict[str, World]:
    """The same people, subject and events in three graphs, by the names that the figures have."""
    tables = World.sample(agents, seed=_SEED)
    everyone = tuple(tuple(other for other in range(agents) if other != agent) for agent in range(agents))
    return {
        "groups5": tables,
        "degree4": dataclasses.replace(tables, audience=_four_each(agents)),
        "full": dataclasses.replace(tables, audience=everyone),
    }


def play(
    world: World, order: OrderName, *, steps: int, latency_s: float, sigma: float = _SIGMA, slots: int = 100
) -> Run:
    """Play a world with the scripted model to its end; texts are compared by their words alone, to leave the CPU to the engine."""
    model = ScriptedModel(_SEED, latency_s=latency_s, latency_sigma=sigma)
    limits = Limits(max_concurrency=slots)
    started = Run(world, model, limits=limits, steps=steps, seed=_SEED, embedder=None, order=order).start()
    started.wait(_WAIT_S)
    return started


def wall_s(played: Run) -> float:
    """The time from the first act's beginning to the last one's end."""
    acts = played.recorder.read("acts").columns
    return float(acts["end_s"].max() - acts["start_s"].min())


def drawn_latencies(played: Run) -> list[list[float]]:
    """The time that the scripted model drew for each act, by step and agent: what it took before anything was lost."""
    model = played.model
    assert isinstance(model, ScriptedModel)
    agents = range(len(played.agent_names))
    return [
        [model.draw_latency_s(draw(played.seed, "act", agent, step)) for agent in agents]
        for step in range(played.steps)
    ]


def check_same(lockstep: Run, free: Run) -> None:
    """Make sure that two runs did the same.

    Raises:
        RuntimeError: their transcripts differ.
    """
    if lockstep.recorder.transcript_sha256() != free.recorder.transcript_sha256():
        raise RuntimeError("the two orders gave two transcripts: there is nothing to compare")


def _simulated_s(played: Run, order: OrderName, slots: int) -> float:
    drawn, world = drawn_latencies(played), played.world
    if order == "lockstep":
        return sum(simulate_lockstep(row, slots) for row in drawn)
    holds_up = [len(heard) + len(reached) for heard, reached in zip(world.audience, world.reachable, strict=True)]
    return simulate_free(drawn, hears(world), holds_up, slots, MAX_LEAD)


def _graphs(orders: Sequence[OrderName], steps: int, latency_s: float) -> Mapping[str, float]:
    figures: dict[str, float] = {}
    for name, world in worlds(100).items():
        played = {order: play(world, order, steps=steps, latency_s=latency_s) for order in orders}
        check_same(played["lockstep"], played["free"])
        walls = {order: wall_s(each) for order, each in played.items()}
        simulated = {order: _simulated_s(each, order, 100) for order, each in played.items()}
        figures[f"speedup_{name}"] = walls["lockstep"] / walls["free"]
        figures[f"simulated_{name}"] = simulated["lockstep"] / simulated["free"]
        for order in _ORDERS:
            figures[f"wall_s_{name}_{order}"] = walls[order]
            figures[f"efficiency_{name}_{order}"] = simulated[order] / walls[order]
    figures["share_of_simulated"] = min(
        figures[f"speedup_{name}"] / figures[f"simulated_{name}"] for name in ("groups5", "degree4")
    )
    return figures


def _many(orders: Sequence[OrderName], steps: int, latency_s: float) -> Mapping[str, float]:
    """Ten times as many agents as slots."""
    world = World.sample(1_000, seed=_SEED)
    figures = {}
    for order in orders:
        played = play(world, order, steps=steps, latency_s=latency_s, sigma=0.5)
        figures[f"efficiency_1000x100_{order}"] = _simulated_s(played, order, 100) / wall_s(played)
    return figures


def _cpu(orders: Sequence[OrderName], steps: int) -> Mapping[str, float]:
    """CPU of an act with no waiting at all, the scripted model's own work included."""
    world = World.sample(100, seed=_SEED)
    figures = {}
    for order in orders:
        began = time.process_time()
        played = play(world, order, steps=steps, latency_s=0.0)
        figures[f"cpu_ms_per_act_{order}"] = (time.process_time() - began) * 1000 / played.progress().acts_done
    return figures


def _checkpoint_share(steps: int, pairs: int) -> float:
    world = World.sample(100, seed=_SEED)

    def cpu_s(*, journal: bool) -> float:
        model = ScriptedModel(_SEED, latency_s=0.0)
        played = Run(world, model, limits=Limits(max_concurrency=100), steps=steps, seed=_SEED, embedder=None)
        if not journal:
            played._engine.keeper.open = lambda past: None  # type: ignore[method-assign]  # there is no such choice but here
        began = time.process_time()
        played.start().wait(_WAIT_S)
        return time.process_time() - began

    taken: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        for journal in (pair % 2 == 0, pair % 2 == 1):  # which is first takes turns
            taken[journal].append(cpu_s(journal=journal))
    return 1 - statistics.median(taken[False]) / statistics.median(taken[True])


def _four_each(agents: int) -> tuple[tuple[int, ...], ...]:
    """A random graph in which each hears four others, and they it: two random rings through all that share no edge."""
    first = _ring(agents, 0)
    second = next(ring for attempt in range(1, 10_000) if not first & (ring := _ring(agents, attempt)))
    heard: list[set[int]] = [set() for _ in range(agents)]
    for edge in first | second:
        one, other = sorted(edge)
        heard[one].add(other)
        heard[other].add(one)
    return tuple(tuple(sorted(others)) for others in heard)


def _ring(agents: int, attempt: int) -> set[frozenset[int]]:
    around = sorted(range(agents), key=lambda agent: draw(_SEED, "ring", agent, attempt=attempt))
    return {frozenset((one, around[place - 1])) for place, one in enumerate(around)}
