"""Looking into a store's file without opening it as a store: nothing is written, and nobody else may write meanwhile.

A `Look` belongs to the thread that opened it, and to the with-block in which it was.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from troupelab.errors import StoreCorruptError, StoreError
from troupelab.store.check import Contents, load, opened_to_look, refuse_damaged
from troupelab.store.file import SELECT_PAYLOADS, SELECT_ROWS, Block, Codec, Row, translated, version_problem

__all__ = ["Look", "look_into"]


class Look:
    """What a file holds: the reading half of a `Store`. Made by `look_into`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, contents: Contents) -> None:
        self.path = path
        self._connection = connection
        self._index = contents.index
        self._codec = Codec(contents.dictionaries)

    def blocks(self, kind: str) -> list[Block]:
        """What there is of a kind, ordered by agent and number."""
        with translated(self.path):
            rows = self._connection.execute(SELECT_ROWS + " WHERE kind = ? ORDER BY agent, number", (kind,)).fetchall()
        return [Row(*values).block for values in rows]

    def read(self, kind: str, agent: int, number: int) -> bytes:
        """The payload of a block.

        Raises:
            StoreCorruptError: the file does not hold what was written.
            StoreError: there is no such block, or the file cannot be read.
        """
        entry = self._index.get((kind, agent), {}).get(number)
        if entry is None:
            raise StoreError(f"{self.path}: there is no block {kind}/{agent}/{number}")
        with translated(self.path):
            for values in self._connection.execute(SELECT_PAYLOADS + " WHERE id = ?", (entry.row,)):
                return self._codec.unpack(Row(*values[:-1]), values[-1])
        raise StoreCorruptError(f"{self.path}: block {kind}/{agent}/{number} is missing")


@contextlib.contextmanager
def look_into(path: str | Path) -> Iterator[Look]:
    """Look into a file that nobody writes; as long as the with-block lasts, nobody may begin to.

    Raises:
        StoreLockedError: a store has it open.
        StoreVersionError: another version of TroupeLab wrote it.
        StoreCorruptError: something in it is missing or changed; the message says what.
        StoreError: there is no such file, or it is not a store.

    >>> from troupelab.store import Store
    >>> with Store.temporary() as store, look_into(store.path):
    ...     pass
    Traceback (most recent call last):
    troupelab.errors.StoreLockedError: ...store.sqlite is open for writing in this process: ...
    """
    where = Path(path).resolve()
    with opened_to_look(where, beside_writer=False) as connection:
        if (problem := version_problem(connection, where)) is not None:
            raise problem
        contents = load(connection)
        refuse_damaged(contents, where)
        yield Look(where, connection, contents)
