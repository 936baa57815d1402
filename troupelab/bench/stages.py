"""What each stage of the request path brings: the same work with it and without it, against a rehearsal server.

Keys say what is compared: `…_off` is the same without the stage. The semantic cache depends on what texts say and is measured on
texts, in `troupelab bench semantic`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from troupelab.bench.harness import report
from troupelab.bench.material import talk
from troupelab.events import CallDone, Event
from troupelab.limits import Limits
from troupelab.livelimits import LiveLimits
from troupelab.models.chat import ChatModel
from troupelab.models.limiter import Priority
from troupelab.models.model import NOW, ChatMessage, Request
from troupelab.models.pipeline import Pipeline
from troupelab.models.rehearsal.process import Rehearsal
from troupelab.people.acts import EXPECTED, read_turn
from troupelab.people.world import World
from troupelab.run import Run

__all__ = ["run"]

_SEED = 7
_NO_FAULTS: dict[str, Any] = {
    "latency": "const:0.1", "p429": 0, "p500": 0, "pmalformed": 0, "pdrop": 0, "phang": 0, "capacity": None,
    "requests_per_s": None,
}  # fmt: skip


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` measures once, to try the benchmark itself."""

    def measure() -> Mapping[str, float]:
        figures: dict[str, float] = {}
        with Rehearsal() as server:
            for part in (_cache, _flight, _packs, _prefix, _adaptive, _rates, _retry, _hedge, _priority):
                server.configure(**_NO_FAULTS)
                server.reset()
                figures |= part(server)
        return figures

    return report("stages", measure, 1 if quick else 3)


def _chat(server: Rehearsal) -> ChatModel:
    return ChatModel("rehearsal", base_url=server.base_url, key="none")


def _play(server: Rehearsal, world: World | str = "product_launch", **options: Any) -> Run:
    """Play a world over HTTP to its end, with the server counting from zero."""
    server.reset()
    options = {"steps": 4, "seed": _SEED, **options}
    return Run(world, _chat(server), **options).start().wait(600)


def _wall_s(run: Run) -> float:
    return float(np.sum(run.frames.steps["end_s"] - run.frames.steps["start_s"]))


def _cache(server: Rehearsal) -> Mapping[str, float]:
    """The same run again, from the exact cache."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "replies.sqlite"
        first = _play(server, cache=file)
        again = _play(server, cache=file)
    return {
        "cache_requests_off": float(first.frames.calls["attempts"].sum()),
        "cache_requests": float(again.frames.calls["attempts"].sum()),
        "cache_seconds_off": _wall_s(first),
        "cache_seconds": _wall_s(again),
        "cache_tokens_saved": float(again.frames.cache["tokens_saved"].sum()),
    }


def _ask_all(
    server: Rehearsal, requests: list[Request], limits: Limits | None = None, **options: Any
) -> tuple[list[Event], float]:
    """Send requests at the same time; returns the events and the seconds."""
    events: list[Event] = []

    async def play() -> float:
        clock = asyncio.get_running_loop().time
        live = LiveLimits(limits or Limits(max_concurrency=200))
        pipeline = Pipeline(_chat(server), live, emit=events.append, clock=clock, **options)
        began = clock()
        await asyncio.gather(
            *(pipeline.complete(lambda _, request=request: request, read_turn, EXPECTED) for request in requests)  # type: ignore[misc]
        )
        seconds = clock() - began
        await pipeline.drain()
        return seconds

    return events, asyncio.run(play())


def _request(number: int, text: str, temperature: float = 1.0) -> Request:
    return Request("act", number, 0, 0, 0, number, (ChatMessage("user", f"{NOW}{text}"),), temperature)


def _flight(server: Rehearsal) -> Mapping[str, float]:
    """A hundred agents that ask for the very same thing at once, at temperature 0."""
    requests = [_request(number, "You just heard:\nnothing new", 0.0) for number in range(100)]
    figures = {}
    for name, on in (("flight_requests", True), ("flight_requests_off", False)):
        server.reset()
        _ask_all(server, requests, coalesce=on)
        figures[name] = float(server.stats()["requests"])
    return figures


def _packs(server: Rehearsal) -> Mapping[str, float]:
    """Acts, and consolidations by the model, that go out together and one by one; a call's time does not depend on its length here."""
    figures: dict[str, float] = {}
    world = World.load("market_panel", agents=40, seed=_SEED)
    for suffix, on in (("", True), ("_off", False)):
        played = _play(server, world, pack_acts=on)
        calls = played.frames.calls
        figures[f"pack_acts_requests{suffix}"] = float(calls["attempts"].sum())
        figures[f"pack_acts_tokens{suffix}"] = float(calls["tokens_in"].sum() + calls["tokens_out"].sum())
        figures[f"pack_acts_seconds{suffix}"] = _wall_s(played)
    for suffix, window_ms in (("", 20), ("_off", 0)):
        limits = Limits(recent_max_records=20, batch_window_ms=window_ms)
        calls = _play(server, steps=10, consolidate="model", limits=limits).frames.calls
        notes = calls[calls["purpose"].isin(["pack", "consolidate"])]
        figures[f"pack_notes_requests{suffix}"] = float(notes["attempts"].sum())
        figures[f"pack_notes_tokens{suffix}"] = float(notes["tokens_in"].sum() + notes["tokens_out"].sum())
    return figures


