"""The journal: what happened in a run, in its order, so that the run can be lived through again.

It holds what follows from nothing else: the turns that agents took, what the run was told from outside, changes of limits, notes that a model
wrote, and the events of calls, failures and states. All else follows from these: messages are what was said in turns, records
are what was heard and done, retrievals and requests are what memories and prompts make of them. Living through the rows again
makes the same memories, and `ActRow.prompt` tells that it does. So each text stands here once, in the turn in which it was said.

Rows go to the run's store in batches, each a transaction: of an act all is kept or nothing. Small batches are put together
to larger blocks as they grow in number. Owned by the engine's loop thread; `pin` and `read_rows` may be called by any.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from troupelab.errors import StoreCorruptError, StoreFullError, StoreVersionError
from troupelab.events import FAMILIES, Event

if TYPE_CHECKING:
    from troupelab.store import Store, Transaction
    from troupelab.store.look import Look

__all__ = [
    "FORMAT",
    "ActRow",
    "AsideRow",
    "CalledRow",
    "EndRow",
    "EventRow",
    "Header",
    "Journal",
    "LimitRow",
    "NotesRow",
    "ProbeRow",
    "Row",
    "StateRow",
    "ToldRow",
    "read_header",
    "read_rows",
    "write_past",
]

FORMAT = 1
"""The version of header and rows."""

_JOURNAL, _HEADER = "journal", "run"
_ALL = -1
_MERGE_ROWS = 1_024
_ROW_BYTES = 400  # about, before compression: for the store's count of what waits


class Row(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Something that happened."""


class ActRow(Row, frozen=True, gc=False, array_like=True, tag="act"):
    """A turn: actions as (type, content, target), the state of mind after it, and a digest of what it remembered and heard."""

    agent: int
    step: int
    start_s: float
    end_s: float
    prompt: int
    actions: list[tuple[str, str, str]]
    state: dict[str, str]
    left_out: int = 0
    error: str = ""


class AsideRow(Row, frozen=True, gc=False, array_like=True, tag="aside"):
    """Something for an agent to remember with its next act: an interview's question or answer."""

    agent: int
    kind: str
    source: str
    text: str


class ToldRow(Row, frozen=True, gc=False, array_like=True, tag="told"):
    """Something that some agents hear in a step because the run was told so, `by` a user or an intervention."""

    step: int
    sequence: int
    kind: str
    source: str
    text: str
    to: list[int]
    by: str


class LimitRow(Row, frozen=True, gc=False, array_like=True, tag="limit"):
    """Limits that were changed, for all agents or some, and from which step those of memories hold."""

    from_step: int
    new: dict[str, int | float | bool | None]
    agents: list[str] | None
    note: str
    by: str


class NotesRow(Row, frozen=True, gc=False, array_like=True, tag="notes"):
    """What a model wrote about an agent's old records; None where it could not, and they were extracted."""

    agent: int
    step: int
    place: int
    lines: list[str] | None
    tokens: int
    seconds: float


class CalledRow(Row, frozen=True, gc=False, array_like=True, tag="called"):
    """The interventions before a step were looked at, and the one with this number was called (-1: none)."""

    step: int
    number: int


class StateRow(Row, frozen=True, gc=False, array_like=True, tag="state"):
    """What an agent of another engine remembered and learned by the end of a step, and what of its state is new, as JSON by its names.

    Agent -1 is the world itself; `episode` is how many of the newest values are of the episode that goes on.
    """

    agent: int
    step: int
    values: list[str]
    notes: list[str]
    episode: int
    state: dict[str, str]


class ProbeRow(Row, frozen=True, gc=False, array_like=True, tag="probe"):
    """A fact that a user planted: a probe as a world file has it, and who was told, by index (None: everybody)."""

    probe: dict[str, Any]
    to: list[int] | None


class EventRow(Row, frozen=True, gc=False, array_like=True, tag="event"):
    """An event that follows from nothing else."""

    family: str
    values: tuple[Any, ...]

    @property
    def event(self) -> Event:
        """The event itself."""
        return FAMILIES[self.family](*self.values)


