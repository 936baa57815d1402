"""Benchmark: how near the engine comes to its schedule, and what an act costs.

Efficiency is the time that a simulation without overhead takes for the same acts, over the wall time. The durations of the
acts are the latencies that the scripted model drew, not those that the engine measured: time that the engine loses while it waits
for a slot to be noticed counts against it. CPU is that of the whole process, the scripted model's own work included; with fixed
replies in its place, the rest can be told from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import orjson

from troupelab.bench.harness import report
from troupelab.engine.schedule import PlayedStep, lockstep_efficiency
from troupelab.ids import draw
from troupelab.limits import Limits
from troupelab.models.model import Model, Reply, Request
from troupelab.models.scripted import ScriptedModel
from troupelab.people.world import World
from troupelab.run import Run
from troupelab.text.embed import HashingEmbedder

__all__ = ["run"]

_SEED = 7
_CPU_STEPS = 100


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` takes shorter calls and fewer repetitions, to try the benchmark itself."""
    scale = 0.1 if quick else 1.0

    def measure() -> Mapping[str, float]:
        return {
            "efficiency_100x100": _efficiency(100, 100, 5, 1.0 * scale),
            "efficiency_1000x100": _efficiency(1_000, 100, 3, 1.0 * scale),
            "efficiency_100x100_100ms": _efficiency(100, 100, 20, 0.1),
            "efficiency_1000x100_100ms": _efficiency(1_000, 100, 3, 0.1),
            "cpu_ms_per_act": _cpu_ms(ScriptedModel(_SEED, latency_s=0.0), vectors=False),
            "cpu_ms_per_act_vectors": _cpu_ms(ScriptedModel(_SEED, latency_s=0.0), vectors=True),
            "cpu_ms_per_act_fixed_replies": _cpu_ms(_FixedReplies(), vectors=False),
        }

    return report("engine", measure, 1 if quick else 3)


def _efficiency(agents: int, slots: int, steps: int, latency_s: float) -> float:
    model = ScriptedModel(_SEED, latency_s=latency_s, latency_sigma=0.5)
    world = World.sample(agents, seed=_SEED)
    limits = Limits(max_concurrency=slots)
    played = Run(world, model, limits=limits, steps=steps, seed=_SEED).start().wait()
    rows = played.recorder.read("steps").columns
    walls = (rows["end_s"] - rows["start_s"]).tolist()
    drawn = [
        [model.draw_latency_s(draw(_SEED, "act", agent, step)) for agent in range(agents)] for step in range(steps)
    ]
    return lockstep_efficiency(
        PlayedStep(durations, slots, wall) for durations, wall in zip(drawn, walls, strict=True)
    ).value


def _cpu_ms(model: Model, *, vectors: bool) -> float:
    """CPU of an act with no waiting at all, long enough that consolidation has its usual share."""
    world = World.sample(100, seed=_SEED)
    embedder = HashingEmbedder() if vectors else None
    run = Run(world, model, limits=Limits(max_concurrency=100), steps=_CPU_STEPS, seed=_SEED, embedder=embedder)
    began = time.process_time()
    run.start().wait()
    return (time.process_time() - began) * 1000 / run.progress().acts_done


class _FixedReplies:
    """Answers with one of a thousand ready replies: what is left is the engine's own cost."""

    name = "fixed replies"

    def __init__(self) -> None:
        words = "the ferry leaves at noon and nobody in town has been told about it yet ".split()
        self._texts = [
            orjson.dumps(
                {
                    "actions": [
                        {"type": "THINK", "content": f"Thought {number}: {' '.join(words)}.", "target": ""},
                        {"type": "TALK", "content": f"Remark {number}: {' '.join(words * 2)}.", "target": ""},
                        {"type": "DONE", "content": "", "target": ""},
                    ]
                }
            ).decode()
            for number in range(1_000)
        ]

    async def complete(self, request: Request) -> Reply:
        await asyncio.sleep(0)
        return Reply(self._texts[request.seed % len(self._texts)], 2_000, 60, 0.0, self.name)
