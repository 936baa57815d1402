"""How long a schedule in free order must take: the yardstick of the engine's efficiency. Pure; any thread may call it.

In free order an agent begins a step as soon as it has ended the one before, and so has everyone whom it may hear; nobody begins a
step before all have ended the one `max_lead` steps earlier. Among those who wait for a slot the lowest step goes first, then
whoever holds up most others, then who came first. `simulate_free` plays that with no overhead at all.

No schedule beats `free_bound`: all the work over all the slots, or the longest chain of acts that wait for each other (the
critical path of project planning: Kelley and Walker 1959). What the rule makes of it lies between that bound and their sum, as
for every rule that leaves no slot idle while somebody is ready; and more slots or shorter acts may even make it longer (R. L.
Graham, Bounds on Multiprocessing Timing Anomalies, SIAM J. Appl. Math. 17, 1969). So free order can be the slower one where
slots are few, and the simulation, not the bound, is what a run is measured against.

Durations are a table, a row for each step and in it a figure for each agent. An act of no duration takes no slot: those are
acts that are not on record, of steps before the record's first, or beyond what an agent came to.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupelab.engine.schedule import Efficiency

__all__ = ["critical_path_s", "free_bound", "played_free_efficiency", "simulate_free"]

_NOTHING = Efficiency(1.0, 0.0, 0.0, 0.0)


def simulate_free(
    durations_s: Sequence[Sequence[float]],
    hears: Sequence[Sequence[int]],
    holds_up: Sequence[int],
    slots: int,
    max_lead: int,
) -> float:
    """The time that all steps take without overhead, in free order.

    Args:
        durations_s: how long each act takes: `durations_s[step][agent]`.
        hears: whom each agent may hear.
        holds_up: how many others wait for each agent; who holds up most goes first.
        slots: how many acts may be under way at once.
        max_lead: how many steps anyone may be ahead of the last.

    Two who do not hear each other need not wait for each other's long acts; in lockstep this takes 6 seconds:

    >>> simulate_free([[3.0, 1.0], [1.0, 3.0]], [[], []], [0, 0], slots=2, max_lead=8)
    4.0
    """
    circles = _circles(hears)
    agents, steps = len(hears), len(durations_s)
    not_ended = [[len(circle) for circle in circles.members] for _ in range(steps)]
    not_ended_by = [agents] * steps
    opened = max_lead - 1
    early: dict[int, list[int]] = {}  # whoever may not begin a step yet, since somebody is too far behind
    ready: list[tuple[int, int, float, int]] = []
    under_way: list[tuple[float, int, int]] = []
    ended: list[tuple[int, int]] = []
    now = 0.0

    def come(step: int, agent: int) -> None:
        if step > opened:
            early.setdefault(step, []).append(agent)
        elif durations_s[step][agent] == 0:
            ended.append((step, agent))
        else:
            heapq.heappush(ready, (step, -holds_up[agent], now, agent))

    for agent in range(agents if steps else 0):
        come(0, agent)
    while ended or ready or under_way:
        for step, agent in ended:  # it grows meanwhile
            for circle in circles.of[agent]:
                not_ended[step][circle] -= 1
                if not not_ended[step][circle] and step + 1 < steps:
                    for waiting in circles.waiting[circle]:
                        come(step + 1, waiting)
            not_ended_by[step] -= 1
            if not not_ended_by[step]:
                opened = step + max_lead
                for waiting in early.pop(opened, ()):
                    come(opened, waiting)
        ended.clear()
        while ready and len(under_way) < slots:
            step, _, _, agent = heapq.heappop(ready)
            heapq.heappush(under_way, (now + durations_s[step][agent], step, agent))
        if under_way:
            now = under_way[0][0]
        while under_way and under_way[0][0] == now:
            ended.append(heapq.heappop(under_way)[1:])
    return now


def critical_path_s(durations_s: Sequence[Sequence[float]], hears: Sequence[Sequence[int]], max_lead: int) -> float:
    """The longest chain of acts of which each waits for the one before: what free order takes if slots are no matter.

    Args:
        durations_s: how long each act takes: `durations_s[step][agent]`.
        hears: whom each agent may hear.
        max_lead: how many steps anyone may be ahead of the last.

    >>> critical_path_s([[3.0, 1.0], [1.0, 3.0]], [[], [0]], max_lead=8)
    6.0
    """
    circles = _circles(hears)
    members = np.array([member for circle in circles.members for member in circle], dtype=np.int64)
    begins = np.cumsum([0, *(len(circle) for circle in circles.members[:-1])])
    circle_of = np.empty(len(hears), dtype=np.int64)
    for circle, waiting in enumerate(circles.waiting):
        circle_of[waiting] = circle
    all_ended = [0.0]
    ends = np.zeros(len(hears))
    for step, row in enumerate(durations_s):
        heard = np.maximum.reduceat(ends[members], begins)[circle_of] if step else ends
        ends = np.maximum(heard, all_ended[max(0, step - max_lead + 1)]) + np.asarray(row)
        all_ended.append(float(ends.max()))
    return all_ended[-1]


def free_bound(
    durations_s: Sequence[Sequence[float]], hears: Sequence[Sequence[int]], slots: int, max_lead: int
) -> float:
    """The least time that all steps can take: all the work over all the slots, or the critical path.

    >>> free_bound([[3.0, 1.0], [1.0, 3.0]], [[], []], slots=1, max_lead=8)
    8.0
    """
    work_s = math.fsum(duration for row in durations_s for duration in row)
    return max(work_s / slots, critical_path_s(durations_s, hears, max_lead))


def played_free_efficiency(
    acts: Mapping[str, Any],
    calls: Mapping[str, Any],
    steps: Mapping[str, Any],
    runs: Mapping[str, Any],
    *,
    hears: Sequence[Sequence[int]],
    holds_up: Sequence[int],
    max_lead: int,
    purpose: str = "act",
) -> Efficiency:
    """Compare a run's finished acts in free order with the same acts without overhead, from the recorder's columns.

    It takes the time from the first act's beginning to the last one's end, without what the run was paused of it. An act whose
    calls have left the recorder's ring is not counted. Before all have ended a step there is nothing to compare. Barriers of the
    run's own (an intervention, `step_delay_ms`) are no part of the free order, and what they take counts.

    Args:
        acts: the columns of that family; so with `calls`, `steps` and `runs`.
        calls: tell how long the acts took; other calls (those that write notes run beside the acts) are no part of them.
        steps: tell how many slots there were: the median.
        runs: tell when the run was paused.
        hears: whom each agent may hear.
        holds_up: how many others wait for each agent.
        max_lead: how many steps anyone may be ahead of the last.
        purpose: of the calls that count.
    """
    if not len(steps["step"]) or not len(acts["step"]):
        return _NOTHING
    agents, first = len(hears), int(acts["step"].min())
    size = (int(acts["step"].max()) - first + 1) * agents
    act_of_call = (calls["step"] - first) * agents + calls["agent"]
    counts = (calls["purpose"] == purpose) & (act_of_call >= 0) & (act_of_call < size)
    called_s = np.bincount(act_of_call[counts], calls["latency_s"][counts], size)
    place = (acts["step"] - first) * agents + acts["agent"]
    known = called_s[place] > 0
    if not known.any():
        return _NOTHING
    durations = np.zeros(size)
    durations[place[known]] = called_s[place[known]]
    rows: list[list[float]] = durations.reshape(-1, agents).tolist()
    begin, end = float(acts["start_s"][known].min()), float(acts["end_s"][known].max())
    wall_s = end - begin - _paused_s(runs, begin, end)
    slots = max(1, int(np.median(steps["max_concurrency"])))
    simulated_s = simulate_free(rows, hears, holds_up, slots, max_lead)
    value = simulated_s / wall_s if wall_s > 0 else 1.0
    return Efficiency(value, wall_s, simulated_s, free_bound(rows, hears, slots, max_lead))


def _paused_s(runs: Mapping[str, Any], begin: float, end: float) -> float:
    """How long a run was paused between two moments."""
    changed: NDArray[np.float64] = np.clip(np.append(runs["at_s"], end), begin, end)
    return float(np.diff(changed)[runs["state"] == "paused"].sum())


class _Circles(NamedTuple):
    """Whom one waits for: itself and all whom it may hear. Many agents have the same circle, in a full graph all of them."""

    members: list[list[int]]
    of: list[list[int]]
    waiting: list[list[int]]


def _circles(hears: Sequence[Sequence[int]]) -> _Circles:
    """The different circles: who is in each, the circles that each agent is in, and who waits for each circle."""
    waiting: dict[frozenset[int], list[int]] = {}
    for agent, heard in enumerate(hears):
        waiting.setdefault(frozenset((agent, *heard)), []).append(agent)
    of: list[list[int]] = [[] for _ in hears]
    for number, circle in enumerate(waiting):
        for member in circle:
            of[member].append(number)
    return _Circles([sorted(circle) for circle in waiting], of, list(waiting.values()))
