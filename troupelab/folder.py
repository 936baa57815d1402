"""The folder of a run: opening its file, what it says of the run, and whether that is the run that somebody means.

Any thread may call these.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from troupelab._share import shared_folder
from troupelab.engine.handover import Handover
from troupelab.engine.interventions import Intervention
from troupelab.engine.keeper import Keeper
from troupelab.engine.options import Options
from troupelab.engine.past import DERIVED, Past
from troupelab.errors import (
    CheckpointError,
    LimitError,
    RunError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    WorldError,
)
from troupelab.limits import Limits
from troupelab.livelimits import LiveLimits
from troupelab.models.model import Model
from troupelab.models.scripted import ScriptedModel
from troupelab.people.world import World
from troupelab.store.look import look_into
from troupelab.telemetry.journal import FORMAT, ActRow, Header, Row, read_header, read_rows, write_past
from troupelab.text.embed import Embedder

if TYPE_CHECKING:
    from troupelab.store import Store

__all__ = [
    "MAX_ACTS",
    "MAX_BYTES",
    "RUN_FILE",
    "RunFile",
    "check_past",
    "find_folder",
    "make_header",
    "model_of",
    "new_store",
    "open_store",
    "read_folder",
    "read_setup",
    "recipe",
]

RUN_FILE = "run.sqlite"
"""What a run's file is called in its folder."""
MAX_ACTS = 1_000_000
MAX_BYTES = 2 << 30
"""What a recording may be where nobody says otherwise: many times what an hour of a hundred agents leaves."""


def open_store(file: Path | None) -> Store:
    """Open a file as a store, or make a temporary one.

    Raises:
        StoreError: it cannot be opened; the message says why.
    """
    from troupelab.store import Store

    return Store.temporary() if file is None else Store.open(file)


def new_store(folder: Path | None) -> Store:
    """Begin a store in a folder, or a temporary one.

    Raises:
        RunError: the folder has a run in it.
        StoreError: it cannot be made.
    """
    file = None if folder is None else folder / RUN_FILE
    if folder is not None and file is not None and file.exists() and not _is_blank(file):
        raise RunError(
            f"{folder} holds a run already; choose another folder, or go on with it: Run.resume({str(folder)!r})"
        )
    return open_store(file)


def _is_blank(file: Path) -> bool:
    """Whether a file is a store in which no run was begun: whoever made it ended before that."""
    try:
        with open_store(file) as store:
            return read_header(store) is None and not any(map(store.blocks, DERIVED))
    except StoreError:
        return False


class RunFile:
    """The file of a run: its store, and what that says of the run. Any thread may call it.

    Args:
        folder: where it lies; None for a temporary one, made when it is first needed.
        past: an earlier life, whose store it is then.
        make_header: says what the run is, when it begins.

    Raises:
        RunError: the folder has a run in it that is not this one's past.
        StoreError: the file cannot be used.
    """

    def __init__(self, folder: Path | None, past: Past | None, make_header: Callable[[], Header]) -> None:
        self.past = past
        self._folder = folder
        self._make_header = make_header
        self._header = None if past is None else past.header
        if past is not None:
            self._store: Store | None = past.store
        else:
            self._store = None if folder is None else new_store(folder)
        self._closing = threading.RLock()
        self._closed = False

    @property
    def header(self) -> Header:
        """What the run is: as it was when it began, or as it would begin now."""
        return self._header or self._make_header()

    @property
    def from_s(self) -> float:
        """Where the run's clock begins."""
        return 0.0 if self.past is None else self.past.last_s

    @property
    def is_closed(self) -> bool:
        """Whether the file was given free."""
        return self._closed

    def opened(self) -> Store:
        """The store, opened if need be."""
        self._store = self._store or new_store(None)
        return self._store

    def begin(self) -> None:
        """See to it that the store says what the run is.

        Raises:
            StoreError: it cannot be written.
        """
        if self._header is None:
            header = self._make_header()
            write_past(self.opened(), header)
            self._header = header

    def close(self, *, temporary: bool = False) -> None:
        """Give a folder's file free, when nobody reads it; a temporary one stays as long as it is held, unless that is meant too.

        Raises:
            StoreError: not all could be written.
        """
        with self._closing:
            if not self._closed and (self._folder is not None or (temporary and self._store is not None)):
                self._closed = True
                self.opened().close()

    @contextlib.contextmanager
    def reading(self, keeper: Keeper, handover: Handover) -> Iterator[Store | None]:
        """The store with all that has happened so far in it; None where nothing has. It is not closed meanwhile."""
        with self._closing:
            if self._closed and self._folder is not None:
                with open_store(self._folder / RUN_FILE) as store:
                    yield store
            elif keeper.is_open:
                with keeper.reading(handover) as store:
                    yield store
            else:
                yield None if self.past is None else self.past.store


