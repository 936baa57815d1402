"""What memory costs: RAM and disk under a cap for all agents, how fast it stores, and how long it holds up the event loop.

Each figure is measured in a process of its own, so that what one leaves behind does not count for the next. `rss_*` are anonymous
memory (RssAnon) where the system tells it, counted from after the embedder has loaded; mapped files (`rss_all_growth_mb` has them, too)
are the system's to take back. The million stores of `rss_slope_mb_per_million` begin when the cap is first reached.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import psutil

from troupelab.bench.harness import anonymous_mb, report
from troupelab.bench.material import talk
from troupelab.ids import make_id
from troupelab.limits import Limits
from troupelab.memory.memory import Memory
from troupelab.memory.pool import Pool
from troupelab.memory.record import Record
from troupelab.store import Store
from troupelab.text.embed import Embedder
from troupelab.text.wordllama import default_embedder

__all__ = ["run"]

_SEED = 7
_AGENTS = 100
_RECORDS_AN_ACT = 5
_CAP_BYTES = 64_000_000


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` stores a twentieth, to try the benchmark itself."""
    scale = 0.05 if quick else 1.0

    def measure() -> Mapping[str, float]:
        figures: dict[str, float] = {}
        for part in _PARTS:
            command = [sys.executable, "-m", "troupelab.bench.memory", part, str(scale)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
            figures.update(json.loads(done.stdout))
        return figures

    return report("memory", measure, 1 if quick else 3)


class _Play:
    """Agents that remember talk, act by act, over a store in a folder."""

    def __init__(self, folder: Path, *, agents: int, limits: Limits, embedder: Embedder | None, notes: bool) -> None:
        self.store = Store.open(folder / "run.sqlite")
        self.pool = Pool(self.store, scratch=lambda: folder / "scratch", embedder=embedder, notes=notes)
        self.limits = limits
        self.memories = [Memory(agent, limits, self.pool) for agent in range(agents)]
        self.step = 0
        self.stored = 0

    def act(self, memory: Memory, texts: Iterable[str]) -> None:
        """One agent's act: it hears and remembers some texts, and condenses what is due."""
        memory.begin(self.step, self.limits)
        memory.store(
            Record(make_id(memory.agent, self.step, place), "CONVERSATION", "Elif Aydın", text, place)
            for place, text in enumerate(texts)
        )
        memory.settle()
        self.stored += _RECORDS_AN_ACT

    def round(self, texts: Callable[[], list[str]]) -> None:
        """One act of every agent."""
        for memory in self.memories:
            self.act(memory, texts())
        self.step += 1


def _rss(scale: float) -> Mapping[str, float]:
    """100 agents x 10,000 records under 64 MB, and then on until a million were stored after the cap was reached."""
    limits = Limits(total_max_bytes=int(_CAP_BYTES * scale), semantic_max_notes=None)
    embedder = _loaded()
    source = talk(_SEED)
    wanted = int(1_000_000 * scale)
    with tempfile.TemporaryDirectory() as folder:
        for text in islice(source, 2_000):  # the words' caches are the embedder's, not memory's
            embedder.embed([text])
        anonymous, everything = _memory_mb()
        play = _Play(Path(folder), agents=_AGENTS, limits=limits, embedder=embedder, notes=True)
        samples: list[tuple[float, float]] = []
        full_at = growth = all_growth = 0.0
        while play.stored < wanted or not full_at or play.stored < full_at + wanted:
            play.round(lambda: list(islice(source, _RECORDS_AN_ACT)))
            if not full_at and play.pool.used_bytes > 0.85 * int(_CAP_BYTES * scale):
                full_at = play.stored
            now_anonymous, now_everything = _memory_mb()
            if play.stored <= wanted:
                growth, all_growth = (
                    max(growth, now_anonymous - anonymous),
                    max(all_growth, now_everything - everything),
                )
            if full_at:
                samples.append((play.stored, now_anonymous))
        stores, megabytes = np.array(samples).T
        slope = np.polyfit(stores / 1e6, megabytes, 1)[0]
        play.store.flush(60)
        disk = play.store.file_bytes() / play.stored
        play.store.close()
    return {
        "rss_growth_mb": growth,
        "rss_slope_mb_per_million": float(slope),
        "rss_all_growth_mb": all_growth,
        "disk_bytes_per_record_with_notes": disk,
    }


def _stores(scale: float) -> Mapping[str, float]:
    """Archive and merging of identical texts, no vectors and no notes: what storing alone takes."""
    return _timed("stores_per_s", int(200_000 * scale), None, Limits(dedup_similarity=1.0), notes=False)


def _stores_notes(scale: float) -> Mapping[str, float]:
    """The same with notes, extracted in place."""
    return _timed("stores_per_s_notes", int(100_000 * scale), None, Limits(dedup_similarity=1.0), notes=True)


def _stores_vectors(scale: float) -> Mapping[str, float]:
    """Everything: vectors of each record, merging by cosine, archive, notes grouped by topic."""
    return _timed("stores_per_s_vectors", int(50_000 * scale), _loaded(), Limits(), notes=True)


def _timed(name: str, records: int, embedder: Embedder | None, limits: Limits, *, notes: bool) -> Mapping[str, float]:
    source = talk(_SEED)
    warm, texts = list(islice(source, 2_000)), iter(list(islice(source, records)))
    with tempfile.TemporaryDirectory() as folder:
        if embedder is not None:
            embedder.embed(warm)
        play = _Play(Path(folder), agents=_AGENTS, limits=limits, embedder=embedder, notes=notes)
        began = time.perf_counter()
        while play.stored < records:
            play.round(lambda: list(islice(texts, _RECORDS_AN_ACT)))
        for memory in play.memories:
            memory.save()
        play.store.flush(60)
        seconds = time.perf_counter() - began
        play.store.close()
        figures = {name: records / seconds}
        if not notes:
            figures["disk_bytes_per_record"] = (Path(folder) / "run.sqlite").stat().st_size / records
    return figures


def _loop_lag(scale: float) -> Mapping[str, float]:
    """How late an event loop wakes up while 100 agents archive at once."""
    agents = max(10, int(_AGENTS * scale))
    # Everybody's segment is nearly full: the next condensed records of each fill it, and it is sealed and put away.
    fill = 300
    source = talk(_SEED)
    texts = iter(list(islice(source, agents * (fill + 400))))
    limits = Limits(dedup_similarity=1.0)
    with tempfile.TemporaryDirectory() as folder:
        play = _Play(Path(folder), agents=agents, limits=limits, embedder=None, notes=False)
        for _ in range(fill // _RECORDS_AN_ACT):
            play.round(lambda: list(islice(texts, _RECORDS_AN_ACT)))
        lags = asyncio.run(_watch_lag(play, texts, 400 // _RECORDS_AN_ACT))
        play.store.close()
    return {"loop_lag_p99_ms": float(np.quantile(lags, 0.99)), "loop_lag_max_ms": max(lags)}


async def _watch_lag(play: _Play, texts: Iterable[str], acts: int) -> list[float]:
    """Play some acts of every agent as tasks on a loop, and measure how late a timer on it is, in ms."""
    source = iter(texts)
    lags: list[float] = []

    async def agent(memory: Memory) -> None:
        for _ in range(acts):
            play.act(memory, list(islice(source, _RECORDS_AN_ACT)))
            await asyncio.sleep(0)

    async def watch() -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            lags.append((time.perf_counter() - due) * 1000)

    watching = asyncio.create_task(watch())
    for first in range(0, len(play.memories), 20):  # as many acts at once as calls in flight
        await asyncio.gather(*(agent(memory) for memory in play.memories[first : first + 20]))
    watching.cancel()
    return lags


def _loaded() -> Embedder:
    embedder = default_embedder()
    embedder.embed(["loaded"])
    return embedder


def _memory_mb() -> tuple[float, float]:
    """Anonymous memory, and all that is resident, in MB; all of it twice where the system does not tell them apart."""
    return anonymous_mb(), psutil.Process().memory_info().rss / 1e6


_PARTS: Mapping[str, Callable[[float], Mapping[str, float]]] = {
    "rss": _rss,
    "stores": _stores,
    "stores_notes": _stores_notes,
    "stores_vectors": _stores_vectors,
    "loop_lag": _loop_lag,
}

if __name__ == "__main__":
    print(json.dumps(_PARTS[sys.argv[1]](float(sys.argv[2]))))
