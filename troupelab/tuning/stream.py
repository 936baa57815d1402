"""A stream: what happened in a run, made ready to be played through memories many times.

It holds the run's rows, and of each text the vector, which is computed once. It is made in any thread; what is in it never changes but for
vectors that are added, so that several replays may read it, one after the other or in processes that were forked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from troupelab.engine.past import Past
from troupelab.errors import CheckpointError
from troupelab.folder import find_folder, new_store, read_folder, read_setup
from troupelab.recording import Recording, embedder_of
from troupelab.run import Run
from troupelab.telemetry.journal import Header, Row, read_rows, write_past
from troupelab.text.embed import Embedder, Vectors

if TYPE_CHECKING:
    from troupelab.engine.options import Options
    from troupelab.limits import Limits
    from troupelab.people.world import World

__all__ = ["KeptVectors", "Stream"]


class KeptVectors:
    """An embedder that keeps every vector it has made: the same texts come in every replay.

    Args:
        embedder: makes them.

    >>> from troupelab.text.embed import HashingEmbedder
    >>> kept = KeptVectors(HashingEmbedder())
    >>> kept.embed(["a lamp"]).shape, kept.name, kept.kept
    ((1, 256), 'hashing-256', 1)
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._places: dict[str, int] = {}
        self.name, self.dims = embedder.name, embedder.dims
        self._rows: Vectors = np.zeros((1_024, self.dims), dtype=np.float32)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "prepare":  # here, vectors are at hand or made at once
            raise AttributeError(name)
        return getattr(self._embedder, name)

    @property
    def kept(self) -> int:
        """How many vectors it has."""
        return len(self._places)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text, shape (len(texts), dims)."""
        try:
            places = [self._places[text] for text in texts]
        except KeyError:
            self._add([text for text in dict.fromkeys(texts) if text not in self._places])
            places = [self._places[text] for text in texts]
        return self._rows[places]

    def _add(self, texts: Sequence[str]) -> None:
        have = len(self._places)
        if have + len(texts) > len(self._rows):
            more = np.zeros((2 * (have + len(texts)), self.dims), dtype=np.float32)
            more[:have] = self._rows[:have]
            self._rows = more
        self._rows[have : have + len(texts)] = self._embedder.embed(texts)
        self._places.update(zip(texts, range(have, have + len(texts)), strict=True))


class Stream:
    """A run's stream of events, to be replayed; made by `Stream.of`."""

    def __init__(self, past: Past, rows: list[Row], embedder: Embedder | None, folder: Path | None) -> None:
        self.past = past
        self.rows = rows
        self.embedder: KeptVectors | None = None if embedder is None else KeptVectors(embedder)
        self.folder = folder
        """Where the run is kept; None where it is in a temporary file of its own."""
        self.world: World
        self.limits: Limits
        self.options: Options
        self.world, self.limits, self.options = read_setup(past)

    @classmethod
    def of(cls, source: Stream | Recording | Run | str | Path) -> Stream:
        """Read a run's stream: of a recording or its folder, or of a run, as far as it has come.

        Raises:
            CheckpointError: there is no run, or its agents are another engine's, which alone can live through their past.
            StoreError: it cannot be read.

        >>> from troupelab.models.scripted import ScriptedModel
        >>> run = Run("product_launch", ScriptedModel(7, latency_s=0.0), steps=2, seed=7).start().wait(60)
        >>> stream = Stream.of(run)
        >>> stream.name, len(stream.agent_names), stream.steps
        ('product_launch', 8, 2)
        """
        if isinstance(source, Stream):
            return source
        folder: Path | None
        if isinstance(source, Run):
            header, rows, embedder = *_rows_of(source), source._embedder
            folder, told = source.folder if source._file.is_closed else None, source.name
        else:
            folder = source.folder if isinstance(source, Recording) else find_folder(source)
            header, rows = read_folder(folder)
            embedder, told = embedder_of(header), str(folder)
        with new_store(None) as store:
            write_past(store, header, rows)
            past = Past(store)
        if past.is_foreign:
            raise CheckpointError(
                f"{told} is a run of TinyTroupe's persons: only TinyTroupe knows what they remember, and it cannot be replayed here"
            )
        return cls(past, rows, embedder, folder)

    @property
    def header(self) -> Header:
        """What the run was when it began."""
        return self.past.header

    @property
    def name(self) -> str:
        """The world's name."""
        return self.world.name

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The agents' names, by index."""
        return self.world.agent_names

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.header.seed

    @property
    def steps(self) -> int:
        """How many steps were begun."""
        return self.past.next_step

    @property
    def embedder_name(self) -> str:
        """What compares texts: recall depends on it. Empty for nothing but words."""
        return "" if self.embedder is None else self.embedder.name

    def __repr__(self) -> str:
        return f"<Stream of {self.name}: {len(self.agent_names)} agents, {self.steps} steps>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""


def _rows_of(run: Run) -> tuple[Header, list[Row]]:
    with run._file.reading(run._engine.keeper, run._engine.handover) as store:
        if store is None:
            raise CheckpointError("this run has yet to begin: there is nothing to replay")
        return run._file.header, list(read_rows(store))
