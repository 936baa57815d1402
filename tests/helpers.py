"""What many tests need: a quick run, and waiting for something to become true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import troupelab as tl


def quick_run(world: str | tl.World = "product_launch", *, model: Any = None, **options: Any) -> tl.Run:
    """A run whose calls take no time, not yet started."""
    options.setdefault("seed", 7)
    options.setdefault("steps", 4)
    return tl.Run(world, model or tl.ScriptedModel(7, latency_s=0.0), **options)


def eventually(what: str, check: Callable[[], object], *, timeout_s: float = 30.0) -> Any:
    """Ask again and again until the answer is truthy; fails with a sentence when it never is."""
    until = time.monotonic() + timeout_s
    while not (answer := check()):
        if time.monotonic() > until:
            raise AssertionError(f"within {timeout_s:g} s this never came true: {what}")
        time.sleep(0.02)
    return answer


def sha(run: tl.Run) -> str:
    """The digest of what was done."""
    return run.recorder.transcript_sha256()


def memories(run: tl.Run) -> list[tuple[list[Any], list[Any], dict[str, str]]]:
    """All that the agents of a run remember, and what they have in mind, in a form that can be compared."""
    return [(agent.memory.between(0, 10**6), list(agent.memory.notes), agent.state) for agent in run._stage.agents]
