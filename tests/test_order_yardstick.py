"""The yardstick of free order: what its simulation, its bound and a run's efficiency hold to."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupelab import Limits, Run, ScriptedModel, World
from troupelab.bench import lanes, order
from troupelab.engine.order import MAX_LEAD, hears
from troupelab.engine.schedule import Efficiency, simulate_lockstep
from troupelab.engine.yardstick import critical_path_s, free_bound, played_free_efficiency, simulate_free

Table = list[list[float]]
Graph = list[list[int]]

_PAIRS: Graph = [[1], [0], [3], [2]]


def _everyone(agents: int) -> Graph:
    return [[other for other in range(agents) if other != agent] for agent in range(agents)]


def _lockstep_s(durations: Table, slots: int) -> float:
    return sum(simulate_lockstep(row, slots) for row in durations)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, Graph]:
    """Durations in whole seconds (sums of them are exact), some of them none, and any graph of who hears whom."""
    agents, steps = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    durations = draw(st.lists(st.lists(st.integers(0, 9).map(float), min_size=agents, max_size=agents), min_size=steps, max_size=steps))  # fmt: skip
    edges = draw(st.sets(st.tuples(st.integers(0, agents - 1), st.integers(0, agents - 1)), max_size=20))
    return durations, [[b for b in range(agents) if (a, b) in edges and a != b] for a in range(agents)]


@given(tables(), st.integers(1, 7), st.integers(1, 9))
def test_no_order_beats_the_bound(case, slots, lead):
    """Neither order takes less than the bound, and free order never more than its two parts together."""
    durations, heard = case
    bound = free_bound(durations, heard, slots, lead)
    free = simulate_free(durations, heard, [len(each) for each in heard], slots, lead)
    assert bound <= free + 1e-9
    assert bound <= _lockstep_s(durations, slots) + 1e-9
    assert free <= sum(map(sum, durations)) / slots + critical_path_s(durations, heard, lead) + 1e-9


@given(tables(), st.integers(1, 9))
def test_with_a_slot_for_each_free_order_takes_the_critical_path(case, lead):
    """Where nobody waits for a slot only the chains count, and lockstep is never the faster one."""
    durations, heard = case
    free = simulate_free(durations, heard, [0] * len(heard), len(heard), lead)
    assert free == critical_path_s(durations, heard, lead)
    assert free <= _lockstep_s(durations, len(heard))


@given(tables(), st.integers(1, 9))
def test_who_hears_more_waits_longer(case, lead):
    """A chain through fewer who are heard is no longer, and so is one with more lead."""
    durations, heard = case
    path = critical_path_s(durations, heard, lead)
    assert critical_path_s(durations, [each[1:] for each in heard], lead) <= path
    assert critical_path_s(durations, heard, lead + 1) <= path
    assert max(map(sum, zip(*durations, strict=True))) <= path


@given(tables(), st.integers(1, 7), st.integers(1, 9))
def test_when_all_hear_all_free_order_is_lockstep(case, slots, lead):
    """A full graph, or a lead of one step, makes a barrier of each step, with few slots as well."""
    durations, heard = case
    agents = len(heard)
    same = [0] * agents
    played = [[duration for duration in row if duration] for row in durations]
    assert simulate_free(durations, _everyone(agents), same, slots, lead) == _lockstep_s(played, slots)
    assert simulate_free(durations, heard, same, slots, 1) == _lockstep_s(played, slots)


def _plainly(durations: Table, heard: Graph, holds_up: list[int], slots: int, lead: int) -> float:
    """The rule of free order, read out word by word and played without any cleverness."""
    agents, steps, now = range(len(heard)), len(durations), 0.0
    done, came, under_way = [0 for _ in agents], {}, {}
    while True:
        for agent in agents:
            step = done[agent]
            waits_for = [*(done[other] < step for other in heard[agent]), *(each < step - lead + 1 for each in done)]
            if step < steps and not any(waits_for) and agent not in under_way:
                came.setdefault((step, agent), (now, agent))
        for step, agent in sorted(came, key=lambda act: (act[0], -holds_up[act[1]], came[act])):
            if len(under_way) < slots:
                under_way[agent] = now + durations[step][agent]
                del came[step, agent]
        if not under_way:
            return now
        now = min(under_way.values())
        for agent in [agent for agent in agents if under_way.get(agent) == now]:
            del under_way[agent]
            done[agent] += 1


@settings(max_examples=200)
@given(tables(), st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(1, 7), st.integers(1, 9))
def test_the_simulation_plays_the_rule(case, holds_up, slots, lead):
    """With few slots, too, the simulation does what the rule says, word by word."""
    durations, heard = case
    durations = [[duration + 1.0 for duration in row] for row in durations]
    assert simulate_free(durations, heard, holds_up, slots, lead) == _plainly(durations, heard, holds_up, slots, lead)


def test_nobody_runs_further_ahead_than_the_lead():
    """An agent that nobody hears waits, all the same, for one who is `max_lead` steps behind."""
    durations = [[10.0, 1.0]] + [[0.5, 1.0]] * 9
    assert simulate_free(durations, [[], []], [0, 0], 2, 8) == 14.5
    assert critical_path_s(durations[:-1], [[], []], 8) == 14.0
    assert simulate_free(durations, [[], []], [0, 0], 2, 4) == 16.0


def test_who_holds_up_most_goes_first():
    """Of two who are ready for one slot, the one who is waited for goes first, and the chain behind it is shorter for that."""
    durations = [[1.0, 3.0, 0.0], [0.0, 0.0, 2.0]]
    heard: Graph = [[], [], [1]]
    assert simulate_free(durations, heard, [0, 1, 0], 1, 8) == 6.0
    assert simulate_free([[3.0, 1.0, 0.0], [0.0, 0.0, 3.0]], heard, [0, 1, 0], 1, 8) == 7.0
    assert simulate_free([[3.0, 1.0, 0.0], [0.0, 0.0, 3.0]], heard, [0, 1, 0], 2, 8) == 4.0


def test_no_steps_take_no_time():
    """A run in which nothing was played has nothing to wait for."""
    assert simulate_free([], [[], []], [0, 0], 2, 8) == critical_path_s([], [[], []], 8) == 0.0
    assert free_bound([], [], 2, 8) == 0.0


# ---------------------------------------------------------------------- from a recorder's columns


def _columns(durations: Table, slots: int, *, first: int = 0, late_s: float = 0.0) -> dict[str, dict[str, Any]]:
    """What a recorder would hold of acts that were played in lockstep, each step `late_s` later than it could be."""
    acts: list[tuple[float, ...]] = []
    begin = 5.0
    for step, row in enumerate(durations, first):
        acts += [(step, agent, begin, begin + duration, duration) for agent, duration in enumerate(row) if duration]
        begin += max(row) + late_s
    step, agent, start_s, end_s, latency_s = (np.array(each) for each in zip(*acts, strict=True))
    called = {"step": step.astype(int), "agent": agent.astype(int), "latency_s": latency_s}
    return {
        "acts": {"step": step.astype(int), "agent": agent.astype(int), "start_s": start_s, "end_s": end_s},
        "calls": {**called, "purpose": np.array(["act"] * len(acts), dtype=object)},
        "steps": {"step": np.arange(len(durations)), "max_concurrency": np.full(len(durations), slots)},
        "runs": {"at_s": np.array([0.0]), "state": np.array(["running"], dtype=object)},
    }


def _efficiency(columns: dict[str, dict[str, Any]], heard: Graph) -> Efficiency:
    return played_free_efficiency(**columns, hears=heard, holds_up=[0] * len(heard), max_lead=8)


def test_efficiency_compares_with_free_order():
    """A run that was played with a barrier, of pairs that need none, took 6 s where 4 s were enough."""
    columns = _columns([[3.0, 1.0, 1.0, 1.0], [1.0, 1.0, 3.0, 1.0]], 4)
    assert _efficiency(columns, _PAIRS) == pytest.approx((4 / 6, 6.0, 4.0, 4.0))


def test_what_a_run_was_paused_does_not_count():
    """Pauses count as far as they lie between the first act's beginning and the last one's end."""
    columns = _columns([[1.0, 1.0], [1.0, 1.0]], 2, late_s=2.0)
    columns["runs"] = {
        "at_s": np.array([0.0, 1.0, 4.0, 6.0, 8.0, 9.5]),
        "state": np.array(["running", "paused", "running", "paused", "running", "paused"], dtype=object),
    }
    assert _efficiency(columns, [[], []]) == pytest.approx((1.0, 2.0, 2.0, 2.0))


def test_only_calls_of_finished_acts_count():
    """Notes that were written beside the acts, retried turns, and calls of acts that were broken off: each as it should."""
    columns = _columns([[3.0, 1.0], [1.0, 1.0]], 2)
    calls = columns["calls"]
    more = [(0, 0, 9.0, "consolidate"), (-1, 1, 9.0, "interview"), (-1, -1, 9.0, "pack"), (2, 0, 9.0, "act"), (1, 1, 1.0, "act")]  # fmt: skip
    for name, values in zip(("step", "agent", "latency_s", "purpose"), zip(*more, strict=True), strict=True):
        calls[name] = np.append(calls[name], np.array(values, dtype=calls[name].dtype))
    assert _efficiency(columns, [[], []]).simulated_s == 4.0


def test_a_run_that_was_broken_off_has_an_efficiency():
    """Agents that came to different steps, and a record that begins late, are compared over what there is."""
    stopped = _columns([[1.0, 1.0, 2.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], 3)
    assert _efficiency(stopped, [[], [0], [1]]) == pytest.approx((0.75, 4.0, 3.0, 3.0))
    late = _columns([[1.0, 1.0], [1.0, 1.0]], 2, first=4_000)
    assert _efficiency(late, [[1], [0]]).value == 1.0


def test_acts_whose_calls_are_lost_are_left_out():
    """When the calls' ring was full sooner than the acts', the time of the older acts does not count either."""
    columns = _columns([[5.0, 5.0], [1.0, 1.0]], 2)
    columns["calls"] = {name: column[2:] for name, column in columns["calls"].items()}
    assert _efficiency(columns, [[1], [0]]) == pytest.approx((1.0, 1.0, 1.0, 1.0))


def test_before_the_first_step_there_is_nothing_to_compare():
    """A run of which nothing is finished has the efficiency 1, over no time."""
    empty = {name: {key: column[:0] for key, column in family.items()} for name, family in _columns([[1.0]], 1).items()}
    assert _efficiency(empty, [[]]) == (1.0, 0.0, 0.0, 0.0)
    lost = _columns([[1.0]], 1)
    lost["calls"] = {name: column[:0] for name, column in lost["calls"].items()}
    assert _efficiency(lost, [[]]) == (1.0, 0.0, 0.0, 0.0)


# ---------------------------------------------------------------------- with runs


def _play(world: World, how: str, steps: int = 4, latency_s: float = 0.01) -> Run:
    model = ScriptedModel(7, latency_s=latency_s, latency_sigma=1.0)
    return Run(world, model, limits=Limits(max_concurrency=50), steps=steps, seed=7, embedder=None, order=how).start().wait(60)  # fmt: skip


def test_a_run_in_free_order_against_its_yardstick():
    """What a real run recorded gives an efficiency, and its simulation what the drawn latencies give, or somewhat more."""
    world = World.sample(10, seed=7)
    run = _play(world, "free")
    columns = {family: run.recorder.read(family).columns for family in ("acts", "calls", "steps", "runs")}
    found = played_free_efficiency(**columns, hears=hears(world), holds_up=[4] * 10, max_lead=MAX_LEAD)
    assert 0 < found.value <= 1.05
    assert found.bound_s <= found.simulated_s + 1e-9
    assert found.wall_s <= run.now_s()
    drawn = order.drawn_latencies(run)
    assert simulate_free(drawn, hears(world), [4] * 10, 50, MAX_LEAD) <= found.simulated_s


def test_the_graphs_of_the_benchmark():
    """Each agent hears four others, and they it, in the random graph as in groups of five; in the third all hear all."""
    worlds = order.worlds(30)
    for name in ("groups5", "degree4"):
        heard = hears(worlds[name])
        assert {len(others) for others in heard} == {4}
        assert all(agent in heard[other] for agent, others in enumerate(heard) for other in others)
    assert hears(worlds["groups5"]) != hears(worlds["degree4"]) == hears(order.worlds(30)["degree4"])
    assert [list(others) for others in hears(worlds["full"])] == _everyone(30)


def test_the_benchmark_compares_like_with_like():
    """Orders whose transcripts differ are no comparison, and the benchmark says so instead of giving a figure."""
    world = World.sample(5, seed=7)
    runs = [_play(world, how, steps=2, latency_s=0.001) for how in ("lockstep", "free")]
    order.check_same(*runs)
    other = _play(dataclasses.replace(world, description="Elsewhere."), "free", steps=1, latency_s=0.001)
    with pytest.raises(RuntimeError, match="transcript"):
        order.check_same(runs[0], other)


def test_lanes_show_both_orders():
    """One lane an agent, a bar an act, and both wall times in the title."""
    world = World.sample(10, seed=7)
    lockstep, free = (_play(world, how, steps=3) for how in ("lockstep", "free"))
    figure = lanes.lanes(lockstep, free)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [len(trace.x) for trace in bars] == [30, 30]
    assert sum(bars[0].x) == pytest.approx(
        float((lockstep.frames.acts["end_s"] - lockstep.frames.acts["start_s"]).sum())
    )
    for run in (lockstep, free):
        assert f"{order.wall_s(run):.1f} s" in figure.layout.title.text