class EndRow(Row, frozen=True, gc=False, array_like=True, tag="end"):
    """The journal was full here: what came after it is not in it."""

    at_s: float


class Header(msgspec.Struct, frozen=True):
    """What a run is, as it was when it began; `forked_at` is the step at which it left another's past, -1 where it did not."""

    format: int
    troupelab: str
    world: dict[str, Any]
    seed: int
    steps: int
    options: dict[str, Any]
    limits: dict[str, int | float | bool | None]
    overrides: dict[str, dict[str, int | float | bool | None]]
    model: str
    scripted: dict[str, float] | None
    embedder: str
    interventions: list[str]
    forked_from: str = ""
    forked_at: int = -1


_encode = msgspec.msgpack.Encoder().encode
_read_rows = msgspec.msgpack.Decoder(
    list[ActRow | AsideRow | ToldRow | LimitRow | NotesRow | CalledRow | StateRow | ProbeRow | EventRow | EndRow]
).decode
_read_header = msgspec.msgpack.Decoder(Header).decode
_read_format = msgspec.msgpack.Decoder(int).decode


class Journal:
    """Appends rows to a run's store.

    Args:
        store: the run's.
        max_bytes: tells the most that it may take on disk; None for no cap.
        on_rows: is told that there is something to `flush`, once until that is done.
        on_full: is told in a sentence that the cap is reached; nothing more is kept then.
        clock: seconds since the run's start.

    >>> from troupelab.store import Store
    >>> with Store.temporary() as store:
    ...     journal = Journal(store, max_bytes=lambda: None)
    ...     journal.append(AsideRow(0, "TALK", "Elif", "Good evening."))
    ...     ticket = journal.flush()
    ...     store.flush()
    ...     [row.text for row in read_rows(store)]
    ['Good evening.']
    """

    def __init__(
        self,
        store: Store,
        *,
        max_bytes: Callable[[], int | None],
        on_rows: Callable[[], object] = lambda: None,
        on_full: Callable[[str], object] = lambda sentence: None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._on_rows = on_rows
        self._on_full = on_full
        self._clock = clock
        self._new: list[Row] = []
        self._tail: list[Row] = []
        self._small: list[int] = []
        self._sealed_bytes = sum(block.size_bytes for block in store.blocks(_JOURNAL))
        self._unmeasured: list[int] = []
        self._held = 0
        self._pins = 0
        self._pinning = threading.Lock()
        self.is_full = False
        """Whether the cap was reached, and rows are no longer kept."""

    def append(self, row: Row) -> None:
        """Add a row; it is on its way to the disk after the next `flush`."""
        if self.is_full:
            return
        if not self._new:
            self._on_rows()
        self._new.append(row)

    def hold(self, held: bool) -> None:
        """Keep rows back until what belongs together is complete; may be nested."""
        self._held += 1 if held else -1
        if not self._held and self._new:
            self._on_rows()

    def flush(self) -> int:
        """Hand over what was appended, as one transaction; returns the ticket that `store.committed` reaches, 0 for none."""
        if self._held or not self._new:
            return 0
        rows, self._new = self._new, []
        cap = self._max_bytes()
        if cap is not None and self.disk_bytes >= cap:
            self.is_full = True
            rows.append(EndRow(self._clock()))
        ticket = self._put(rows)
        if self.is_full:
            self._on_full(
                f"the journal takes {self.disk_bytes} of {cap} bytes: what happens from now on cannot be lived through again "
                "exactly; a resumed run asks for it anew, as far as its replies are not kept"
            )
        return ticket

    def _put(self, rows: list[Row]) -> int:
        self._tail += rows
        merge = len(self._tail) >= _MERGE_ROWS and not self._pins
        written = self._tail if merge else rows
        with self._store.transaction() as transaction:
            number = _put(transaction, written)
            if merge:
                transaction.drop(_JOURNAL, _ALL, self._small)
        if merge:
            self._unmeasured.append(number)
            self._small, self._tail = [], []
        else:
            self._small.append(number)
        return transaction.ticket

    @property
    def disk_bytes(self) -> int:
        """What it takes on disk, as far as it has got there."""
        while self._unmeasured and (size := self._store.size_of(_JOURNAL, _ALL, self._unmeasured[0])):
            self._sealed_bytes += size
            del self._unmeasured[0]
        waiting = (*self._unmeasured, *self._small)
        return self._sealed_bytes + sum(self._store.size_of(_JOURNAL, _ALL, number) for number in waiting)

    def pin(self, pinned: bool) -> None:
        """Put no blocks together for a while, so that another thread can read them one after the other."""
        with self._pinning:
            self._pins += 1 if pinned else -1


def _put(transaction: Transaction, rows: Sequence[Row]) -> int:
    return transaction.put(
        _JOURNAL, _ALL, _encode(len(rows)), partial(_pack, tuple(rows)), size_hint_bytes=_ROW_BYTES * len(rows)
    )


def _pack(rows: tuple[Row, ...]) -> bytes:
    try:
        return _encode(rows)
    except UnicodeEncodeError:  # half a surrogate pair, in the text of an error say, is no text to msgpack
        return _encode([_clean(msgspec.to_builtins(row)) for row in rows])


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    return {_clean(key): _clean(each) for key, each in value.items()} if isinstance(value, dict) else value


def write_past(store: Store, header: Header, rows: Sequence[Row] = ()) -> None:
    """Begin a run's store: its header, and the rows that it takes over from another, all in one transaction.

    Raises:
        StoreError: it cannot be written.
    """
    with store.transaction() as transaction:
        transaction.put(_HEADER, _ALL, _encode(header.format), _encode(header))
        for first in range(0, len(rows), _MERGE_ROWS):
            _put(transaction, rows[first : first + _MERGE_ROWS])
    store.flush()


def read_header(store: Store | Look) -> Header | None:
    """What a store says that its run is; None where it says nothing.

    Raises:
        StoreVersionError: another version of TroupeLab wrote it.
        StoreCorruptError: what it holds is not what was written.
    """
    blocks = store.blocks(_HEADER)
    if not blocks:
        return None
    try:
        version = _read_format(blocks[-1].meta)
        if version != FORMAT:
            raise StoreVersionError(
                f"{store.path}: the run in it has format {version}, this TroupeLab reads {FORMAT}: use the one that wrote it"
            )
        return _read_header(_read(store, _HEADER, blocks[-1].number))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise StoreVersionError(f"{store.path}: what the run in it is cannot be read ({error})") from error


def read_rows(store: Store | Look, *, max_bytes: int | None = None) -> Iterator[Row]:
    """All rows of a run, oldest first.

    Args:
        store: what holds them.
        max_bytes: how much they may be, unpacked; None for no limit.

    Raises:
        StoreFullError: there is more than `max_bytes`.
        StoreVersionError: a row is of a kind that this TroupeLab does not know.
        StoreCorruptError: what it holds is not what was written.
    """
    taken = 0
    for block in store.blocks(_JOURNAL):
        packed = _read(store, _JOURNAL, block.number)
        taken += len(packed)
        if max_bytes is not None and taken > max_bytes:
            raise StoreFullError(
                f"{store.path}: its journal is more than max_bytes={max_bytes}: raise that, if you trust the file"
            )
        try:
            yield from _read_rows(packed)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise StoreVersionError(f"{store.path}: a row of the journal cannot be read ({error})") from error


def _read(store: Store | Look, kind: str, number: int) -> bytes:
    try:
        return store.read(kind, _ALL, number)
    except StoreCorruptError as error:
        do = "Store.salvage(path) gets out what is still whole"
        raise StoreCorruptError(f"{store.path} is damaged: {error}; {do}") from error
