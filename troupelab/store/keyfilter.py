"""Which keys may be in a file, told without looking into it: a Bloom filter (Bloom, 1970).

It never says no for a key that was added. What has left the file is still said to be there, which only costs a look. Two
megabytes serve millions of keys: one in a million unknown keys passes after 100,000 of them, and one in twenty after 2.5 million.

Whoever adds holds the lock of the file that it belongs to; anybody may ask.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

__all__ = ["KeyFilter"]

_BITS = 1 << 24
_MASK = _BITS - 1
_places = struct.Struct("<4I").unpack


class KeyFilter:
    """Remembers keys of 16 bytes that are hashes themselves.

    >>> known = KeyFilter([b"a key of 16 byte"])
    >>> known.may_have(b"a key of 16 byte"), known.may_have(b"one never added.")
    (True, False)
    """

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        places = np.frombuffer(b"".join(keys), dtype="<u4") & _MASK
        bits = np.zeros(_BITS // 8, dtype=np.uint8)
        np.bitwise_or.at(bits, places >> 3, np.left_shift(1, places & 7).astype(np.uint8))
        self._bits = bytearray(bits)

    def add(self, key: bytes) -> None:
        """Remember a key."""
        for place in _places(key):
            self._bits[(place & _MASK) >> 3] |= 1 << (place & 7)

    def may_have(self, key: bytes) -> bool:
        """Whether a key may have been added; no is sure."""
        bits = self._bits
        for place in _places(key):  # noqa: SIM110 - a generator takes twice as long, and this is asked at each call
            if not bits[(place & _MASK) >> 3] >> (place & 7) & 1:
                return False
        return True
