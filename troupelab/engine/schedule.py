"""How long a schedule in lockstep must take: the yardstick of the engine's efficiency. Pure; any thread may call it.

In lockstep nobody begins a step before all have ended the one before. `simulate_lockstep` plays that with no overhead at all,
each act taking its call's time; `lockstep_bound` is what no order of the acts within a step can beat. The free order has its
own yardstick, in `troupelab.engine.yardstick`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "Efficiency",
    "PlayedStep",
    "lockstep_bound",
    "lockstep_efficiency",
    "played_efficiency",
    "simulate_lockstep",
]


class PlayedStep(NamedTuple):
    """A step as it was played: its acts' durations in the order of their beginning, its slots, and the wall time it took."""

    durations_s: Sequence[float]
    slots: int
    wall_s: float


class Efficiency(NamedTuple):
    """How near a run came to its schedule: `value` is `simulated_s / wall_s`; no order of acts could take less than `bound_s`."""

    value: float
    wall_s: float
    simulated_s: float
    bound_s: float


def simulate_lockstep(durations_s: Sequence[float], slots: int) -> float:
    """The time that one step takes without overhead, when each act starts as soon as a slot is free, in order.

    >>> simulate_lockstep([3.0, 1.0, 1.0], 2)
    3.0
    """
    free_at = [0.0] * min(slots, len(durations_s))
    end = 0.0
    for duration in durations_s:
        done = heapq.heappop(free_at) + duration
        heapq.heappush(free_at, done)
        end = max(end, done)
    return end


def lockstep_bound(durations_s: Sequence[float], slots: int) -> float:
    """The least time that one step can take: all the work over all the slots, or the longest act.

    >>> lockstep_bound([3.0, 1.0, 1.0], 2)
    3.0
    """
    return max(sum(durations_s) / slots, max(durations_s, default=0.0))


def lockstep_efficiency(steps: Iterable[PlayedStep]) -> Efficiency:
    """Compare steps as they were played with the same steps without overhead.

    >>> round(lockstep_efficiency([PlayedStep([1.0, 1.0], 2, 1.25)]).value, 2)
    0.8
    """
    wall_s = simulated_s = bound_s = 0.0
    for step in steps:
        wall_s += step.wall_s
        simulated_s += simulate_lockstep(step.durations_s, step.slots)
        bound_s += lockstep_bound(step.durations_s, step.slots)
    return Efficiency(simulated_s / wall_s if wall_s else 1.0, wall_s, simulated_s, bound_s)


def played_efficiency(
    steps: Mapping[str, Any], acts: Mapping[str, Any], calls: Mapping[str, Any], purpose: str = "act"
) -> Efficiency:
    """Compare a run's finished steps with the same acts without overhead, from the recorder's columns of those families.

    What other calls took (those that write notes run beside the acts) is no part of an act.
    """
    durations = dict.fromkeys(zip(acts["step"].tolist(), acts["agent"].tolist(), strict=True), 0.0)
    called = zip(
        calls["step"].tolist(), calls["agent"].tolist(), calls["latency_s"].tolist(), calls["purpose"], strict=True
    )
    for step, agent, latency_s, why in called:
        if why == purpose and (step, agent) in durations:
            durations[step, agent] += latency_s
    by_step: dict[int, list[float]] = {}
    for step, agent in sorted(durations):
        by_step.setdefault(step, []).append(durations[step, agent])
    walls = (steps["end_s"] - steps["start_s"] - steps["held_s"]).tolist()
    played = zip(steps["step"].tolist(), steps["max_concurrency"].tolist(), walls, strict=True)
    return lockstep_efficiency(
        PlayedStep(by_step[step], slots, wall) for step, slots, wall in played if step in by_step
    )
