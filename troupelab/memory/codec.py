"""How records and notes lie in a block of the store: in columns, which compress better than rows.

Texts are UTF-8 with lone surrogates let through, so that whatever was remembered comes back as it was. A text that several
agents share is not in the block; in its place stands where it is (`Place`). Pure; any thread may call it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from troupelab.memory.record import Note, Record

__all__ = [
    "NotesBlock",
    "Place",
    "decode_notes",
    "decode_records",
    "decode_texts",
    "encode_notes",
    "encode_records",
    "encode_texts",
]


class Place(NamedTuple):
    """Where a shared text lies: its block, and its number in there."""

    block: int
    at: int


class NotesBlock(NamedTuple):
    """Notes as they come back from a block: rows of 8-bit numbers (vector and sketch), and a scale for each vector."""

    notes: tuple[Note, ...]
    rows: NDArray[np.int8]
    scales: NDArray[np.float32]


class _Strings(msgspec.Struct, array_like=True):
    """Strings one after another, and the length of each in bytes."""

    joined: bytes
    lengths: bytes


class _Records(msgspec.Struct, array_like=True):
    names: _Strings
    kinds: bytes
    sources: bytes
    ids: bytes
    message_ids: bytes
    again: list[tuple[int, int, int]]
    texts: _Strings
    shared: list[tuple[int, int, int]]


class _Notes(msgspec.Struct, array_like=True):
    ids: bytes
    first_steps: bytes
    last_steps: bytes
    records: bytes
    pinned: bytes
    texts: _Strings
    dims: int
    rows: bytes
    scales: bytes


_read_strings = msgspec.msgpack.Decoder(_Strings).decode
_read_records = msgspec.msgpack.Decoder(_Records).decode
_read_notes = msgspec.msgpack.Decoder(_Notes).decode


def encode_texts(texts: Sequence[str]) -> bytes:
    """Texts as bytes."""
    return msgspec.msgpack.encode(_pack_strings(texts))


def decode_texts(payload: bytes) -> tuple[str, ...]:
    """Undo `encode_texts`."""
    return tuple(_unpack_strings(_read_strings(payload)))


def encode_records(records: Sequence[Record], places: Sequence[Place | None]) -> bytes:
    """Records as bytes; the text of one that has a place is left out.

    >>> decode_records(encode_records([Record(64, "TALK", "Elif", "Good evening.", -1)], [None]), lambda place: "")
    (Record(id=64, kind='TALK', source='Elif', text='Good evening.', message_id=-1, first_id=0, times=1),)
    """
    names: dict[str, int] = {}
    kinds = [names.setdefault(record.kind, len(names)) for record in records]
    sources = [names.setdefault(record.source, len(names)) for record in records]
    return msgspec.msgpack.encode(
        _Records(
            _pack_strings(list(names)),
            np.array(kinds, dtype="<u4").tobytes(),
            np.array(sources, dtype="<u4").tobytes(),
            _pack_ids([record.id for record in records]),
            _pack_ids([record.message_id for record in records]),
            [(at, each.first_id, each.times) for at, each in enumerate(records) if each.times > 1],
            _pack_strings(["" if place else record.text for record, place in zip(records, places, strict=True)]),
            [(at, place.block, place.at) for at, place in enumerate(places) if place],
        )
    )


def decode_records(payload: bytes, text_at: Callable[[Place], str]) -> tuple[Record, ...]:
    """Undo `encode_records`; `text_at` brings the shared texts."""
    found = _read_records(payload)
    names = [sys.intern(name) for name in _unpack_strings(found.names)]
    texts = _unpack_strings(found.texts)
    for at, block, index in found.shared:
        texts[at] = text_at(Place(block, index))
    records = [
        Record(id_, names[kind], names[source], text, message_id)
        for id_, kind, source, text, message_id in zip(
            _unpack_ids(found.ids),
            np.frombuffer(found.kinds, dtype="<u4").tolist(),
            np.frombuffer(found.sources, dtype="<u4").tolist(),
            texts,
            _unpack_ids(found.message_ids),
            strict=True,
        )
    ]
    for at, first_id, times in found.again:
        records[at] = msgspec.structs.replace(records[at], first_id=first_id, times=times)
    return tuple(records)


def encode_notes(notes: Sequence[Note], rows: NDArray[np.int8], scales: NDArray[np.float32]) -> bytes:
    """Notes with their rows as bytes."""
    return msgspec.msgpack.encode(
        _Notes(
            _pack_ids([note.id for note in notes]),
            np.array([note.first_step for note in notes], dtype="<i4").tobytes(),
            np.array([note.last_step for note in notes], dtype="<i4").tobytes(),
            np.array([note.records for note in notes], dtype="<i4").tobytes(),
            bytes(note.pinned for note in notes),
            _pack_strings([note.text for note in notes]),
            rows.shape[1],
            np.ascontiguousarray(rows).tobytes(),
            scales.astype("<f4").tobytes(),
        )
    )


def decode_notes(payload: bytes) -> NotesBlock:
    """Undo `encode_notes`."""
    found = _read_notes(payload)
    columns = (
        np.frombuffer(each, dtype="<i4").tolist() for each in (found.first_steps, found.last_steps, found.records)
    )
    notes = tuple(
        Note(id_, first, last, records, text, bool(pinned))
        for id_, first, last, records, text, pinned in zip(
            _unpack_ids(found.ids), *columns, _unpack_strings(found.texts), found.pinned, strict=True
        )
    )
    rows = np.frombuffer(found.rows, dtype=np.int8).reshape(len(notes), found.dims)
    return NotesBlock(notes, rows, np.frombuffer(found.scales, dtype="<f4"))


def _pack_strings(texts: Sequence[str]) -> _Strings:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return _Strings(b"".join(encoded), np.array(list(map(len, encoded)), dtype="<u4").tobytes())


def _unpack_strings(packed: _Strings) -> list[str]:
    ends = accumulate(np.frombuffer(packed.lengths, dtype="<u4").tolist(), initial=0)
    joined = packed.joined
    return [joined[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(ends)]


def _pack_ids(ids: Sequence[int]) -> bytes:
    """Differences from one to the next, byte by byte of the same weight together: mostly zeros, which take no room."""
    steps = np.diff(np.array(ids, dtype="<i8"), prepend=np.int64(0))
    return np.ascontiguousarray(steps.view(np.uint8).reshape(-1, 8).T).tobytes()


def _unpack_ids(packed: bytes) -> list[int]:
    steps = np.ascontiguousarray(np.frombuffer(packed, dtype=np.uint8).reshape(8, -1).T).view("<i8").ravel()
    ids: list[int] = np.cumsum(steps).tolist()
    return ids
