"""What the bridge saves: TinyTroupe as it is against the same code on this engine, in one run, on one rehearsal server.

Stock TinyTroupe runs in its parallel mode with its waits, its limit on calls, its logs and its display off; the report's `stock` says how it was
configured. Both sides are processes of their own, which take turns. The server refuses the parameter `seed`, as some endpoints
do, so that a reply depends on the prompt alone, and both sides get the same ones: `same_memories` is 1 if everybody remembers as many
actions and stimuli on both sides, in all of the runs, and else 0; `same_texts` is the same for what they say, to the letter.

`speedup_0_2s` and `speedup_2s` are one step of 100 agents, with calls of 0.2 s and 2.0 s; `…_20` the same of 20.
`speedup_consolidation` is 20 agents × 6 steps at 0.2 s with TinyTroupe's own episodes, each step beginning with a broadcast, until all
notes are written. `adopt_ratio` is a step's time as an adopted run over that under `accelerate()`. CPU is the whole process's, TinyTroupe's
own work included. `extra_connections` is how many connections were opened beyond the calls under way at once, at most.
`rss_mb_10k` is the growth of RAM when 20 persons have heard 10,000 short sentences each, with limits at their defaults, and
`records_kept_share` how many of them can still be read, of those that stock keeps; both are measured once.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from troupelab.bench.harness import report
from troupelab.bench.tinytroupe_side import Side, Task, Way, begin_side
from troupelab.models.rehearsal.process import Rehearsal

__all__ = ["QUICK", "Sizes", "run"]

_WAYS: tuple[Way, ...] = ("stock", "accelerate")
_WARM = 4
# A median would hide what went wrong once.
_WORST = {"same_memories": min, "same_texts": min, "extra_connections": max, "errors": max}


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
        heard = cache(lambda: _heard(Path(folder), server, taken))  # it hardly differs, and takes long: once is enough

        def measure() -> Mapping[str, float]:
            return {**bench.played(next(turns)), **heard()}

        made = report("tinytroupe", measure, taken.repetitions)
    figures, spread = cast(dict[str, float], made["figures"]), cast(dict[str, list[float]], made["spread"])
    for figure, worst in _WORST.items():
        figures[figure] = worst(spread[figure])
    return made | {"tinytroupe": sides["stock"].about["version"], "stock": sides["stock"].about["configuration"]}


class _Bench:
    """Two sides that take turns on one server."""

    def __init__(self, server: Rehearsal, sides: Mapping[Way, Side], sizes: Sizes) -> None:
        self._server = server
        self._sides = sides
        self._sizes = sizes

    def played(self, order: Sequence[Way]) -> Mapping[str, float]:
        """All that is played, once; the sides take their turns in this order."""
        sizes = self._sizes
        (short_s, long_s), few, many = sizes.latencies_s, sizes.few, sizes.many
        figures = {"same_memories": 1.0, "same_texts": 1.0, "extra_connections": 0.0, "errors": 0.0}
        stock, ours = self._both(figures, "0_2s", order, short_s, Task(way="stock", agents=many))
        adopted = self._ours(figures, Task(way="adopt", agents=many))
        _compare(figures, stock, adopted)
        figures["adopt_ratio"] = adopted["wall_s"] / ours["wall_s"]
        for suffix, found in (("", ours), ("_stock", stock), ("_adopt", adopted)):
            figures[f"cpu_ms_per_agent_step{suffix}"] = found["cpu_s"] * 1000 / many
        self._both(figures, "0_2s_20", order, short_s, Task(way="stock", agents=few))
        self._both(figures, "2s", order, long_s, Task(way="stock", agents=many))
        self._both(figures, "2s_20", order, long_s, Task(way="stock", agents=few))
        talk = Task(way="stock", agents=few, steps=sizes.steps, spoken_to=True)
        stock, _ = self._both(figures, "consolidation", order, short_s, talk)
        figures["records_consolidation"] = float(sum(map(sum, stock["counts"])))
        return figures

    def _both(
        self, figures: dict[str, float], name: str, order: Sequence[Way], latency_s: float, task: Task
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Have both sides do a task, and note what it took."""
        self._server.configure(latency=f"const:{latency_s}")
        found: dict[Way, dict[str, Any]] = {}
        for way in order:
            mine = task._replace(way=way)
            found[way] = self._sides[way].do(mine) if way == "stock" else self._ours(figures, mine)
            figures[f"wall_s_{name}_{way}"] = found[way]["wall_s"]
        stock, ours = found["stock"], found["accelerate"]
        _compare(figures, stock, ours)
        figures[f"speedup_{name}"] = stock["wall_s"] / ours["wall_s"]
        return stock, ours

    def _ours(self, figures: dict[str, float], task: Task) -> dict[str, Any]:
        """Have our side do a task, and count the connections that it opens."""
        self._server.reset()
        found = self._sides["accelerate"].do(task)
        extra = self._server.stats()["connections"]["opened"] - found["under_way"]
        figures["extra_connections"] = max(figures["extra_connections"], extra)
        figures["errors"] += found["errors"]
        return found


def _compare(figures: dict[str, float], stock: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for figure, part in (("same_memories", "counts"), ("same_texts", "digest")):
        if stock[part] != ours[part]:
            figures[figure] = 0.0


def _heard(folder: Path, server: Rehearsal, sizes: Sizes) -> Mapping[str, float]:
    """What memories take of RAM, in processes that have done nothing else."""
    figures, held = dict[str, float](), []
    for way in _WAYS:
        with begin_side(_within(folder, "heard"), server.base_url) as side:
            found = side.do(Task(way=way, agents=sizes.few, heard=sizes.heard))
        suffix = "_stock" if way == "stock" else ""
        figures[f"rss_mb_10k{suffix}"] = found["rss_mb"]
        figures[f"listens_per_s{suffix}"] = sizes.few * sizes.heard / found["wall_s"]
        held.append(found["held"])
    return figures | {"records_kept_share": held[1] / held[0]}


def _within(folder: str | Path, name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=name, dir=folder))
