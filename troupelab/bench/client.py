"""What a call costs: from a question through every stage over HTTP and back, against a rehearsal server in a process of its own.

`calls_per_s` and `cpu_ms_per_call` are at 500 in flight, with bodies of 24 kB, none like another, with the exact cache, single
flight, budget, rates and time-outs on; the semantic cache, which compares texts, is measured apart. `bare_…` is the same bodies sent by
aiohttp alone, with nothing around it: what is left when all stages cost nothing.
`step_2s_ratio` is one step of 100 agents, all in flight, over the 2.0 s that each call takes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import count, islice
from pathlib import Path

from troupelab._collector import collecting_less
from troupelab.bench.harness import report
from troupelab.bench.material import talk
from troupelab.events import CallDone, Event
from troupelab.ids import draw
from troupelab.limits import Limits
from troupelab.livelimits import LiveLimits
from troupelab.models.cache import ReplyCache
from troupelab.models.chat import ChatModel
from troupelab.models.model import ChatMessage, Request
from troupelab.models.pipeline import Pipeline
from troupelab.models.rehearsal.process import Rehearsal
from troupelab.models.semantic import SemanticCache
from troupelab.models.wire import Dialect, request_body
from troupelab.people.acts import EXPECTED, TURN, read_turn
from troupelab.people.world import World
from troupelab.run import Run
from troupelab.text.wordllama import default_embedder

__all__ = ["run"]

_SEED = 7
_IN_FLIGHT = 500
_LATENCY_S = 0.05
_SYSTEM_CHARS, _USER_CHARS = 16_000, 8_000
_GIST_CHARS = 300


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` makes a tenth of the calls, to try the benchmark itself."""
    calls = 2_000 if quick else 10_000

    def measure() -> Mapping[str, float]:
        with collecting_less(), Rehearsal(latency=f"lognorm:{_LATENCY_S}:0.4", reply="short") as server:
            _many(server, 1_000, like=False)  # connections, imports and the processor's caches
            bare = asyncio.run(_bare(server, calls))
            plain = _many(server, calls, like=False)
            alike = _many(server, calls // 2, like=True)
            server.configure(latency="const:2.0")
            return {
                "calls_per_s": plain["calls_per_s"],
                "cpu_ms_per_call": plain["cpu_ms_per_call"],
                "extra_connections": plain["extra_connections"],
                **bare,
                "calls_per_s_semantic": alike["calls_per_s"],
                "cpu_ms_per_call_semantic": alike["cpu_ms_per_call"],
                "calls_recorded_share": plain["calls_recorded_share"],
                "step_2s_ratio": _step(server),
            }

    return report("client", measure, 1 if quick else 3)


def _many(server: Rehearsal, calls: int, *, like: bool) -> dict[str, float]:
    """Make so many calls with 500 in flight, and tell what they took."""
    limits = Limits(
        max_concurrency=_IN_FLIGHT, requests_per_minute=10_000_000, tokens_per_minute=10_000_000_000, max_tokens=10**12,
        cache_similarity=0.95 if like else None,
    )  # fmt: skip
    events: list[Event] = []
    server.reset()

    async def play(cache: ReplyCache) -> tuple[float, float]:
        semantic = SemanticCache(default_embedder()) if like else None
        pipeline = Pipeline(
            ChatModel("rehearsal", base_url=server.base_url, key="none"), LiveLimits(limits), emit=events.append,
            clock=time.perf_counter, cache=cache, semantic=semantic,
        )  # fmt: skip
        numbers = iter(range(calls))
        bodies = _messages()

        async def worker() -> None:
            for number in numbers:
                messages, gist = next(bodies)
                request = Request(
                    "act", number, 0, 0, 0, draw(_SEED, "act", number), messages, schema=TURN, gist=gist if like else ""
                )
                await pipeline.complete(lambda attempt, request=request: request, read_turn, EXPECTED)  # type: ignore[misc]

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(_IN_FLIGHT)))
        await asyncio.to_thread(cache.flush)
        taken = time.perf_counter() - began, time.process_time() - cpu
        await pipeline.drain()
        return taken

    with tempfile.TemporaryDirectory() as folder, ReplyCache.open(Path(folder) / "replies.sqlite") as cache:
        wall_s, cpu_s = asyncio.run(play(cache))
    stats = server.stats()
    recorded = sum(event.attempts for event in events if isinstance(event, CallDone))
    return {
        "calls_per_s": calls / wall_s,
        "cpu_ms_per_call": cpu_s * 1000 / calls,
        "extra_connections": float(stats["connections"]["opened"] - _IN_FLIGHT),
        "calls_recorded_share": recorded / stats["requests"],
    }


async def _bare(server: Rehearsal, calls: int) -> dict[str, float]:
    """Send as many bodies of this size with aiohttp alone."""
    import aiohttp

    messages, _ = next(_messages())
    request = Request("act", 0, 0, 0, 0, 0, messages, schema=TURN)
    body = request_body(request, "rehearsal", Dialect("json_schema"), stream=False)
    numbers = iter(range(calls))
    url, headers = f"{server.base_url}/chat/completions", {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            for _ in numbers:
                async with session.post(url, data=body, headers=headers) as response:
                    await response.read()

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(_IN_FLIGHT)))
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return {"bare_calls_per_s": calls / wall_s, "bare_cpu_ms_per_call": cpu_s * 1000 / calls}


def _messages() -> Iterator[tuple[tuple[ChatMessage, ...], str]]:
    """Prompts of 24 kB, the first two thirds the same as a prompt's stable part is, the rest like no other's; and a gist."""
    system, user, gists = _material()
    for number in count():
        gist = f"{number} {gists[number % len(gists)]}"
        yield (ChatMessage("system", system), ChatMessage("user", f"{number} {user}")), gist


@lru_cache(maxsize=1)
def _material() -> tuple[str, str, list[str]]:
    """What the prompts are made of: made once, since making it up takes longer than a call."""
    gists = list(islice(talk(_SEED + 2, _GIST_CHARS), 1_000))
    return next(talk(_SEED, _SYSTEM_CHARS)), next(talk(_SEED + 1, _USER_CHARS)), gists


def _step(server: Rehearsal) -> float:
    """One step of 100 agents, all in flight, over the time of one call; the connections are new, as in a first step."""
    world = World.sample(100, seed=_SEED)
    model = ChatModel("rehearsal", base_url=server.base_url, key="none")
    played = Run(world, model, limits=Limits(max_concurrency=100), steps=1, seed=_SEED).start().wait()
    rows = played.recorder.read("steps").columns
    return float(rows["end_s"][0] - rows["start_s"][0]) / 2.0
