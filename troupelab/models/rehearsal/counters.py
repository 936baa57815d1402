"""What the rehearsal server remembers between requests: bodies it has seen, prompt beginnings, and a bucket of requests.

All of it is bounded. It belongs to the server's loop.
"""

from __future__ import annotations

import time
from collections import OrderedDict

import xxhash

__all__ = ["PREFIX_TOKENS", "Bucket", "Prefixes", "Seen"]

PREFIX_TOKENS = 1_024
"""The block in which a prompt's beginning is remembered, at 4 characters a token."""

_BLOCK_CHARS = 4 * PREFIX_TOKENS
_MOST_SEEN = 65_536
_MOST_BLOCKS = 65_536


class Seen:
    """Counts how often a body came, for the 65,536 that came last.

    >>> seen = Seen()
    >>> [seen.times(7), seen.times(7), seen.times(8)]
    [0, 1, 0]
    """

    def __init__(self) -> None:
        self._times: OrderedDict[int, int] = OrderedDict()

    def times(self, digest: int) -> int:
        """How often this one came before; it is counted."""
        before = self._times.pop(digest, 0)
        self._times[digest] = before + 1
        if len(self._times) > _MOST_SEEN:
            self._times.popitem(last=False)
        return before


class Prefixes:
    """Remembers prompts by their beginning, as a provider's prompt cache does.

    >>> prefixes = Prefixes()
    >>> tokens, blocks = prefixes.look_up("gpt", "x" * 5_000)
    >>> prefixes.keep(blocks)
    >>> prefixes.look_up("gpt", "x" * 4_096 + "another end")[0]
    1024
    """

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def look_up(self, model: str, prompt: str) -> tuple[int, list[int]]:
        """How many tokens of the prompt's beginning are remembered, and what `keep` wants once it was answered."""
        digest = xxhash.xxh3_64_intdigest(model.encode())
        digests = []
        for start in range(0, len(prompt) - _BLOCK_CHARS + 1, _BLOCK_CHARS):
            digest = xxhash.xxh3_64_intdigest(prompt[start : start + _BLOCK_CHARS].encode(), digest)
            digests.append(digest)
        known = 0
        while known < len(digests) and digests[known] in self._blocks:
            known += 1
        return known * PREFIX_TOKENS, digests

    def keep(self, blocks: list[int]) -> None:
        """Remember what `look_up` gave for a prompt."""
        for digest in blocks:
            self._blocks[digest] = None
            self._blocks.move_to_end(digest)
        while len(self._blocks) > _MOST_BLOCKS:
            self._blocks.popitem(last=False)


class Bucket:
    """Lets so many requests a second through, and one second's worth at once.

    Args:
        rate: requests a second; None lets all through.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._room = 1.0 if rate is None else max(rate, 1.0)
        self._left = self._room
        self._at = time.monotonic()

    def take(self) -> bool:
        """Take one request's place; False where there is none."""
        if self._rate is None:
            return True
        now = time.monotonic()
        self._left = min(self._room, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
