"""What test_cache.py runs in other processes: a cache's writer that is killed, and one whose files may not grow."""

from __future__ import annotations

import random
import sys

from troupelab.models.cache import ReplyCache
from troupelab.models.model import Reply

CAP = 400_000


def key(number: int) -> bytes:
    """The key of a reply."""
    return number.to_bytes(16, "big")


def reply(number: int) -> Reply:
    """What must stand under the key; half of it packs well, half not at all."""
    source = random.Random(number)
    size = source.choice([0, 50, 1_000, 4_000, 9_000])
    return Reply(f"{number} " * (size // 20) + source.randbytes(size // 2).decode("latin-1"), number, 1, 0.5, "m")


def write(path: str, first: str) -> None:
    """Put replies for ever, evicting older ones; tell what is acknowledged, a line for each flush."""
    number = int(first)
    with ReplyCache.open(path, max_bytes=CAP) as cache:
        print("open", flush=True)
        while True:
            for _ in range(1 + number % 7):
                cache.put(key(number), reply(number))
                number += 1
            cache.flush()
            print(number, flush=True)


def write_small(path: str, size: str) -> None:
    """Put replies while no file may pass some bytes; print what was acknowledged, what can be read, and the problem."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    with ReplyCache.open(path, max_bytes=10_000_000, ram_bytes=0) as cache:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), hard))
        acknowledged = 0
        for number in range(200):
            cache.put(key(number), reply(number))
            try:
                cache.flush()
            except Exception as error:
                print(type(error).__name__, flush=True)
                break
            acknowledged += 1
        cache.put(key(999), reply(999))  # harmless: it is refused
        readable = sum(cache.get(key(number)) == reply(number) for number in range(acknowledged))
        print(acknowledged, readable, type(cache.problem).__name__, cache.stats().refused, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        cache.resize(max_bytes=10_000_000, max_age_s=None)
        cache.put(key(999), reply(999))
        cache.flush()
        print(cache.problem, cache.get(key(999)) == reply(999), flush=True)


if __name__ == "__main__":
    {"write": write, "small": write_small}[sys.argv[1]](*sys.argv[2:])
