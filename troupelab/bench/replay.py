"""How fast a past is replayed under other limits, and a sweep of a hundred points.

The past is one of 100 agents in groups of five over 100 steps, its vectors kept. `speedup` is the time of a run with calls of 1 s and 20 slots against
that of a replay which asks all questions; `sweep_seconds` is of 100 points of a past of eight agents and 60 steps, one replicate each, on all cores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from troupelab.bench.harness import report
from troupelab.models.scripted import ScriptedModel
from troupelab.people.world import World
from troupelab.run import Run
from troupelab.tuning.replay import replay
from troupelab.tuning.stream import Stream
from troupelab.tuning.sweep import sweep

__all__ = ["run"]

_SEED = 7
_CALL_S = 1.0
_SLOTS = 20


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` plays a small past, to try the benchmark itself."""

    def measure() -> Mapping[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            return _measured(Path(folder), *((10, 10, 2) if quick else (100, 100, 10)))

    return report("replay", measure, 1 if quick else 3)


def _measured(folder: Path, agents: int, steps: int, side: int) -> Mapping[str, float]:
    _played(World.sample(agents, seed=_SEED), steps, folder / "large")
    began = time.perf_counter()
    stream = Stream.of(folder / "large")
    prepared = time.perf_counter() - began
    replay(stream)  # what is made once, vectors above all, is there from now on
    asked, without = replay(stream), replay(stream, ask_every=0)
    _played(World.load("product_launch"), min(steps, 60), folder / "small")
    space: dict[str, Sequence[int | float | None] | tuple[float, float]] = {
        "recent_max_records": [10 + 5 * place for place in range(side)],
        "semantic_max_notes": [None, *(10 * place for place in range(1, side))],
    }
    began = time.perf_counter()
    found = sweep(folder / "small", space, seeds=1, progress=False)
    swept = time.perf_counter() - began
    return {
        "seconds": asked.seconds,
        "seconds_without_probes": without.seconds,
        "prepare_s": prepared,
        "speedup": agents * steps * _CALL_S / _SLOTS / asked.seconds,
        "exact": float(asked.exact),
        "questions": float(asked.recall().questions),
        "sweep_points": float(len(found.points)),
        "sweep_seconds": swept,
    }


def _played(world: World, steps: int, folder: Path) -> None:
    # Nobody watches this run, so what waits to be written may be more than usual.
    played = Run(
        world, ScriptedModel(_SEED, latency_s=0.0), steps=steps, seed=_SEED, folder=folder, cache=False, ask_every=10, max_rows=16_384
    )  # fmt: skip
    played.start().wait(600)
    played.close()
