"""Common knowledge: texts that several agents remember are kept once.

A text is known by its content. Whoever remembers it holds it (`hold`), whoever forgets it lets it go (`release`), and at zero it is
gone. Texts never change: an agent whose memory diverges holds another text, and the others keep theirs. On disk, texts that
several hold are written once, in blocks that the agents' segments refer to; a block is dropped when nothing refers to it.

This is storage only: what an agent finds in its memory never depends on who else remembers the same. Owned by one pool of
memories, on the engine's loop thread.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from troupelab.memory.codec import Place
from troupelab.memory.record import text_bytes

__all__ = ["Common"]


class _Held:
    """One text: how many hold it, and where it lies on disk, if it does."""

    __slots__ = ("holders", "place", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.holders = 1
        self.place: Place | None = None


_ENTRY_BYTES = (
    sys.getsizeof(_Held("")) + 104
)  # and its share of a dict: 24 bytes an entry, at a third to two thirds full


class Common:
    """The texts that memories hold.

    >>> common = Common()
    >>> one, other = common.hold("The ferry is cut in May."), common.hold("The ferry is " + "cut in May.")
    >>> one is other, common.holders(one)
    (True, 2)
    >>> common.release([one, other])
    >>> common.holders("The ferry is cut in May."), len(common)
    (0, 0)
    """

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._references: Counter[int] = Counter()
        self._dead: list[int] = []
        self.saved_bytes = 0
        """What it saves in RAM that texts are there once: each memory counts its texts in full."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def ram_bytes(self) -> int:
        """What the book-keeping takes in RAM, without the texts."""
        return len(self._held) * _ENTRY_BYTES

    def holders(self, text: str) -> int:
        """How many hold a text."""
        held = self._held.get(text)
        return 0 if held is None else held.holders

    def hold(self, text: str) -> str:
        """Hold a text; returns the one copy of it."""
        held = self._held.get(text)
        if held is None:
            self._held[text] = _Held(text)
            return text
        held.holders += 1
        self.saved_bytes += text_bytes(text)
        return held.text

    def release(self, texts: Iterable[str]) -> None:
        """Let texts go that were held."""
        for text in texts:
            held = self._held[text]
            held.holders -= 1
            if held.holders:
                self.saved_bytes -= text_bytes(text)
            else:
                del self._held[text]
                if held.place is not None:
                    self._unrefer(held.place.block, 1)

    # ------------------------------------------------------------------ on disk

    def place(self, text: str) -> Place | None:
        """Where a text lies on disk; None for one that is its holder's own."""
        return self._held[text].place

    def shared(self, texts: Iterable[str]) -> tuple[bool, list[str]]:
        """Whether any of some texts is held by several or lies on disk, and those of them that lie nowhere yet, each once."""
        held = self._held
        several = [entry for text in texts if (entry := held[text]).holders > 1 or entry.place is not None]
        return bool(several), list(dict.fromkeys(entry.text for entry in several if entry.place is None))

    def placed(self, texts: Sequence[str], block: int) -> None:
        """Note that texts lie in a block now, in this order."""
        for index, text in enumerate(texts):
            self._held[text].place = Place(block, index)
        self._references[block] += len(texts)

    def references(self, block: int) -> int:
        """How many texts of a block are referred to."""
        return self._references[block]

    def refer(self, uses: Iterable[tuple[int, int]]) -> None:
        """Count a segment's references: pairs of block and number of texts."""
        for block, count in uses:
            self._references[block] += count

    def unrefer(self, uses: Iterable[tuple[int, int]]) -> None:
        """Uncount a dropped segment's references."""
        for block, count in uses:
            self._unrefer(block, count)

    def _unrefer(self, block: int, count: int) -> None:
        self._references[block] -= count
        if not self._references[block]:
            del self._references[block]
            self._dead.append(block)

    def take_dead(self) -> list[int]:
        """The blocks that nothing refers to any more, told once."""
        dead, self._dead = self._dead, []
        return dead
