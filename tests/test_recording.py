"""Recordings: a run read back from its folder without a model, and played at any time and speed."""

from __future__ import annotations

import asyncio
import math
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import eventually, memories, quick_run, sha
from hypothesis import given, settings
from hypothesis import strategies as st
from townsfolk import people, world_of

import troupelab as tl
from troupelab.bridges.tinytroupe import adopt
from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.playback import Playback
from troupelab.dashboard.player_bar import PlayerBar
from troupelab.events import FAMILIES
from troupelab.models.model import Reply, Request
from troupelab.store import Store

OF_ACTS = {"memory", "consolidations", "dedups", "evictions"}
"""Families whose times are those of the acts that they belong to."""

OF_THE_READING = {"memory": {"total_bytes", "archive_bytes"}, "consolidations": {"seconds"}}
"""What a reading measures anew."""

SMALL = tl.Limits(recent_max_records=16, semantic_max_notes=6)


def rows(recorder: Any, family: str) -> list[tuple[str, ...]]:
    """A family's rows, sorted, without what may differ between a run and its recording."""
    left_out = OF_THE_READING.get(family, set()) | ({"at_s"} if family in OF_ACTS else set())
    columns = recorder.read(family).columns
    kept = [column.tolist() for name, column in columns.items() if name not in left_out]
    return sorted(tuple(map(repr, row)) for row in zip(*kept, strict=True))


def check_same(recording: tl.Recording, run: tl.Run) -> None:
    """The recording has the run's events, numbers, memories and limits."""
    for family in FAMILIES:
        assert rows(recording.recorder, family) == rows(run.recorder, family), family
    for family in OF_ACTS:
        ours, theirs = (np.sort(each.recorder.read(family).columns["at_s"]) for each in (recording, run))
        assert len(ours) == len(theirs)
        assert (np.abs(ours - theirs) < 5.0).all()
    assert recording.recorder.transcript_sha256() == sha(run)
    assert recording.transcript().equals(run.transcript())
    assert recording.limits.current == run.limits.current
    assert recording.limits.overrides == run.limits.overrides
    measured = {"wall_s", "memory_bytes", "peak_rss_mb", "archive_bytes"}
    ours, theirs = recording.summary(), run.summary()
    assert list(ours) == list(theirs)
    assert {name: ours[name] for name in ours if name not in measured} == {
        name: theirs[name] for name in theirs if name not in measured
    }
    for name in measured:
        assert ours[name] == pytest.approx(theirs[name], rel=0.5, abs=1.0), name
    assert recording.progress()[:4] == run.progress()[:4]
    assert abs(recording.now_s() - run.now_s()) < 5.0
    assert (recording.name, recording.agent_names, recording.seed) == (run.name, run.agent_names, run.seed)
    assert recording.forked_at == run.forked_at


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for SQLite's index of its write-ahead log, which every reader makes anew."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.endswith("-shm")}


class Moody:
    """Answers as the scripted model does, but for every ninth request, which it cannot."""

    name = "moody"

    def __init__(self) -> None:
        self._model = tl.ScriptedModel(7, latency_s=0.0)
        self.asked = 0

    async def complete(self, request: Request) -> Reply:
        """Answer, or not."""
        self.asked += 1
        if (request.agent + request.step) % 9 == 4:
            raise tl.ModelServerError("not today")
        return await self._model.complete(request)


