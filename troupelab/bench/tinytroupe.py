"""What the bridge saves: TinyTroupe as it is against the same code on this engine, in one run, on one rehearsal server.

Stock TinyTroupe runs in its parallel mode with its waits, its limit on calls, its logs and its display off; the report's `stock` says how it was
configured. Both sides are processes of their own, which take turns. The server refuses the parameter `seed`, as some endpoints
do, so that a reply depends on the prompt alone, and both sides get the same ones: `same_memories` is 1 if everybody remembers as many
actions and stimuli on both sides, in all of the runs, and else 0; `same_texts` is the same for what they say, to the letter.

`speedup_0_2s` and `speedup_2s` are one step of 100 agents, with calls of 0.2 s and 2.0 s; `…_20` the same of 20.
`speedup_consolidation` is 20 agents × 6 steps at 0.2 s with TinyTroupe's own episodes, each step beginning with a broadcast, until all
notes are written. `adopt_ratio` is a step's time as an adopted run over that under `accelerate()`. CPU is the whole process's, TinyTroupe's
own work included. `extra_connections` is how many connections were opened beyond the calls under way at once, at most.
`rss_mb_10k` is the growth of RAM when 20 persons have heard 10,000 short sentences each, with limits at their defaults.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from troupelab.bench.harness import report
from troupelab.bench.tinytroupe_side import Side, Task, Way, begin_side
from troupelab.models.rehearsal.process import Rehearsal

__all__ = ["QUICK", "Sizes", "run"]

_WAYS: tuple[Way, ...] = ("stock", "accelerate")
_WARM = 4


class Sizes(NamedTuple):
    """How much is measured."""

    few: int = 20
    many: int = 100
    latencies_s: tuple[float, float] = (0.2, 2.0)
    steps: int = 6
    heard: int = 10_000
    repetitions: int = 3


QUICK = Sizes(few=5, many=20, latencies_s=(0.1, 0.3), steps=4, heard=500, repetitions=1)
_FULL = Sizes()


def run(*, quick: bool = False, sizes: Sizes | None = None) -> dict[str, object]:
    """Measure and report; `quick` takes fewer agents and shorter calls, once, to try the benchmark itself.

    Args:
        quick: a try-out.
        sizes: how much is measured, where that is neither.

    Raises:
        MissingPackageError: TinyTroupe, or something that it needs, is not installed.
        BridgeError: it is a version that the bridge does not know.
        RunError: one of the two sides, or the server, failed.
    """
    taken = sizes or (QUICK if quick else _FULL)
    turns = itertools.cycle((_WAYS, _WAYS[::-1]))
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Rehearsal(refuse_parameters=("seed",)) as server,
        contextlib.ExitStack() as opened,
    ):
        sides: dict[Way, Side] = {}
        for way in _WAYS:
            sides[way] = opened.enter_context(begin_side(_within(folder, way), server.base_url))
            sides[way].do(Task(way=way, agents=_WARM, spoken_to=True))  # imports, and what the endpoint takes
        bench = _Bench(server, sides, taken)

        def measure() -> Mapping[str, float]:
            order = next(turns)
            return {**bench.played(order), **_heard(Path(folder), server, order, taken)}

        made = report("tinytroupe", measure, taken.repetitions)
    return made | {"tinytroupe": sides["stock"].about["version"], "stock": sides["stock"].about["configuration"]}


class _Bench:
    """Two sides that take turns on one server."""

    def __init__(self, server: Rehearsal, sides: Mapping[Way, Side], sizes: Sizes) -> None:
        self._server = server
        self._sides = sides
        self._sizes = sizes
        self._same = {"same_memories": 1.0, "same_texts": 1.0}
        self._extra = 0

    def played(self, order: Sequence[Way]) -> Mapping[str, float]:
        """All that is played, once."""
        sizes, figures = self._sizes, dict[str, float]()
        self._same, self._extra, errors = dict.fromkeys(self._same, 1.0), 0, 0
        for latency_s, name in zip(sizes.latencies_s, ("0_2s", "2s"), strict=True):
            for agents, suffix in ((sizes.many, ""), (sizes.few, "_20")):
                found = self._both(order, latency_s, Task(way="stock", agents=agents))
                errors += found["accelerate"]["errors"]
                figures[f"speedup_{name}{suffix}"] = found["stock"]["wall_s"] / found["accelerate"]["wall_s"]
                for way in _WAYS:
                    figures[f"wall_s_{name}{suffix}_{way}"] = found[way]["wall_s"]
                if name == "0_2s" and not suffix:
                    figures["cpu_ms_per_agent_step"] = found["accelerate"]["cpu_s"] * 1000 / agents
                    figures["cpu_ms_per_agent_step_stock"] = found["stock"]["cpu_s"] * 1000 / agents
                    adopted = self._ours(Task(way="adopt", agents=agents))
                    self._compare(found["stock"], adopted)
                    figures["adopt_ratio"] = adopted["wall_s"] / found["accelerate"]["wall_s"]
                    figures["cpu_ms_per_agent_step_adopt"] = adopted["cpu_s"] * 1000 / agents
        task = Task(way="stock", agents=sizes.few, steps=sizes.steps, spoken_to=True)
        found = self._both(order, sizes.latencies_s[0], task)
        figures["speedup_consolidation"] = found["stock"]["wall_s"] / found["accelerate"]["wall_s"]
        for way in _WAYS:
            figures[f"wall_s_consolidation_{way}"] = found[way]["wall_s"]
        figures["consolidation_records"] = float(sum(map(sum, found["stock"]["counts"])))
        return figures | self._same | {
            "extra_connections": float(self._extra), "errors": float(errors + found["accelerate"]["errors"])
        }  # fmt: skip

    def _both(self, order: Sequence[Way], latency_s: float, task: Task) -> Mapping[Way, dict[str, Any]]:
        self._server.configure(latency=f"const:{latency_s}")
        found = {
            way: self._ours(task._replace(way=way)) if way != "stock" else self._sides[way].do(task) for way in order
        }
        self._compare(found["stock"], found["accelerate"])
        return found

    def _ours(self, task: Task) -> dict[str, Any]:
        """Have our side do a task, and count the connections that it opens."""
        self._server.reset()
        found = self._sides["accelerate"].do(task)
        self._extra = max(self._extra, self._server.stats()["connections"]["opened"] - found["under_way"])
        return found

    def _compare(self, stock: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        for figure, part in (("same_memories", "counts"), ("same_texts", "digest")):
            if stock[part] != ours[part]:
                self._same[figure] = 0.0


def _heard(folder: Path, server: Rehearsal, order: Sequence[Way], sizes: Sizes) -> Mapping[str, float]:
    """What memories take of RAM, in processes that have done nothing else."""
    figures = {}
    for way in order:
        with begin_side(_within(folder, "heard"), server.base_url) as side:
            found = side.do(Task(way=way, agents=sizes.few, heard=sizes.heard))
        suffix = "_stock" if way == "stock" else ""
        figures[f"rss_mb_10k{suffix}"] = found["rss_mb"]
        figures[f"listens_per_s{suffix}"] = sizes.few * sizes.heard / found["wall_s"]
    return figures


def _within(folder: str | Path, name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=name, dir=folder))