def make_header(
    world: World,
    model: Model,
    limits: LiveLimits,
    options: Options,
    *,
    steps: int,
    seed: int,
    embedder: Embedder | None,
    interventions: Sequence[Intervention],
) -> Header:
    """What a run is that begins now, as it stands in its store; the arguments are the run's."""
    return Header(
        FORMAT, _version(), world.to_dict(), seed, steps, options._asdict(), limits.current.as_dict(),
        {agent: dict(own) for agent, own in limits.overrides.items()}, model.name, recipe(model),
        "" if embedder is None else embedder.name, [each.name for each in interventions],
    )  # fmt: skip


def _version() -> str:
    """The installed TroupeLab's; empty where it is used without being installed."""
    try:
        return version("troupelab")
    except PackageNotFoundError:
        return ""


def recipe(model: Model) -> dict[str, float] | None:
    """What a scripted model can be made again from; None for another."""
    names = ("seed", "latency_s", "latency_sigma", "repeat_rate")
    return {name: getattr(model, name) for name in names} if type(model) is ScriptedModel else None


def model_of(header: Header) -> Model:
    """The model that a run was played with, where it can be made again.

    Raises:
        CheckpointError: it cannot.
    """
    if header.scripted is None:
        raise CheckpointError(
            f"this run was played with the model {header.model!r}: give it again, as in Run.resume(folder, model)"
        )
    settings = dict(header.scripted)
    try:
        return ScriptedModel(int(settings.pop("seed")), **settings)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the scripted model of this run cannot be made again ({error}): give one") from error


def read_setup(past: Past) -> tuple[World, Limits, Options]:
    """The world, the limits at the beginning and the choices of a run.

    Raises:
        CheckpointError: another version of TroupeLab had others.
    """
    header = past.header
    try:
        world = World.from_dict(header.world, source=str(past.store.path))
        return world, Limits().replace(**header.limits), Options(**header.options)
    except (WorldError, LimitError, TypeError) as error:
        raise CheckpointError(f"{past.store.path} cannot be gone on with: {error}") from error


def check_past(
    past: Past, folder: Path, world: World | None, interventions: Sequence[Intervention], steps: int | None
) -> None:
    """Refuse a past that is not of these interventions, of another world, or longer than the run is to be.

    Raises:
        CheckpointError: it is of others; the message says of which.
    """
    if [each.name for each in interventions] != past.header.interventions:
        needed = ", ".join(past.header.interventions) or "none"
        raise CheckpointError(f"{folder}: the interventions of this run are {needed}: give them again, in this order")
    if world is not None and world.to_dict() != past.header.world:
        raise CheckpointError(
            f"{folder} holds a run of another world: {past.header.world['name']!r}, with {len(past.done)} agents"
        )
    if isinstance(steps, int) and 1 <= steps < past.next_step:
        raise CheckpointError(
            f"{folder}: {past.next_step} steps have begun to be played: steps must be at least as many, not {steps}; "
            "a fork can begin at an earlier one"
        )


def find_folder(source: str | Path) -> Path:
    """A run's folder: as it is given, or by the name of a recording that ships with the package."""
    shipped = shared_folder("data") / "recordings" / source
    is_name = isinstance(source, str) and source.isidentifier() and not Path(source).exists()
    return shipped if is_name and shipped.is_dir() else Path(source)


def read_folder(folder: Path, *, max_acts: int = MAX_ACTS, max_bytes: int = MAX_BYTES) -> tuple[Header, list[Row]]:
    """What a folder's file says of its run; no more than it may be."""
    file = folder / RUN_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no run: there is no {RUN_FILE} in it")
    if (size := file.stat().st_size) > max_bytes:
        raise CheckpointError(
            f"{file} has {size} bytes, more than max_bytes={max_bytes}: raise that, if you trust the file"
        )
    rows: list[Row] = []
    acts = 0
    try:
        with look_into(file) as look:
            if (header := read_header(look)) is None:
                raise CheckpointError(
                    f"{file} holds no run: it ended before it had begun, or the file is of another use"
                )
            for row in read_rows(look, max_bytes=max_bytes):
                acts += isinstance(row, ActRow)
                if acts > max_acts:
                    raise CheckpointError(
                        f"{file} has more than max_acts={max_acts} acts: raise that, if you trust the file"
                    )
                rows.append(row)
            return header, rows
    except StoreFullError as error:
        raise CheckpointError(str(error)) from error
    except StoreLockedError as error:
        raise StoreLockedError(f"the run in {folder} still goes on: wait for its end, or stop it ({error})") from error