def _prefix(server: Rehearsal) -> Mapping[str, float]:
    """The share of prompt tokens that a provider's prefix cache serves: laid out stable-first, and with what changes first.

    The world has a long description, as worlds with a setting have; and the first step with a warm-up request and without.
    """
    world = dataclasses.replace(World.load("market_panel", agents=20, seed=_SEED), description=next(talk(_SEED, 6_000)))
    figures = {}
    for suffix, warm in (("", True), ("_off", False)):
        calls = _play(server, world, warm_up=warm).frames.calls
        acts = calls[calls["purpose"] == "act"]
        first = acts[acts["step"] == 0]
        figures[f"warm_up_cached_share{suffix}"] = float(first["tokens_cached"].sum() / first["tokens_in"].sum())
    figures["prefix_cached_share"] = float(acts["tokens_cached"].sum() / acts["tokens_in"].sum())
    server.reset()
    played = Run(world, _ChangingFirst(server), steps=4, seed=_SEED).start().wait(600)
    calls = played.frames.calls
    figures["prefix_cached_share_off"] = float(calls["tokens_cached"].sum() / calls["tokens_in"].sum())
    return figures


class _ChangingFirst(ChatModel):
    """Sends what changes before what does not: what a prompt that is put together without care looks like."""

    def __init__(self, server: Rehearsal) -> None:
        super().__init__("rehearsal", base_url=server.base_url, key="none")

    async def complete(self, request: Request) -> Any:
        """Answer with the messages in the other order."""
        messages = request.messages[::-1]
        turned = Request(
            request.purpose, request.agent, request.step, request.call, request.attempt, request.seed, messages,
            request.temperature, request.max_tokens, request.schema,
        )  # fmt: skip
        return await super().complete(turned)


def _adaptive(server: Rehearsal) -> Mapping[str, float]:
    """An endpoint that takes 12 at once and refuses all others, asked for 60 at once."""
    server.configure(capacity=12)
    world = World.load("market_panel", agents=60, seed=_SEED)
    figures = {}
    for suffix, on in (("", True), ("_off", False)):
        played = _play(server, world, limits=Limits(max_concurrency=60, adaptive_concurrency=on), steps=6)
        figures[f"adaptive_refusals{suffix}"] = float(server.stats()["by_status"].get("429", 0))
        figures[f"adaptive_seconds{suffix}"] = _wall_s(played)
    return figures


def _rates(server: Rehearsal) -> Mapping[str, float]:
    """An endpoint that takes 20 requests a second, with the rate known and not known."""
    server.configure(requests_per_s=20.0)
    figures = {}
    for suffix, rate in (("", 1_140), ("_off", None)):
        played = _play(server, limits=Limits(requests_per_minute=rate), steps=10)
        figures[f"rates_refusals{suffix}"] = float(server.stats()["by_status"].get("429", 0))
        figures[f"rates_seconds{suffix}"] = _wall_s(played)
    return figures


def _retry(server: Rehearsal) -> Mapping[str, float]:
    """Acts lost of 160 on an endpoint with a fault in a tenth of its replies."""
    server.configure(p500=0.05, pmalformed=0.05)
    figures = {}
    for suffix, attempts in (("", 5), ("_off", 1)):
        acts = _play(server, limits=Limits(max_attempts=attempts), steps=20).frames.acts
        figures[f"retry_acts_lost{suffix}"] = float((acts["error"] != "").sum())
    return figures


def _hedge(server: Rehearsal) -> Mapping[str, float]:
    """The slowest of a hundred calls, of 1,000 with a heavy tail, and the requests that it takes."""
    server.configure(latency="lognorm:0.05:1.2")
    requests = [_request(number, f"You just heard:\nnumber {number}") for number in range(1_000)]
    figures = {}
    for suffix, fraction in (("", 0.05), ("_off", 0.0)):
        server.reset()
        events, _ = _ask_all(server, requests, Limits(max_concurrency=20, max_hedged_fraction=fraction))
        latencies = [event.latency_s for event in events if isinstance(event, CallDone)]
        figures[f"hedge_p99_s{suffix}"] = float(np.quantile(latencies, 0.99))
        figures[f"hedge_requests{suffix}"] = float(server.stats()["requests"])
    return figures


def _priority(server: Rehearsal) -> Mapping[str, float]:
    """Six slots, 60 whom nobody waits for, and, last to come, one with ten in a row behind it: first, and in the order of coming."""
    figures = {}
    for suffix, on in (("", True), ("_off", False)):
        figures[f"priority_seconds{suffix}"] = asyncio.run(_with_priority(server, on=on))
    return figures


async def _with_priority(server: Rehearsal, *, on: bool) -> float:
    pipeline = Pipeline(
        _chat(server), LiveLimits(Limits(max_concurrency=6)), emit=lambda event: None, clock=time.monotonic
    )

    async def ask(number: int, holds_up: int) -> None:
        priority: Priority = (-holds_up,) if on else ()
        request = _request(number, f"You just heard:\nnumber {number}")
        await pipeline.complete(lambda _: request, read_turn, EXPECTED, priority=priority)

    async def speak_in_turn() -> None:
        for behind in range(10, -1, -1):
            await ask(1_000 + behind, behind)

    began = time.monotonic()
    others = [asyncio.create_task(ask(number, 0)) for number in range(60)]
    await asyncio.gather(*others, asyncio.create_task(speak_in_turn()))
    seconds = time.monotonic() - began
    await pipeline.drain()
    return seconds