def played(folder: Path, world: str = "town", **options: Any) -> tl.Run:
    """A run whose limits are changed amid it, that is told something and asked something, to its end."""
    options.setdefault("limits", SMALL)
    run = quick_run(world, folder=folder, **options).start(paused=True)
    run.step(2)
    run.wait(60, until="paused")
    run.tell("The ferry is cut.", to=run.agent_names[:2], source="A stranger")
    run.ask(run.agent_names[0], "How are you?", remember=True)
    run.limits.update(recent_max_records=8, note="smaller <window>")
    run.limits.update(recent_max_records=30, agents=[run.agent_names[1]])
    run.step(1)
    run.wait(60, until="paused")
    run.limits.update(max_concurrency=3)
    run.resume()
    return run.wait(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    where = tmp_path_factory.mktemp("recording") / "run"
    played(where, steps=6)
    return where


@pytest.fixture(scope="module")
def recording(folder: Path) -> tl.Recording:
    """The recording of a finished run."""
    return tl.Recording.open(folder)


# ---------------------------------------------------------------------- reading back


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "free", "consolidate": "model"},
        {"embedder": tl.HashingEmbedder()},
        {"embedder": None, "consolidate": "off"},
        {"pack_acts": True, "limits": tl.Limits(recent_max_records=12, archive_max_bytes=100_000)},
    ],
    ids=["plain", "free order, notes by the model", "hashed words", "no embedder, no notes", "packed, little room"],
)  # fmt: skip
def test_a_recording_has_the_events_of_the_run(tmp_path, options):
    """Family by family the rows are those of the run; so are transcript, memories, limits and summary. The folder stays as it was."""
    run = played(tmp_path / "run", steps=5, **options)
    before = files(tmp_path / "run")
    told: list[tuple[int, int]] = []
    with tl.Recording.open(tmp_path / "run", progress=lambda acts, of: told.append((acts, of))) as recording:
        check_same(recording, run)
        assert recording.state == "done"
        assert told[-1] == (5 * 25, 5 * 25)
        assert memories(recording._run)
    assert files(tmp_path / "run") == before
    assert recording.recorder.count("acts") == 125  # closed, it is still readable


def test_failures_and_interventions_are_in_it_and_nothing_is_called_again(tmp_path):
    """A model of one's own, acts that fail and what interventions did need neither to be given again."""
    model = Moody()
    change = tl.Intervention(lambda run: run.limits.update(recent_max_records=9, by="rule"), at=2)
    tell = tl.Intervention(lambda run: run.tell("Fire!"), every=2)
    limits = tl.Limits(recent_max_records=20, max_attempts=1)
    run = quick_run("town", model=model, limits=limits, steps=5, folder=tmp_path / "run", interventions=[change, tell])
    run.start().wait(60)
    asked = model.asked
    with tl.Recording.open(tmp_path / "run") as recording:
        check_same(recording, run)
        assert recording.recorder.count("errors") > 5
        assert recording.summary()["model"] == "moody"
        with pytest.raises(tl.ModelSetupError, match="a recording has no model"):
            asyncio.run(recording._run.model.complete(Request("act", 0, 0, 0, 0, 0, ())))
    assert model.asked == asked


def test_the_recording_of_a_fork_and_of_one_that_is_a_fork(tmp_path):
    """A fork's recording has its parent's past, tells where it parted, and limits that only the fork has had."""
    run = played(tmp_path / "run", steps=6)
    fork = run.fork({"recent_max_records": 5}, at_step=4, folder=tmp_path / "fork").start().wait(60)
    with tl.Recording.open(tmp_path / "fork") as recording:
        check_same(recording, fork)
        assert recording.forked_at == 4
        assert recording.limits_at(recording.now_s()).current == fork.limits.current
        assert recording.limits_at(0.0).recent_max_records == 16


def test_the_recording_of_a_resumed_run(tmp_path):
    """A run that was stopped and went on for more steps is one recording, with both its lives."""
    run = quick_run("town", limits=SMALL, steps=6, folder=tmp_path / "run").start(paused=True)
    run.step(3)
    run.wait(60, until="paused")
    run.stop()
    run.wait(60)
    with tl.Recording.open(tmp_path / "run") as recording:
        check_same(recording, run)
        assert recording.state == "stopped"
        assert (recording.steps, recording.progress().step) == (6, 2)
    again = tl.Run.resume(tmp_path / "run", steps=8).start().wait(60)
    with tl.Recording.open(tmp_path / "run") as recording:
        check_same(recording, again)
        assert (recording.state, recording.steps) == ("done", 8)
        assert recording.frames.runs["state"].tolist().count("running") >= 2


