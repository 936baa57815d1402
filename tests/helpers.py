"""What many tests need: a quick run, and waiting for something to become true."""

from __future__ import annotations

from typing import Any

import troupelab as tl
from troupelab.bench.jupyter import eventually

__all__ = ["eventually", "memories", "quick_run", "sha"]


def quick_run(world: str | tl.World = "product_launch", *, model: Any = None, **options: Any) -> tl.Run:
    """A run whose calls take no time, not yet started."""
    options.setdefault("seed", 7)
    options.setdefault("steps", 4)
    return tl.Run(world, model or tl.ScriptedModel(7, latency_s=0.0), **options)


def sha(run: tl.Run) -> str:
    """The digest of what was done."""
    return run.recorder.transcript_sha256()


def memories(run: tl.Run) -> list[tuple[list[Any], list[Any], dict[str, str]]]:
    """All that the agents of a run remember, and what they have in mind, in a form that can be compared."""
    return [(agent.memory.between(0, 10**6), list(agent.memory.notes), agent.state) for agent in run._stage.agents]
