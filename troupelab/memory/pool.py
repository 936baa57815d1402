"""The pool: what the memories of all agents share, and the caps that hold for all of them together.

It counts what every memory takes in RAM. Above `total_max_bytes` it moves things to disk, first from the memory that is
fattest for its warmth; that never changes what a memory finds. Above `archive_max_bytes` it drops the oldest archived
segments of all, which is said by an event. Owned by the engine's loop thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from troupelab import _platform
from troupelab.errors import StoreError
from troupelab.events import Emit, Event, Evicted, Failed
from troupelab.limits import Limits
from troupelab.memory.semantic import Knowledge
from troupelab.memory.shelf import Shelf
from troupelab.text.embed import Embedder

if TYPE_CHECKING:
    from troupelab.memory.archive import Archive
    from troupelab.store import Store

__all__ = ["Member", "Pool"]

_DOWN_TO = 0.9
"""Once the cap is passed, so much of it is freed, so that memories are not looked through at each record."""

_HELD = 1.3
"""The process holds more than what objects take: what allocators keep, compression's and SQLite's own. Measured as
anonymous memory over a million records that came and went under 64 MB; the constant part of it makes more of a small cap."""

_WRITE_TIMEOUT_S = 60.0
_TRIM_BYTES = 4_000_000
"""After so much has left, the allocator is asked to give it back to the system: it holds on to what was freed in pieces."""


def _nobody(event: Event) -> None:
    """Where events go when nobody asked for them."""


class Member(Protocol):
    """What the pool needs to know of a memory."""

    agent: int
    archive: Archive | None

    def warmth(self) -> float:
        """How dearly it is kept in RAM."""

    def movable(self) -> dict[str, int]:
        """The bytes that could leave RAM, by what they are."""

    def move(self, what: str) -> tuple[int, int]:
        """Let something leave RAM; returns how many things, and the bytes freed."""

    def charge(self) -> None:
        """Tell the pool what it takes now."""


class Pool:
    """What all memories share.

    Args:
        store: where memories are kept, and may be already; or what makes a fresh store when something is put away for the
            first time; or None for memories without a disk, which have no archive and cannot obey `total_max_bytes`.
        scratch: a folder for what is only a cache on disk (vectors of old notes).
        embedder: for all memories; None compares words instead.
        notes: whether consolidation writes notes; without, what leaves the recent tier is archived only.
        emit: is told each consolidation, merge, move and drop.
        clock: seconds since the run's start, for the events' `at_s`.
        hours_per_step: the simulated time of a step, for `max_age_hours`.

    >>> Pool().used_bytes
    0
    """

    def __init__(
        self,
        store: Store | Callable[[], Store] | None = None,
        *,
        scratch: Callable[[], Path] | None = None,
        embedder: Embedder | None = None,
        notes: bool = True,
        emit: Emit = _nobody,
        clock: Callable[[], float] = lambda: 0.0,
        hours_per_step: float = 1.0,
    ) -> None:
        self.shelf = Shelf(store, scratch)
        self.embedder = embedder
        self.notes = notes
        self.emit = emit
        self.clock = clock
        self.hours_per_step = hours_per_step
        self.step = 0
        self._members: list[Member] = []
        self._knowledge: list[Knowledge] = []
        self._charged = 0
        self._caps: tuple[int | None, int | None, int] | None = None
        self._total: int | None = None
        self._archive: int | None = None
        self._told_too_low = False
        self._freed = 0

    @property
    def used_bytes(self) -> int:
        """What all memories take in RAM: their own, what they share (once), caches, what waits for the disk, and the allocators' share."""
        shared = sum([known.ram_bytes for known in self._knowledge])
        return int((self._charged + self.shelf.ram_bytes - self.shelf.common.saved_bytes + shared) * _HELD)

    @property
    def dims(self) -> int:
        """The length of the embedder's vectors; 0 without one."""
        return 0 if self.embedder is None else self.embedder.dims

    @property
    def problem(self) -> StoreError | None:
        """Why nothing can be written now; None when all is well."""
        return self.shelf.problem

    def retry(self) -> None:
        """Try to write again, now."""
        self.shelf.store.retry()

    @property
    def disk_bytes(self) -> int:
        """What all archived segments take on disk."""
        return sum(member.archive.disk_bytes for member in self._members if member.archive is not None)

    def join(self, member: Member) -> None:
        """Count a memory in."""
        self._members.append(member)

    def knowledge(self, facts: Sequence[str]) -> Knowledge:
        """Facts for several memories to learn: one copy for all."""
        known = Knowledge(facts, self.embedder)
        self._knowledge.append(known)
        return known

    def begin(self, step: int, limits: Limits) -> None:
        """Begin a step under its limits; lowered caps are obeyed when this returns.

        The caps for all are those of the newest step that anyone has begun.
        """
        if step < self.step:
            return
        self.step = step
        caps = (limits.total_max_bytes, limits.archive_max_bytes, limits.segment_cache_max_bytes)
        if caps == self._caps:
            return
        self._caps = caps
        self._total, self._archive, self.shelf.cache_max_bytes = caps
        self.shelf.shrink_cache(self.shelf.cache_max_bytes)
        self._told_too_low = False
        self.charge(0)
        self._trim_archive()

    def charge(self, more_bytes: int) -> None:
        """Count what a memory took or gave back, and keep the caps for all."""
        self._charged += more_bytes
        if self.shelf.reap():
            self._trim_archive()
        if self._total is not None and self.shelf.durable and self.used_bytes > self._total:
            self._make_room(self._total)

    # ------------------------------------------------------------------ RAM

    def _make_room(self, cap: int) -> None:
        wanted = int(_DOWN_TO * cap)
        self.shelf.shrink_cache(max(0, self.shelf.cache_bytes - (self.used_bytes - wanted)))
        self._move(wanted)
        if self._freed >= _TRIM_BYTES:
            self._freed = 0
            _platform.trim_heap()
        if self.used_bytes > cap:
            try:
                self.shelf.flush(_WRITE_TIMEOUT_S)
            except (StoreError, TimeoutError) as error:
                self._tell_too_low(f"the disk takes nothing more ({error})")
            else:
                if self.used_bytes > cap:
                    self._tell_too_low("what must stay in RAM (indexes, pinned records) takes more")

    def _move(self, wanted: int) -> None:
        """Let things leave RAM, always next what is fattest for its owner's warmth, until no more than wanted is left."""
        queue = [
            (-size / member.warmth(), member.agent, what, member)
            for member in self._members
            for what, size in member.movable().items()
            if size > 0
        ]
        heapq.heapify(queue)
        already = self.shelf.waiting_bytes
        # What was just put away still waits to be written, and is as good as gone.
        while queue and self.used_bytes - max(0, self.shelf.waiting_bytes - already) > wanted:
            _, agent, what, member = heapq.heappop(queue)
            try:
                count, freed = member.move(what)
            except OSError as error:
                message = f"{what} stay in RAM: {error}"
                self.emit(Failed(self.clock(), self.step, agent, type(error).__name__, message, 0))
                continue
            self._charged -= freed
            self._freed += freed
            self.emit(Evicted(self.clock(), self.step, agent, "total_max_bytes", what, count, freed, False))
            if freed > 0 and (size := member.movable()[what]) > 0:
                heapq.heappush(queue, (-size / member.warmth(), agent, what, member))

    def _tell_too_low(self, why: str) -> None:
        if not self._told_too_low:
            self._told_too_low = True
            message = f"memories take {self.used_bytes} bytes, more than total_max_bytes={self._total}: {why}"
            self.emit(Failed(self.clock(), self.step, -1, "TotalMaxBytesTooLow", message, 0))

    # ------------------------------------------------------------------ disk

    def _trim_archive(self) -> None:
        if self._archive is None:
            return
        used = self.disk_bytes
        while used > self._archive:
            oldest = min(
                (
                    (step, member.agent, member.archive, member)
                    for member in self._members
                    if member.archive is not None and (step := member.archive.oldest_step) is not None
                ),
                key=lambda each: each[:2],
                default=None,
            )
            if oldest is None:
                return
            _, agent, archive, member = oldest
            before = archive.disk_bytes
            dropped = archive.drop_oldest_segment()
            member.charge()
            used -= before - archive.disk_bytes
            self.emit(
                Evicted(
                    self.clock(), self.step, agent, "archive_max_bytes", "archived records", dropped.records, dropped.bytes, True
                )
            )  # fmt: skip