def test_the_recording_of_a_run_that_was_killed(tmp_path):
    """What a kill leaves is read up to where it was written; it is said to be broken off, and can still be resumed."""
    run = quick_run("town", limits=SMALL, steps=6, folder=tmp_path / "run").start(paused=True)
    run.step(3)
    run.wait(60, until="paused")
    with run._file.reading(run._engine.keeper, run._engine.handover):
        copy = Path(
            shutil.copytree(tmp_path / "run", tmp_path / "copy", ignore=shutil.ignore_patterns("*.lock", "*-shm"))
        )
    before = files(copy)
    with tl.Recording.open(copy) as recording:
        for family in FAMILIES:
            if family != "process":  # samples go on in the pause
                assert rows(recording.recorder, family) == rows(run.recorder, family), family
        assert recording.state == "broken off"
        assert recording.incomplete_from_s is None
        assert recording.progress().acts_done == 3 * 25
        assert (recording.in_flight, recording.queued, recording.paused_for) == (0, 0, "")
    assert files(copy) == before
    assert tl.Run.resume(copy).start().wait(60).state == "done"
    run.stop()


def test_a_full_journal_is_told(tmp_path):
    """From when on the recording is incomplete is a number, an alert with the limit's name, and the state tells of no end."""
    limits = tl.Limits(recent_max_records=20, journal_max_bytes=20_000)
    quick_run("town", limits=limits, steps=12, folder=tmp_path / "run").start().wait(60)
    with tl.Recording.open(tmp_path / "run") as recording:
        assert recording.incomplete_from_s is not None
        assert recording.frames.alerts["kind"].tolist() == ["journal_max_bytes"]
        assert "is not in this recording" in recording.frames.alerts["message"][0]
        assert recording.state == "broken off"
        assert 0 < recording.progress().acts_done < 12 * 25


def test_another_embedder_is_told(tmp_path):
    """Where memories cannot be what they were, since the embedder is not there any more, an error says so."""
    run = quick_run("town", limits=SMALL, steps=5, folder=tmp_path / "run").start().wait(60)
    with tl.Recording.open(tmp_path / "run", embedder=tl.HashingEmbedder(8)) as recording:
        assert recording.frames.errors["kind"].tolist() == ["InexactPast"]
        assert recording.recorder.transcript_sha256() == sha(run)


@pytest.mark.usefixtures("tinytroupe")
def test_an_adopted_worlds_recording_has_what_its_journal_has(tinytroupe, tmp_path):
    """What TinyTroupe's persons did and what it took is there; what they remembered, only TinyTroupe could tell."""
    world = world_of(tinytroupe, people(tinytroupe))
    with adopt(world, tl.ScriptedModel(7, latency_s=0.0), steps=3, folder=tmp_path / "run") as run:
        run.limits.update(max_concurrency=3)
        run.start().wait(60)
        run.close()
        with tl.Recording.open(tmp_path / "run") as recording:
            for family in ("actions", "calls", "limits", "errors", "runs", "steps", "process"):
                assert rows(recording.recorder, family) == rows(run.recorder, family), family
            assert recording.recorder.count("acts") == run.recorder.count("acts") == 12
            assert recording.recorder.transcript_sha256() == sha(run)
            assert recording.recorder.count("memory") == 0
            assert recording.summary()["acts"] == 12
            assert recording.state == "done"


# ---------------------------------------------------------------------- what cannot be read


