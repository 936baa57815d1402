"""The semantic tier: notes with their vectors and with sketches of their words, all of them searched.

Of each note a few numbers stay in RAM. Its text can leave (it is on disk from the moment it was added, where there is a disk),
and so can its row (vector and sketch), to a memory-mapped file; what a search finds is the same wherever they lie. Facts that everybody
knows (`Knowledge`) are shared: all agents refer to one copy until one of them has to drop some. Owned by one memory, on
the engine's loop thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from troupelab.ids import WORLD, make_id
from troupelab.memory.record import Note
from troupelab.memory.shelf import NOTES, Shelf
from troupelab.memory.vectors import Rows, quantise
from troupelab.text.embed import Embedder, Vectors
from troupelab.text.sketch import SKETCH_BYTES, having, sketches

__all__ = ["Knowledge", "Notes", "Semantic", "vectors_of"]

_COLUMNS = np.dtype(
    [
        ("id", "i8"),
        ("last_step", "f8"),
        ("scale", "f4"),
        ("block", "i4"),
        ("at", "i4"),
        ("bytes", "i4"),
        ("pinned", "?"),
    ],
    align=True,
)
_SLOT_BYTES = 8
NOTE_INDEX_BYTES = _COLUMNS.itemsize + _SLOT_BYTES
"""What stays in RAM of a note whose text and row have left."""

_WARM_FROM = 1_000
"""From so many notes on, a search keeps a copy of the rows that makes the next one faster."""

_BLOCK_NOTES = 64
"""So many notes are put away together."""

_NOWHERE = -1


class _Block(NamedTuple):
    """A block on disk: how many notes it has, and how many of them have not been dropped."""

    notes: int
    left: int


class Knowledge:
    """Facts that every agent of a world knows from the beginning: one copy of notes and rows for all.

    >>> known = Knowledge(["The ferry will be cut in May."], None)
    >>> known.notes[0].text, known.holders
    ('The ferry will be cut in May.', 0)
    """

    def __init__(self, facts: Sequence[str], embedder: Embedder | None) -> None:
        self.notes = tuple(Note(make_id(WORLD, 0, at), 0, 0, 0, fact) for at, fact in enumerate(facts))
        self.rows, self.scales = _rows(self.notes, vectors_of(self.notes, embedder))
        self.holders = 0

    @property
    def ram_bytes(self) -> int:
        """What it takes in RAM, once for all."""
        return (
            sum(note.size_bytes for note in self.notes) + self.rows.nbytes + self.scales.nbytes if self.holders else 0
        )


class Notes(Sequence[Note]):
    """All notes of a tier, oldest first, brought back from disk one by one as they are asked for."""

    def __init__(self, tier: Semantic) -> None:
        self._tier = tier

    def __len__(self) -> int:
        return len(self._tier)

    @overload
    def __getitem__(self, place: int) -> Note: ...
    @overload
    def __getitem__(self, place: slice) -> list[Note]: ...
    def __getitem__(self, place: int | slice) -> Note | list[Note]:
        if isinstance(place, slice):
            return [self._tier.note(each) for each in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"there are {len(self)} notes, none at {place}")
        return self._tier.note(place % len(self))


class Semantic:
    """Notes, oldest first, with a sketch each, and a vector (of no length where there is no embedder)."""

    def __init__(self, agent: int, embedder: Embedder | None, shelf: Shelf) -> None:
        self._agent = agent
        self._embedder = embedder
        self._embedder_name = "" if embedder is None else embedder.name
        self._dims = dims = 0 if embedder is None else embedder.dims
        self._index_bytes = dims + SKETCH_BYTES + NOTE_INDEX_BYTES
        self._shelf = shelf
        self._known: Knowledge | None = None
        self._texts: list[Note | None] = []
        self._room = np.empty(0, dtype=_COLUMNS)
        self._rows = Rows(dims, SKETCH_BYTES, shelf.scratch_file(f"{agent}.rows"))
        self._blocks: dict[int, _Block] = {}
        self._unsaved = 0  # how many of the newest notes are in no block yet
        self._left_ram = 0  # the texts before this place have left RAM
        self.text_bytes = 0
        self._content_bytes = 0

    def __len__(self) -> int:
        return self._shared + len(self._texts)

    @property
    def _shared(self) -> int:
        return 0 if self._known is None else len(self._known.notes)

    @property
    def _columns(self) -> NDArray[np.void]:
        return self._room[: len(self._texts)]

    @property
    def notes(self) -> Notes:
        """All notes, oldest first."""
        return Notes(self)

    @property
    def content_bytes(self) -> int:
        """What all notes with their rows would take in RAM, what everybody knows included."""
        return self._content_bytes + (0 if self._known is None else self._known.ram_bytes)

    @property
    def ram_bytes(self) -> int:
        """What the tier takes in RAM now, without what is shared."""
        return (
            self.text_bytes
            + self._rows.ram_bytes
            + self._room.nbytes
            + _SLOT_BYTES * len(self._texts)
            + 200 * len(self._blocks)
        )

    @property
    def last_steps(self) -> NDArray[np.float64]:
        """The last step that each note speaks of, shape (notes,)."""
        own = np.ascontiguousarray(self._columns["last_step"])
        return own if self._known is None else np.concatenate([np.zeros(self._shared), own])

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id of each note, shape (notes,)."""
        own = np.ascontiguousarray(self._columns["id"])
        return own if self._known is None else np.concatenate([[note.id for note in self._known.notes], own])

    def note(self, place: int) -> Note:
        """The note at a place."""
        if self._known is not None:
            if place < self._shared:
                return self._known.notes[place]
            place -= self._shared
        found = self._texts[place]
        if found is None:
            row = self._columns[place]
            found = self._shelf.notes(self._agent, int(row["block"])).notes[row["at"]]
        return found

    def of(self, step: int) -> list[Note]:
        """The notes that speak of a step, oldest first."""
        places = np.flatnonzero(self.last_steps >= step).tolist()
        return [note for note in map(self.note, places) if note.first_step <= step]

    def learn(self, known: Knowledge) -> None:
        """Refer to what everybody knows."""
        self._known = known
        known.holders += 1

    def add(self, notes: Sequence[Note], vectors: Vectors) -> None:
        """Add notes with their vectors, one row each."""
        if not notes:
            return
        rows, scales = _rows(notes, vectors)
        self._enter(notes, rows, scales, _NOWHERE)
        self._unsaved += len(notes)
        if self._unsaved >= _BLOCK_NOTES:
            self.seal()

    def seal(self) -> None:
        """Put the notes away that are in no block yet; they stay in RAM as well."""
        if not self._unsaved or not self._shelf.durable:
            return
        notes = [note for note in self._texts[-self._unsaved :] if note is not None]
        columns = self._columns[-self._unsaved :]
        number = self._shelf.put_notes(
            self._agent, notes, self._rows.newest(len(notes)), columns["scale"].copy(), self._embedder_name
        )
        columns["block"] = number
        columns["at"] = range(len(notes))
        self._blocks[number] = _Block(len(notes), len(notes))
        self._unsaved = 0

    def _enter(self, notes: Sequence[Note], rows: NDArray[np.int8], scales: NDArray[np.float32], block: int) -> None:
        count = len(self._texts)
        needed = count + len(notes)
        if needed > len(self._room):
            grown = np.zeros(needed + needed // 2, dtype=_COLUMNS)
            grown[:count] = self._room[:count]
            self._room = grown
        self._room[count:needed] = _columns(notes, scales, block)
        self._rows.append(rows)
        self._texts.extend(notes)
        self._count(notes)

    def _count(self, notes: Sequence[Note]) -> None:
        size = sum(note.size_bytes for note in notes)
        self.text_bytes += size
        self._content_bytes += size + len(notes) * self._index_bytes

    def drop_oldest(self, count: int) -> int:
        """Remove the oldest notes, pinned ones last; returns the bytes that they would take in RAM."""
        self._diverge()
        columns = self._columns
        pinned = columns["pinned"]
        order = np.argsort(pinned, kind="stable")[:count] if pinned[:count].any() else np.arange(count)
        gone = np.sort(order)
        freed = int(columns["bytes"][gone].sum()) + count * self._index_bytes
        self._content_bytes -= freed
        dead = []
        for place in gone.tolist():
            note = self._texts[place]
            if note is not None:
                self.text_bytes -= note.size_bytes
            number = int(columns["block"][place])
            if number == _NOWHERE:
                self._unsaved -= 1
                continue
            block = self._blocks[number]
            self._blocks[number] = block._replace(left=block.left - 1)
            if block.left == 1:
                del self._blocks[number]
                dead.append(number)
        if dead:
            self._shelf.drop(NOTES, self._agent, dead)
        if gone[-1] == count - 1:
            self._rows.drop_first(count)
            del self._texts[:count]
            self._room = self._room[count:]
        else:
            stay = np.setdiff1d(np.arange(len(self._texts)), gone).tolist()
            self._rows.replace(self._rows.all()[stay])
            self._texts = [self._texts[place] for place in stay]
            self._room = columns[stay]
        self._left_ram = max(0, self._left_ram - count)
        return freed

    def _diverge(self) -> None:
        """Copy what everybody knows before changing it: the others keep theirs."""
        known, self._known = self._known, None
        if known is None:
            return
        known.holders -= 1
        self.seal()
        block = _NOWHERE
        if self._shelf.durable:
            block = self._shelf.put_notes(self._agent, known.notes, known.rows, known.scales, self._embedder_name)
            self._blocks[block] = _Block(len(known.notes), len(known.notes))
        else:
            self._unsaved += len(known.notes)
        self._room = np.concatenate([_columns(known.notes, known.scales, block), self._columns])
        self._rows.replace(np.concatenate([known.rows, self._rows.all()]))
        self._texts[:0] = known.notes
        self._left_ram = 0
        self._count(known.notes)

    # ------------------------------------------------------------------ leaving RAM

    def move_texts(self) -> tuple[int, int]:
        """Let the older half of the texts that are in RAM leave it; returns how many, and the bytes freed."""
        if not self._shelf.durable or not self.text_bytes:
            return 0, 0
        self.seal()
        end = self._left_ram + (len(self._texts) - self._left_ram + 1) // 2
        moved = freed = 0
        for place in range(self._left_ram, end):
            note = self._texts[place]
            if note is not None:
                self._texts[place] = None
                moved, freed = moved + 1, freed + note.size_bytes
        self._left_ram = end
        self.text_bytes -= freed
        return moved, freed

    def move_rows(self) -> tuple[int, int]:
        """Let the rows in RAM leave it for the mapped file; returns how many, and the bytes freed.

        Raises:
            OSError: the disk is full; the rows are still in RAM.
        """
        before = self._rows.mapped
        freed = self._rows.cool() + self._rows.to_file()
        return self._rows.mapped - before, freed

    @property
    def movable_bytes(self) -> tuple[int, int]:
        """What `move_texts` and `move_rows` can free."""
        return (self.text_bytes if self._shelf.durable else 0), self._rows.movable_bytes + self._rows.hot_bytes

    # ------------------------------------------------------------------ reopening

    def dropped(self) -> list[tuple[int, list[int]]]:
        """Which notes of the blocks that are on disk were dropped: pairs of block and places in it. For `reopen`."""
        columns = self._columns
        partly = [number for number, block in self._blocks.items() if block.left < block.notes]
        return [
            (
                number,
                sorted(
                    set(range(self._blocks[number].notes)) - set(columns["at"][columns["block"] == number].tolist())
                ),
            )
            for number in partly
        ]

    def reopen(self, dropped: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Take in the notes that the store has, but for those that were dropped."""
        gone = {number: set(places) for number, places in dropped}
        blocks = self._shelf.note_blocks(self._agent)
        found = [(number, name, self._shelf.notes(self._agent, number)) for number, name in blocks]
        # Blocks are numbered as they were put away; common knowledge that was copied comes first all the same.
        for number, name, block in sorted(found, key=lambda each: each[2].notes[0].id):
            stay = [at for at in range(len(block.notes)) if at not in gone.get(number, ())]
            notes, rows, scales = [block.notes[at] for at in stay], block.rows[stay], block.scales[stay]
            if name != self._embedder_name:  # another embedder's vectors: this one's are compared with nothing of them
                rows, scales = _rows(notes, vectors_of(notes, self._embedder))
            self._enter(notes, rows, scales, number)
            self._columns["at"][-len(stay) :] = stay
            self._blocks[number] = _Block(len(block.notes), len(stay))
            self.move_texts()

    # ------------------------------------------------------------------ searching

    def similarity(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """The cosine of every note with a unit vector, shape (notes,)."""
        self._warm()
        own: NDArray[np.float32] = self._rows.dot(vector) * self._columns["scale"]
        if self._known is None:
            return own
        shared: NDArray[np.float32] = (
            np.vecdot(self._known.rows[:, : self._dims].astype(np.float32), vector) * self._known.scales
        )
        both: NDArray[np.float32] = np.concatenate([shared, own])
        return both

    def having(self, bits: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which notes have the words that set some bits of a sketch, shape (bits, notes)."""
        self._warm()
        columns = self._rows.columns(bits // 8)
        if self._known is not None:
            shared = self._known.rows[:, self._dims :].view(np.uint8).T[bits // 8]
            columns = np.concatenate([shared, columns], axis=1)
        return having(columns, bits)

    def _warm(self) -> None:
        if len(self._texts) >= _WARM_FROM and self._rows.warmed < len(self._texts) - _WARM_FROM // 2:
            self._rows.warm()


def vectors_of(notes: Sequence[Note], embedder: Embedder | None) -> Vectors:
    """The vectors of notes' own texts, one row each; of no length without an embedder."""
    if embedder is None:
        return np.zeros((len(notes), 0), dtype=np.float32)
    return embedder.embed([note.text for note in notes])


def _rows(notes: Sequence[Note], vectors: Vectors) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A row of each note, its vector in 8 bits and the sketch of its text; and the vectors' scales."""
    rows, scales = quantise(vectors)
    return np.concatenate([rows, sketches([note.text for note in notes]).view(np.int8)], axis=1), scales


def _columns(notes: Sequence[Note], scales: NDArray[np.float32], block: int) -> NDArray[np.void]:
    columns = np.zeros(len(notes), dtype=_COLUMNS)
    columns["id"] = [note.id for note in notes]
    columns["last_step"] = [note.last_step for note in notes]
    columns["scale"] = scales
    columns["block"] = block
    columns["at"] = range(len(notes))
    columns["bytes"] = [note.size_bytes for note in notes]
    columns["pinned"] = [note.pinned for note in notes]
    return columns
