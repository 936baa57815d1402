"""The recent tier: records word for word, oldest first, with a running byte count.

Owned by one memory, on the engine's loop thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from troupelab.memory.record import Record

__all__ = ["Recent"]


class Recent:
    """A queue of records that knows its bytes."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def append(self, record: Record) -> None:
        """Add the newest record."""
        self._records.append(record)
        self.bytes += record.size_bytes

    def newest(self, n: int) -> list[Record]:
        """The newest `n` records, oldest of them first."""
        return list(islice(reversed(self._records), n))[::-1]

    def newest_first(self) -> Iterator[Record]:
        """All records from the newest to the oldest."""
        return reversed(self._records)

    def take_oldest(self, max_records: float, max_bytes: float) -> list[Record]:
        """Remove the oldest until at most so many records and bytes are left; returns what was removed, oldest first."""
        taken = []
        while self._records and (len(self._records) > max_records or self.bytes > max_bytes):
            record = self._records.popleft()
            self.bytes -= record.size_bytes
            taken.append(record)
        return taken