def test_folders_without_a_run_are_refused(tmp_path):
    """No folder, no file, a file of something else, and a store in which no run was begun are told apart in sentences."""
    with pytest.raises(tl.CheckpointError, match=r"holds no run: there is no run\.sqlite in it"):
        tl.Recording.open(tmp_path / "nowhere")
    with pytest.raises(tl.CheckpointError, match="holds no run"):
        tl.Recording.open(tmp_path)
    (tmp_path / "run.sqlite").write_text("not a database")
    with pytest.raises(tl.StoreError, match="is not a store of TroupeLab"):
        tl.Recording.open(tmp_path)
    (tmp_path / "run.sqlite").unlink()
    Store.open(tmp_path / "run.sqlite").close()
    with pytest.raises(tl.CheckpointError, match="it ended before it had begun"):
        tl.Recording.open(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.sqlite"]


def test_a_run_that_goes_on_is_refused(tmp_path):
    """As long as a run has the file open, the recording says who has it."""
    run = quick_run(folder=tmp_path / "run").start(paused=True)
    with pytest.raises(tl.StoreLockedError, match=r"still goes on: wait for its end, or stop it .*in this process"):
        tl.Recording.open(tmp_path / "run")
    run.stop()
    run.wait(60)
    tl.Recording.open(tmp_path / "run").close()


def test_another_version_is_refused(folder, tmp_path):
    """A file of a later version is not guessed at."""
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    with sqlite3.connect(copy / "run.sqlite") as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(tl.StoreVersionError, match="has version 99"):
        tl.Recording.open(copy)


@settings(max_examples=25, deadline=None)
@given(part=st.floats(0.0, 1.0), cut=st.booleans())
def test_a_damaged_file_is_refused_or_read_in_full(folder, tmp_path_factory, part, cut):
    """A file that is cut short or has a page of zeros anywhere gives the whole recording, or a StoreError; never a part of it."""
    data = (folder / "run.sqlite").read_bytes()
    place = int(part * (len(data) - 1))
    where = tmp_path_factory.mktemp("damaged")
    broken = data[:place] if cut else data[:place] + bytes(512) + data[place + 512 :]
    (where / "run.sqlite").write_bytes(broken)
    told = ""
    try:
        with tl.Recording.open(where) as recording:
            assert recording.recorder.count("acts") == 6 * 25
            assert recording.state == "done"
    except tl.StoreError as error:
        told = str(error)
    assert not told or (str(where) in told and "/troupelab-" not in told)


def test_moments_are_those_of_the_run(tmp_path):
    """What a step did to a memory is told of a recording as of the run itself, at its end and in its last delivery, too."""
    run = quick_run(steps=5, folder=tmp_path / "run", limits=SMALL).start().wait(60)
    with tl.Recording.open(tmp_path / "run") as recording:
        playback = Playback(recording)
        for step in (0, 3, 5):
            own, read, shown = (each.moment(run.agent_names[2], step) for each in (run, recording, playback))
            assert own.exact
            assert read.exact
            assert read.records == own.records == shown.records
            assert (read.prompt, read.reply) == (own.prompt, own.reply)
        with pytest.raises(tl.RunError, match="no agent"):
            recording.moment("nobody", 0)


def test_limits_are_only_shown(recording, folder):
    """A change is refused with a sentence that says what to do; at any time they are what had been accepted by then."""
    with pytest.raises(tl.RunError, match=r"cannot be changed: it is over; Run\.resume\(.*fork"):
        recording.limits.update(recent_max_records=5)
    changed = recording.recorder.read("limits").columns["at_s"].tolist()
    assert len(changed) == 3
    assert recording.limits_at(changed[0] - 1e-6).current == SMALL
    assert recording.limits_at(changed[0]).recent_max_records == 8
    assert recording.limits_at(changed[0]).overrides == {}
    assert recording.limits_at(changed[1]).overrides == {recording.agent_names[1]: {"recent_max_records": 30}}
    assert recording.limits_at(changed[2]).max_concurrency == 3
    assert recording.limits_at(math.inf).current == recording.limits.current
    assert "cannot be changed" in str(recording._why)
    assert str(folder) in recording._why
    assert "<code>&lt;Recording of town: done" in recording._repr_html_()


# ---------------------------------------------------------------------- playing


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=60, deadline=None)
@given(part=st.floats(-0.2, 1.2))
def test_at_any_time_there_is_what_had_happened_by_then(recording, part):
    """A playback's rows are exactly those of the recording that are not later than where it stands; so are limits and progress."""
    playback = Playback(recording)
    playback.seek(part * playback.length_s)
    now_s = playback.now_s()
    assert 0.0 <= now_s <= playback.length_s
    for family in FAMILIES:
        whole, shown = recording.recorder.read(family).columns, playback.recorder.read(family)
        assert playback.recorder.count(family) == len(shown) == int((whole["at_s"] <= now_s).sum())
        assert (np.diff(shown.columns["at_s"]) >= 0).all()
        kept = [column[whole["at_s"] <= now_s].tolist() for column in whole.values()]
        ours = [column.tolist() for column in shown.columns.values()]
        assert sorted(map(repr, zip(*ours, strict=True))) == sorted(map(repr, zip(*kept, strict=True)))
    changes = recording.recorder.read("limits").columns
    assert len(playback.limits.log) == int((changes["at_s"] <= now_s).sum())
    acts, done = recording.recorder.read("acts").columns, playback.progress()
    assert done.step == acts["step"][acts["start_s"] <= now_s].max(initial=-1)
    assert done.acts_done == int((acts["at_s"] <= now_s).sum())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12), st.lists(st.sampled_from(sorted(FAMILIES)), max_size=40))
