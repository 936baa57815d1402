"""What the exact cache costs: puts, hits and keys as the caller's thread sees them, and what eviction holds up.

Replies are 4 kB of made-up talk. `get_us` and `miss_us` are asked of the file, in random order, with next to nothing
in memory; `put_us` is one call while the writer is at work. `overshoot_percent` is how far file and log together pass
the cap while three times the cap is put, looked at after every tenth put; `loop_block_ms` is the longest time that an
event loop in this process waits beyond its 1 ms while the writer evicts at full speed, `loop_idle_ms` the same while
it does nothing.
"""

from __future__ import annotations

import asyncio
import pickle  # only written, to compare with: a cache that saves itself whole
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

import xxhash

from troupelab.bench.harness import report
from troupelab.bench.material import talk
from troupelab.models.cache import ReplyCache, reply_key
from troupelab.models.model import ChatMessage, Reply, Request

__all__ = ["run"]

_SEED = 7
_CHARS = 4_000
_TEXTS = 500
_REQUEST_CHARS = 24_000
_PICKLED = 5_000


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` has 5,000 entries in place of 100,000."""
    entries = 5_000 if quick else 100_000
    texts = list(islice(talk(_SEED, _CHARS), _TEXTS))
    replies = [Reply(text, 6_000, 1_000, 0.01, "scripted") for text in texts]

    def measure() -> Mapping[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            return {
                **_calls(Path(folder, "calls.sqlite"), replies, entries),
                **_eviction(Path(folder, "small.sqlite"), replies, max(5_000, entries // 10)),
                "key_us": _key_us(texts),
                "pickle_save_ms_at_5000": _pickle_ms(Path(folder, "all.pickle"), texts),
            }

    return report("cache", measure, 1 if quick else 3)


def _key(number: int) -> bytes:
    return xxhash.xxh3_128_digest(b"%d" % number)


def _calls(path: Path, replies: list[Reply], entries: int) -> Mapping[str, float]:
    """A cache that has room for all, at its full size."""
    rng = random.Random(_SEED)  # noqa: S311  nothing secret
    asked = min(10_000, entries)
    with ReplyCache.open(path, max_bytes=2_000_000_000, ram_bytes=200_000) as cache:
        began = time.perf_counter()
        for number in range(entries):
            cache.put(_key(number), replies[number % len(replies)], latency_s=1.0)
            if number % 1_000 == 999:
                cache.flush()
        write_us = (time.perf_counter() - began) / entries * 1e6
        puts = list[float]()
        for number in range(entries, entries + 5_000):
            puts.append(_seconds(partial(cache.put, _key(number), replies[number % len(replies)])))
            if number % 500 == 0:
                cache.flush()
        cache.flush()
        known = [_key(number) for number in rng.sample(range(entries), asked)]
        gets = [_seconds(partial(cache.get, key)) for key in known]
        misses = [_seconds(partial(cache.get, _key(-1 - number))) for number in range(asked)]
        hot = [_seconds(partial(cache.get, known[-1])) for _ in range(asked)]
        stats = cache.stats()
        if (stats.refused, stats.misses) != (0, asked):
            raise RuntimeError(f"the cache did not do what is measured here: {stats}")
    return {
        "put_us": statistics.median(puts) * 1e6,
        "get_us": statistics.median(gets) * 1e6,
        "get_hot_us": statistics.median(hot) * 1e6,
        "miss_us": statistics.median(misses) * 1e6,
        "write_us_per_entry": write_us,
        "file_bytes_per_entry": path.stat().st_size / (entries + 5_000),
    }


def _eviction(path: Path, replies: list[Reply], entries: int) -> Mapping[str, float]:
    """A cache that is filled three times over, then cut to a tenth while an event loop watches its own pauses."""
    cap = entries * 2_500
    with ReplyCache.open(path, max_bytes=cap, ram_bytes=200_000) as cache:
        most = 0
        for number in range(3 * entries):
            cache.put(_key(number), replies[number % len(replies)])
            if number % 10 == 9:
                most = max(most, cache.stats().bytes)
            if number % 1_000 == 999:
                cache.flush()
        cache.flush()
        if cache.stats().refused or not cache.stats().evicted:
            raise RuntimeError(f"the cache did not do what is measured here: {cache.stats()}")
        idle_s = asyncio.run(_longest_pause_s(0.5, lambda: None))
        put_s = asyncio.run(_longest_pause_s(1.0, partial(_put_some, cache, replies, iter(range(entries * 3, 10**9)))))
        cache.flush(60)
        cache.resize(max_bytes=cap // 10, max_age_s=None)
        cut_s = asyncio.run(_longest_pause_s(0.5, lambda: None))
        cache.flush()
    return {
        "overshoot_percent": max(0.0, most / cap - 1) * 100,
        "loop_block_ms": max(put_s, cut_s) * 1e3,
        "loop_idle_ms": idle_s * 1e3,
    }


def _put_some(cache: ReplyCache, replies: list[Reply], numbers: Iterator[int]) -> None:
    for number in islice(numbers, 5):
        cache.put(_key(number), replies[number % len(replies)])


async def _longest_pause_s(seconds: float, act: Callable[[], object]) -> float:
    """Sleep 1 ms again and again, doing something in between, and tell by how much one turn was late at most."""
    longest, until = 0.0, time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        act()
        acted = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - acted - 0.001, acted - began)
    return longest


def _key_us(texts: list[str]) -> float:
    """Requests of 24 kB in six messages, as a persona's act has them."""
    whole = "".join(texts[: _REQUEST_CHARS // _CHARS])
    part = _REQUEST_CHARS // 6
    samples = list[float]()
    for number in range(2_000):
        messages = tuple(
            ChatMessage("user", f"{number:06}{whole[at + 6 : at + part]}") for at in range(0, _REQUEST_CHARS, part)
        )
        request = Request("act", 0, number, 0, 0, number, messages)
        samples.append(_seconds(partial(reply_key, request, model="scripted", seed=_SEED, share_identical=False)))
    return statistics.median(samples) * 1e6


def _pickle_ms(path: Path, texts: list[str]) -> float:
    """One save of a cache that is one dictionary in one file, keyed by its requests' text."""
    everything = {
        f"{number}{texts[number % len(texts)]}": {"content": f"{number}{texts[-1]}"} for number in range(_PICKLED)
    }

    def save() -> None:
        with path.open("wb") as file:
            pickle.dump(everything, file)

    return _seconds(save) * 1e3


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
