"""The recorder and the frames."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupelab.errors import MissingPackageError
from troupelab.events import FAMILIES, ActionTaken, Event, Failed, RunChanged, otel_name, unit_of
from troupelab.telemetry.frames import Frames
from troupelab.telemetry.recorder import BLOCK_ROWS, Recorder


def failed(number: int) -> Failed:
    """An event that can be told from others by its number."""
    return Failed(float(number), number, number % 3, "Kind", f"message {number}", 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=8))
def test_reading_by_cursor_gives_every_row_once(pieces):
    """However the writing is cut into pieces, a reader with a cursor sees all rows, once, in order."""
    recorder, cursor, seen, written = Recorder(), 0, [], 0
    for piece in pieces:
        for _ in range(piece):
            recorder.emit(failed(written))
            written += 1
        batch = recorder.read("errors", cursor)
        assert batch.start == cursor
        assert len(batch) == len(batch.columns["step"])
        cursor = batch.next
        seen += batch.columns["step"].tolist()
    assert seen == list(range(written))
    assert recorder.count("errors") == written


def test_a_full_ring_loses_its_oldest_rows_and_counts_them():
    """Beyond max_rows the oldest block goes; the count of lost rows and the frame's attrs say so."""
    recorder = Recorder(max_rows=2 * BLOCK_ROWS)
    for number in range(3 * BLOCK_ROWS + 5):
        recorder.emit(failed(number))
    batch = recorder.read("errors")
    assert recorder.lost("errors") == batch.start == BLOCK_ROWS
    assert batch.columns["step"].tolist() == list(range(BLOCK_ROWS, 3 * BLOCK_ROWS + 5))
    assert Frames(recorder, ["a", "b", "c"]).errors.attrs["rows_lost"] == BLOCK_ROWS


def test_a_reader_beside_a_writer_never_sees_a_torn_row():
    """While one thread writes twenty thousand rows, another reads only whole rows without gaps."""
    recorder = Recorder()
    total = 20_000
    writer = threading.Thread(target=lambda: [recorder.emit(failed(number)) for number in range(total)])
    writer.start()
    cursor, seen = 0, 0
    while seen < total:
        batch = recorder.read("errors", cursor)
        steps = batch.columns["step"]
        assert np.array_equal(steps, np.arange(cursor, cursor + len(steps)))
        assert batch.columns["message"].tolist() == [f"message {step}" for step in steps]
        cursor, seen = batch.next, seen + len(batch)
    writer.join()


actions = st.lists(st.tuples(st.integers(0, 4), st.text(max_size=5)), max_size=20)


@given(actions, st.randoms())
def test_the_transcript_hash_ignores_in_what_order_agents_came_to_act(taken, random):
    """Shuffling the agents against each other, each one's own order kept, leaves the hash as it is."""
    own: dict[int, list[ActionTaken]] = {}
    for agent, content in taken:
        own.setdefault(agent, []).append(ActionTaken(0.0, len(own.get(agent, ())), agent, 0, "TALK", "", content))

    def digest(order: list[int]) -> str:
        recorder, left = Recorder(), {agent: list(rows) for agent, rows in own.items()}
        for agent in order:
            recorder.emit(left[agent].pop(0))
        return recorder.transcript_sha256()

    order = [agent for agent, _ in taken]
    shuffled = list(order)
    random.shuffle(shuffled)
    assert digest(order) == digest(shuffled)


def test_the_transcript_hash_notices_one_changed_letter():
    """Another content, target, kind or agent gives another hash."""

    def digest(**change: object) -> str:
        row = {
            "at_s": 0.0,
            "step": 1,
            "agent": 2,
            "sequence": 0,
            "action": "TALK",
            "target": "",
            "content": "a",
            **change,
        }
        recorder = Recorder()
        recorder.emit(ActionTaken(**row))
        return recorder.transcript_sha256()

    digests = {
        digest(),
        digest(content="b"),
        digest(target="x"),
        digest(action="THINK"),
        digest(agent=3),
        digest(step=2),
    }
    assert len(digests) == 6
    assert digest(at_s=5.0) == digest()


def test_frames_have_the_documented_types():
    """Agents are names, whole numbers int64, times float64, texts text, and no agent is a missing value."""
    recorder = Recorder()
    recorder.emit(failed(1))
    recorder.emit(Failed(2.0, 1, -1, "Kind", "nobody", 0))
    frame = Frames(recorder, ["Ann", "Ben", "Cleo"]).errors
    assert frame["agent"].tolist()[0] == "Ben"
    assert frame["agent"].isna().tolist() == [False, True]
    assert [str(frame[name].dtype) for name in ("at_s", "step", "agent", "kind")] == [
        "float64",
        "int64",
        "category",
        "str",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_frame_even_when_nothing_happened(family):
    """Each frame can be read from an empty recorder and has its event's columns."""
    frame = getattr(Frames(Recorder(), ["Ann"]), family)
    assert list(frame.columns) == list(FAMILIES[family].__struct_fields__)
    assert len(frame) == 0


def test_an_unknown_frame_is_named():
    """A misspelt family raises AttributeError with the known ones."""
    with pytest.raises(AttributeError, match="no frame 'call'; the frames are"):
        Frames(Recorder(), []).call  # noqa: B018


def test_columns_that_users_rely_on_stay():
    """The columns promised for memory, calls, consolidations, acts and limits are there."""
    promised = {
        "memory": "step agent recent_records recent_bytes archive_records archive_bytes notes note_bytes total_bytes",
        "limits": "at_s step field agents old new note accepted_ms effective_step",
        "calls": "at_s step agent purpose latency_s queue_s tokens_in tokens_out cost_usd cached attempts error",
        "consolidations": "step agent reason records_in notes_out bytes_before bytes_after kept_fraction seconds tokens",
        "acts": "step agent start_s end_s calls actions error",
    }
    for family, names in promised.items():
        assert set(names.split()) <= set(FAMILIES[family].__struct_fields__)


def test_names_tell_units_and_otel_names():
    """A field's unit follows from its name, and model calls carry the GenAI conventions' names."""
    assert unit_of("queue_s") == "s"
    assert unit_of("cost_usd") == "USD"
    assert unit_of("kept_fraction") == "1"
    assert otel_name(FAMILIES["calls"], "tokens_in") == "gen_ai.client.token.usage"
    assert otel_name(RunChanged, "state") == "troupelab.runs.state"


def test_parquet_needs_pyarrow_and_says_so(tmp_path, monkeypatch):
    """Without pyarrow the error says how to install it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match="pip install pyarrow"):
        Frames(Recorder(), []).to_parquet(tmp_path)


def test_events_cannot_be_changed():
    """An event is immutable once made."""
    event: Event = failed(1)
    with pytest.raises(AttributeError):
        event.at_s = 2.0