def test_going_on_gives_each_row_once(recording, parts, order):
    """Whoever reads through cursors while the time goes on, in whatever order, gets every row once; going back gives a new recorder."""
    playback = Playback(recording)
    playback.seek(0.0)
    recorder, cursors = playback.recorder, dict.fromkeys(FAMILIES, 0)
    got: dict[str, list[float]] = {family: [] for family in FAMILIES}
    for part in sorted(parts):
        playback.seek(part * playback.length_s)
        for family in [*order, *FAMILIES]:
            batch = recorder.read(family, cursors[family])
            assert batch.start == cursors[family]
            cursors[family] = batch.next
            got[family] += batch.columns["at_s"].tolist()
    assert playback.recorder is recorder
    for family, times in got.items():
        assert times == playback.recorder.read(family).columns["at_s"].tolist()
    if playback.now_s() > 0.0:
        playback.seek(0.0)
        assert playback.recorder is not recorder
        assert [recorder.count(family) for family in FAMILIES] == list(cursors.values())  # the old one does not shrink


def test_time_goes_on_at_any_speed_and_stops_at_the_end(recording):
    """Play begins from the start where it stands at the end; pause, speed and seek work while it goes on; another playback stands still."""
    hand = Hand()
    playback, other = Playback(recording, clock=hand), Playback(recording, clock=hand)
    length_s = playback.length_s
    assert (playback.state, playback.now_s()) == ("recording", length_s)
    playback.play(speed=length_s / 10)
    hand.now += 5.0
    assert playback.state == "playing"
    assert playback.now_s() == pytest.approx(length_s / 2)
    playback.speed = length_s / 100
    hand.now += 10.0
    assert playback.now_s() == pytest.approx(0.6 * length_s)
    playback.pause()
    hand.now += 50.0
    assert playback.now_s() == pytest.approx(0.6 * length_s)
    playback.play()
    playback.seek(0.1 * length_s)
    hand.now += 10.0
    assert playback.now_s() == pytest.approx(0.2 * length_s)
    hand.now += 1000.0
    assert (playback.state, playback.now_s()) == ("recording", length_s)
    playback.play()
    assert playback.now_s() == 0.0
    assert (other.now_s(), other.recorder.count("acts")) == (length_s, 150)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(tl.InputError, match="a number above 0"):
            playback.speed = wrong


def test_the_bar_obeys_and_tells(recording):
    """What the page sends plays, pauses, seeks and chooses a speed; what is no such thing does nothing; and the bar tells the time with its unit."""
    moved: list[int] = []
    bar, playback = PlayerBar(lambda: moved.append(1)), Playback(recording, clock=Hand())
    bar._heard(bar, {"kind": "play"}, [])
    assert bar.layout.display == "none"
    bar.show(playback)
    assert bar.layout.display is None
    assert bar.told == f"{playback.length_s:,.1f} s of {playback.length_s:,.1f} s"
    assert bar.step == "step 6 of 6"
    bar._heard(bar, {"kind": "seek", "value": 0}, [])
    bar._heard(bar, {"kind": "speed", "value": 50}, [])
    bar._heard(bar, {"kind": "play"}, [])
    bar.show(playback)
    assert (bar.at_s, bar.playing, bar.speed, bar.step) == (0.0, True, 50.0, "step 0 of 6")
    assert len(moved) == 2
    bar._heard(bar, {"kind": "pause"}, [])
    for content in (
        {"kind": "seek", "value": "1"},
        {"kind": "seek", "value": math.nan},
        {"kind": "speed", "value": 3},
        {},
    ):
        bar._heard(bar, content, [])
    bar.show(playback)
    assert (bar.at_s, bar.playing, bar.speed) == (0.0, False, 50.0)
    bar.show(tl.Run("product_launch"))
    assert bar.layout.display == "none"
    bar.close()


def test_a_dashboard_plays_a_recording(dashboard: Callable[..., Dashboard], recording):
    """It shows all at first; back in time it shows what there was then, with the limits of then; two dashboards are at two times."""
    shown, other = dashboard(recording), dashboard(recording)
    playback = shown.run
    assert isinstance(playback, Playback)

    def taken(one: Dashboard) -> int:
        return 0 if one._panels is None else one._panels.feed._next["acts"]

    eventually("all of it is shown", lambda: taken(shown) == taken(other) == 150)
    eventually("the bar stands in place of the buttons", lambda: shown._header.player.layout.display is None)
    assert {button.layout.display for button in shown._header.buttons.values()} == {"none"}
    assert all(control.slider.disabled for control in shown._controls.by_name.values())
    assert shown._controls.values()["recent_max_records"] == 8
    start_s = recording.recorder.read("limits").columns["at_s"][0]
    playback.seek(start_s - 1e-6)
    eventually("it is what it was then", lambda: 0 < taken(shown) < 150)
    eventually("limits are those of then", lambda: shown._controls.values()["recent_max_records"] == 16)
    eventually("the title tells the step", lambda: "step 2 of 6" in shown._header.title.value)
    assert "<b>recording</b>" in shown._header.title.value
    assert taken(other) == 150
    playback.play(speed=200.0)
    eventually("it has come to its end", lambda: taken(shown) == 150 and playback.state == "recording")
    run = quick_run(steps=1)
    shown.attach(run)
    eventually("a run has its buttons", lambda: shown._header.buttons["start"].layout.display is None)
    assert shown._header.player.layout.display == "none"
    assert not any(control.slider.disabled for control in shown._controls.by_name.values())
    shown.attach(recording)
    eventually("the recording again", lambda: taken(shown) == 150)


def test_the_lab_watches_what_lies_in_a_folder(folder, tmp_path):
    """Where the folder holds a run there is a button that plays it; Start then shows the lab's own run; a run that goes on is refused."""
    lab = tl.Lab(steps=2, latency_s=0.0)
    try:
        assert lab._watch.layout.display == "none"
        lab._folder.value = str(folder)
        assert lab._watch.layout.display is None
        lab._watch.click()
        eventually("the recording is shown", lambda: isinstance(lab.dashboard.run, Playback))
        assert lab.dashboard.run.name == "town"
        lab._folder.value = ""
        assert lab.start().wait(60).state == "done"
        assert lab.dashboard.run is lab.run
        busy = quick_run(folder=tmp_path / "busy").start(paused=True)
        lab._folder.value = str(tmp_path / "busy")
        lab._watch.click()
        eventually("it is refused", lambda: "still goes on" in lab.dashboard._header.said.value)
        busy.stop()
        busy.wait(60)
        lab._folder.value = ""
        with pytest.raises(tl.RunError, match="name the folder"):
            lab.watch()
    finally:
        lab.close()


def test_opening_can_be_interrupted(folder):
    """Where whoever is told of the progress raises, reading ends soon, and the error comes out."""

    class EnoughError(Exception):
        pass

    def no_more(acts: int, of: int) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        tl.Recording.open(folder, progress=no_more)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("troupelab-recording")]
