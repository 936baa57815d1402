"""Going on with a folder's run when something about the folder is wrong, and what must survive being broken off.

A run that is broken off is had by copying its folder while it is paused: that is what a kill leaves, without the kill.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from helpers import eventually, quick_run

import troupelab as tl
from troupelab._platform import lock_file, unlock_file
from troupelab.bench.lives import memories_digest
from troupelab.errors import (
    CheckpointError,
    RunError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreVersionError,
)
from troupelab.models.cache import ReplyCache
from troupelab.store import Store
from troupelab.store.file import lock_path
from troupelab.telemetry.journal import (
    FORMAT,
    ActRow,
    AsideRow,
    CalledRow,
    EndRow,
    EventRow,
    NotesRow,
    ToldRow,
    read_header,
    read_rows,
    write_past,
)

STEPS, PLAYED = 10, 6
LIMITS = tl.Limits(recent_max_records=12)


def outcome(run: tl.Run) -> tuple[str, str]:
    """What was done in a run that has ended, and what is remembered of it."""
    return run.recorder.transcript_sha256(), memories_digest(run)


def at_pause(run: tl.Run, steps: int) -> tl.Run:
    """Play some steps of a run, and have all of it on the disk."""
    if run._thread is None:
        run.start(paused=True)
    done = run._engine.player.steps_done
    run.step(steps)
    eventually(
        f"{steps} steps are played", lambda: run.state == "paused" and run._engine.player.steps_done == done + steps
    )
    durable(run)
    return run


def durable(run: tl.Run) -> None:
    """Have all that has happened on the disk."""
    with run._engine.keeper.reading(run._engine.handover):
        pass
    if (cache := run._engine.pipeline.cache) is not None:
        cache.flush()


def break_off(run: tl.Run, to: Path) -> Path:
    """Copy a paused run's folder, as a kill would leave it, and end the run."""
    shutil.copytree(run.folder, to)
    run.stop(now=True)
    run.wait(30)
    return to


def goes_on(folder: Path, *arguments, **options) -> tuple[str, str]:
    """Go on with a folder's run to its end."""
    run = tl.Run.resume(folder, *arguments, **options).start().wait(60)
    assert run._engine._actor.strays == 0
    return outcome(run)


def contents(folder: Path) -> dict[str, bytes]:
    """All files in a folder, but those that SQLite and the lock keep beside a store."""
    beside = ("-wal", "-shm", ".lock")
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.endswith(beside)
    }


def refused(folder: Path, kind: type[Exception], *words: str, **options) -> None:
    """See that going on is refused with a message that has these words, that nothing is changed by it, and nothing stays open."""
    before = contents(folder)
    with pytest.raises(kind) as caught:
        tl.Run.resume(folder, **options)
    for word in (folder.name, *words):
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    assert contents(folder) == before
    if (folder / "run.sqlite").is_file():
        unlock_file(lock_file(lock_path(folder / "run.sqlite")), lock_path(folder / "run.sqlite"))


@pytest.fixture(scope="module")
def whole() -> tuple[str, str]:
    """What comes of the undisturbed run."""
    return outcome(quick_run(steps=STEPS, limits=LIMITS).start().wait(60))


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A folder whose run was broken off; its log is in the file already."""
    place = tmp_path_factory.mktemp("broken")
    folder = break_off(at_pause(quick_run(steps=STEPS, limits=LIMITS, folder=place / "first"), PLAYED), place / "run")
    Store.open(folder / "run.sqlite").close()
    ReplyCache.open(folder / "replies.sqlite").close()
    return folder


@pytest.fixture
def broken(template, tmp_path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(template, tmp_path / "run"))


# ---------------------------------------------------------------------- folders without a run


def test_a_broken_off_run_goes_on_to_the_same_end(broken, whole):
    """Where nothing is wrong, the transcript and the memories are those of the undisturbed run."""
    assert goes_on(broken) == whole


def test_no_folder_and_an_empty_one_are_refused(tmp_path):
    """Both are told by name, and no folder is made."""
    with pytest.raises(CheckpointError, match="nowhere holds no run"):
        tl.Run.resume(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", CheckpointError, "run.sqlite")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CheckpointError, match="file holds no run"):
        tl.Run.resume(tmp_path / "file")
    (tmp_path / "strange" / "run.sqlite").mkdir(parents=True)
    refused(tmp_path / "strange", CheckpointError, "run.sqlite")


def test_files_of_another_use_are_refused(tmp_path, broken):
    """A text, another program's database, a cache of replies and a store without a run are each told as what they are."""
    folder = tmp_path / "other"
    folder.mkdir()
    file = folder / "run.sqlite"
    file.write_text("Dear diary, " * 1_000)
    refused(folder, StoreError, "run.sqlite", "not a store")
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE shopping (item TEXT)")
    refused(folder, StoreError, "run.sqlite", "not a store")
    shutil.copy(broken / "replies.sqlite", file)
    refused(folder, StoreError, "run.sqlite", "not a store")
    file.unlink()
    with Store.open(file) as store:
        store.put("records", 0, b"", b"something")
    refused(folder, CheckpointError, "run.sqlite", "no run")


def test_a_run_that_ended_before_its_beginning_can_be_begun_again(tmp_path, whole):
    """Killed between the file's making and the run's first word in it, there is nothing to go on with, and nothing in the way."""
    never = quick_run(steps=STEPS, limits=LIMITS, folder=tmp_path / "first")
    folder = Path(shutil.copytree(never.folder, tmp_path / "run"))
    never._file.opened().close()
    refused(folder, CheckpointError, "run.sqlite", "no run")
    assert outcome(quick_run(steps=STEPS, limits=LIMITS, folder=folder).start().wait(60)) == whole


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 0.5, 0.9, 0.99, 1.0])
def test_half_copied_files_are_refused(broken, share, whole):
    """A file that was cut anywhere is told as damaged; with the whole file in its place, the run goes on."""
    file = broken / "run.sqlite"
    data = file.read_bytes()
    file.write_bytes(data[: min(int(len(data) * share), len(data) - 1)])
    refused(broken, StoreError, "run.sqlite")
    file.write_bytes(data)
    if share in (0.5, 1.0):
        assert goes_on(broken) == whole


def test_a_copy_without_the_log_is_refused_or_goes_on_from_earlier(tmp_path, whole):
    """A store's file alone holds less: no run yet, which is told, or an earlier state, from which the end is the same."""
    for place, flushed in enumerate((False, True)):
        run = quick_run(steps=STEPS, limits=LIMITS, folder=tmp_path / f"first{place}")
        at_pause(run, 2)
        if flushed:
            # By a connection of its own: the writer's belongs to its thread, which may be in the midst of a commit.
            with contextlib.closing(sqlite3.connect(tmp_path / f"first{place}" / "run.sqlite")) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        at_pause(run, 2)
        folder = break_off(run, tmp_path / f"run{place}")
        for left in folder.glob("run.sqlite-*"):
            left.unlink()
        if flushed:
            assert goes_on(folder) == whole
        else:
            refused(folder, CheckpointError, "run.sqlite", "half copied")


# ---------------------------------------------------------------------- changed files


def test_changed_bytes_in_header_and_journal_are_noticed(broken, whole):
    """One changed byte in what the run is, or in what happened, is told before anything is played."""
    file = broken / "run.sqlite"
    data = file.read_bytes()
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        payloads = connection.execute("SELECT kind, payload FROM block WHERE kind IN ('run', 'journal')").fetchall()
    assert {kind for kind, _ in payloads} == {"run", "journal"}
    tried = 0
    for kind, payload in payloads:
        for offset in (0, 30, 63):
            # A long one goes over several pages, and a page that is free now may hold it as well.
            changed = bytearray(payload[:64])
            changed[offset % len(changed)] ^= 0x10
            file.write_bytes(data.replace(payload[:64], changed))
            refused(broken, StoreCorruptError, "run.sqlite", f"{kind}/-1")
            tried += 1
    assert tried == 3 * len(payloads) > 6
    file.write_bytes(data)
    assert goes_on(broken) == whole


def test_a_byte_changed_anywhere_is_noticed_or_does_no_harm(template, tmp_path, whole):
    """Wherever in the file a byte is another, going on is refused with an error of ours, or ends as if nothing had been."""
    data = (template / "run.sqlite").read_bytes()
    draws, counts = random.Random(7), {"refused": 0, "harmless": 0}
    for number in range(14):
        folder = Path(shutil.copytree(template, tmp_path / str(number)))
        changed = bytearray(data)
        changed[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        (folder / "run.sqlite").write_bytes(changed)
        try:
            run = tl.Run.resume(folder)
        except (StoreError, CheckpointError) as error:
            counts["refused"] += "run.sqlite" in str(error)
        else:
            counts["harmless"] += outcome(run.start().wait(60)) == whole
        shutil.rmtree(folder)
    print("\na byte changed:", counts)
    assert sum(counts.values()) == 14
    assert counts["refused"] >= 2


def test_files_of_a_newer_version_are_refused(broken, template):
    """A newer store, a newer journal, one with a row that is not known, and a header that lacks something: each says so."""
    file = broken / "run.sqlite"
    data = file.read_bytes()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version=99")
    refused(broken, StoreVersionError, "run.sqlite", "99", "update")
    encode = msgspec.msgpack.encode
    blocks = {
        "format": ("run", encode(FORMAT + 1), encode({"format": FORMAT + 1})),
        "cannot be read": ("run", encode(FORMAT), encode({"format": FORMAT, "seed": 7})),
        "journal": ("journal", encode(1), encode([["dreamt", 3, "of a goat"]])),
    }
    for words, (kind, meta, payload) in blocks.items():
        file.write_bytes(data)
        with Store.open(file) as store:
            store.put(kind, -1, meta, payload)
        refused(broken, StoreVersionError, "run.sqlite", words)


def test_rows_that_cannot_have_happened_are_refused(broken, whole):
    """What is whole and of this version, and yet of no run (somebody made it), is told before anything is played."""
    file, encode = broken / "run.sqlite", msgspec.msgpack.encode
    data = file.read_bytes()
    with Store.open(file) as store:
        header = msgspec.to_builtins(read_header(store))
    world = header["world"]
    headers = [
        {"world": {}},
        {"world": {"agents": 3}},
        {"world": {**world, "agents": world["agents"][:2]}},
        {"options": {"dreams": True}},
        {"limits": {"recent_max_records": -4}},
        {"scripted": {"temper": 3.0}},
    ]
    rows = [
        ActRow(99, PLAYED, 1.0, 1.0, 0, [], {}),
        ActRow(0, PLAYED - 1, 1.0, 1.0, 0, [], {}),
        ActRow(0, PLAYED + 1, 1.0, 1.0, 0, [], {}),
        ActRow(0, -1, 1.0, 1.0, 0, [], {}),
        EventRow("dreams", (1.0,)),
        EventRow("errors", ()),
        AsideRow(99, "TALK", "Elif", "Good evening."),
        ToldRow(PLAYED, 0, "CONVERSATION", "", "Good evening.", [99], "user"),
    ]
    made = [("run", encode(FORMAT), encode({**header, **each})) for each in headers]
    made += [("journal", encode(1), encode([each])) for each in rows]
    for kind, meta, payload in made:
        file.write_bytes(data)
        with Store.open(file) as store:
            store.put(kind, -1, meta, payload)
        before = contents(broken)
        with pytest.raises(CheckpointError, match=r"run\.sqlite|give one"):
            tl.Run.resume(broken)
        assert contents(broken) == before
    file.write_bytes(data)
    assert goes_on(broken) == whole


# ---------------------------------------------------------------------- what goes on needs


def rumour(run: tl.Run) -> None:
    """Tell everybody something."""
    run.tell("The price will be doubled.", source="A customer")


def tighten(run: tl.Run) -> None:
    """Change limits of memories."""
    run.limits.update(recent_max_records=6, note="tighter")
    run.limits.update(semantic_max_notes=4, agents=[run.agent_names[0]])


def test_fewer_steps_than_were_played_are_refused(broken, whole):
    """What has happened cannot be taken back: the message names how many steps there are."""
    refused(broken, CheckpointError, "steps", str(PLAYED), steps=PLAYED - 1)
    assert goes_on(broken, steps=STEPS) == whole


def test_another_world_is_refused(broken, whole):
    """A world that is given is compared with the run's; the same one, loaded again, goes."""
    refused(broken, CheckpointError, "another world", world=tl.World.load("town"))
    assert goes_on(broken, world=tl.World.load("product_launch")) == whole


def test_missing_interventions_and_models_are_refused(tmp_path):
    """What cannot be kept in a folder must be given again, as it was: the message names it."""

    class Own(tl.ScriptedModel):
        """A model of a user's own."""

    given = [tl.Intervention(rumour, at=3), tl.Intervention(tighten, at=5)]
    options = {"steps": STEPS, "limits": LIMITS, "interventions": given}
    expected = outcome(quick_run(model=Own(7, latency_s=0.0), **options).start().wait(60))
    run = quick_run(model=Own(7, latency_s=0.0), folder=tmp_path / "first", **options)
    folder = break_off(at_pause(run, PLAYED), tmp_path / "run")
    Store.open(folder / "run.sqlite").close()  # what is in the log goes to the file
    for wrong in ([], given[:1], given[::-1]):
        refused(folder, CheckpointError, "rumour, tighten", interventions=wrong, model=Own(7, latency_s=0.0))
    refused(folder, CheckpointError, "model", "Run.resume", interventions=given)
    assert goes_on(folder, Own(7, latency_s=0.0), interventions=given) == expected


def test_a_run_that_is_open_is_refused(broken, whole):
    """In this process and in another, the message says who has it; once that is over, the run goes on."""
    run = tl.Run.resume(broken)
    with pytest.raises(StoreLockedError, match="this process"):
        tl.Run.resume(broken)
    run.start(paused=True)
    with pytest.raises(StoreLockedError, match="this process"):
        tl.Run.resume(broken)
    with pytest.raises(RunError, match="holds a run already"):
        quick_run(folder=broken)
    run.stop(now=True)
    run.wait(30)
    code = (
        "import sys; from troupelab.store import Store; s = Store.open(sys.argv[1]); print('open', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(broken / "run.sqlite")]
    home = Path(tl.__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=home) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreLockedError, match=f"process {other.pid}"):
            tl.Run.resume(broken)
        other.kill()
        other.wait()
    assert goes_on(broken) == whole


def test_replies_that_are_damaged_or_gone_do_not_change_the_end(broken, whole):
    """A damaged cache is refused at the start, with what to do; without it, replies are asked for again."""
    file = broken / "replies.sqlite"
    file.write_bytes(b"no replies" * 1_000)
    run = tl.Run.resume(broken)
    with pytest.raises(StoreError, match=r"replies\.sqlite"):
        run.start()
    file.unlink()
    assert outcome(run.start().wait(60)) == whole


# ---------------------------------------------------------------------- any moment


class Failing(tl.ScriptedModel):
    """A scripted model that does not answer some acts."""

    async def complete(self, request):
        """Fail where the draw says so."""
        if request.purpose == "act" and request.agent % 4 == request.step % 7:
            raise tl.ModelError("no answer")
        return await super().complete(request)


GIVEN = [tl.Intervention(rumour, every=3), tl.Intervention(tighten, when=lambda run: len(run.frames.acts) > 55)]
WAYS = {
    "free": {"order": "free"},
    "notes by the model": {"order": "free", "consolidate": "model"},
    "failing": {"order": "free", "on_error": "retry"},
    "interventions": {"order": "free", "interventions": GIVEN},
}


def cut_anywhere(place: Path, way: str, cuts: int) -> None:
    """Cut the journal of a run that is whole after some rows, as a kill cuts it, and go on from each of these beginnings."""
    options, world = WAYS[way], tl.World.sample(10, seed=7)
    kind = Failing if way == "failing" else tl.ScriptedModel
    given = options.get("interventions", ())

    def model() -> tl.ScriptedModel:
        return kind(7, latency_s=0.001, latency_sigma=1.5)

    run = quick_run(world, model=model(), steps=STEPS, limits=LIMITS, folder=place / "whole", **options)
    expected = outcome(run.start().wait(60))
    with Store.open(place / "whole" / "run.sqlite") as store:
        header, rows = read_header(store), list(read_rows(store))
    assert {"notes by the model": NotesRow, "interventions": ToldRow, "failing": EventRow}.get(way, ActRow) in set(
        map(type, rows)
    )
    # What happens before a step is committed as a whole: from the first call of an intervention to the row that ends them.
    inside, ends = False, []
    for end, row in enumerate(rows, 1):
        if isinstance(row, CalledRow):
            inside = row.number >= 0
        if not inside:
            ends.append(end)
    draws = random.Random(way)
    for end in (0, *draws.sample(ends[:-1], cuts), len(rows)):
        folder = place / str(end)
        with Store.open(folder / "run.sqlite") as store:
            write_past(store, header, rows[:end])
        assert goes_on(folder, model(), interventions=given) == expected, f"cut after {end} of {len(rows)} rows"
        with Store.open(folder / "run.sqlite") as store:
            acts = [(row.agent, row.step) for row in read_rows(store) if isinstance(row, ActRow)]
        assert sorted(acts) == [(agent, step) for agent in range(10) for step in range(STEPS)]


@pytest.mark.parametrize("way", WAYS)
def test_any_beginning_of_the_journal_leads_to_the_same_end(tmp_path, way):
    """Broken off at a few random moments, the run comes to the same end, in every way of playing."""
    cut_anywhere(tmp_path, way, 1)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_very_many_beginnings_of_the_journal_lead_to_the_same_end(tmp_path, way):
    """The same at forty moments."""
    cut_anywhere(tmp_path, way, 40)


# ---------------------------------------------------------------------- lives after lives


def test_a_resumed_run_can_be_broken_off_and_forked(tmp_path, whole):
    """Broken off after each two steps, the run comes to the same end; a fork of a later life has its past."""
    folder = break_off(at_pause(quick_run(steps=STEPS, limits=LIMITS, folder=tmp_path / "0"), 2), tmp_path / "1")
    for life in (1, 2):
        run = at_pause(tl.Run.resume(folder).start(paused=True), 2)
        fork = run.fork(folder=tmp_path / f"fork{life}")
        assert fork.forked_at == 2 + 2 * life
        folder = break_off(run, tmp_path / str(life + 1))
        assert outcome(fork.start().wait(60)) == whole
    assert goes_on(folder) == whole
    fork = tl.Run.resume(folder, steps=STEPS + 1).fork(at_step=5, folder=tmp_path / "late")
    at_pause(fork, 2)
    assert goes_on(break_off(fork, tmp_path / "broken-fork"), steps=STEPS) == whole


def test_a_finished_run_goes_on_for_more_steps(tmp_path, whole):
    """Ended after six steps and gone on with to ten, a run is the one of ten steps; gone on with to no more, it is as it was."""
    first = quick_run(steps=PLAYED, limits=LIMITS, folder=tmp_path / "run").start().wait(60)
    ended = outcome(first)
    assert goes_on(tmp_path / "run") == ended
    assert goes_on(tmp_path / "run", steps=STEPS) == whole


def test_limits_changed_at_a_step_survive(tmp_path):
    """A change by an intervention holds from its step on in all lives, wherever the run is broken off."""
    given = [tl.Intervention(tighten, at=4)]
    options = {"steps": STEPS, "limits": LIMITS, "interventions": given}
    expected = outcome(quick_run(**options).start().wait(60))
    assert expected != outcome(quick_run(steps=STEPS, limits=LIMITS).start().wait(60))
    for played in (3, 5):
        run = at_pause(quick_run(folder=tmp_path / f"first{played}", **options), played)
        folder = break_off(run, tmp_path / f"run{played}")
        assert goes_on(folder, interventions=given) == expected


def test_what_a_full_journal_left_out_is_played_again(tmp_path, whole):
    """Where the journal was full before the end, the run says so, and the same end is come to once more."""
    limits = LIMITS.replace(journal_max_bytes=10_000)
    slow = tl.ScriptedModel(7, latency_s=0.03)  # so that it is written in many parts
    run = quick_run(model=slow, steps=STEPS, limits=limits, folder=tmp_path / "run").start().wait(60)
    assert "journal_max_bytes" in set(run.frames.alerts["kind"])
    with Store.open(tmp_path / "run" / "run.sqlite") as store:
        rows = list(read_rows(store))
    assert any(isinstance(row, EndRow) for row in rows)
    assert 0 < sum(isinstance(row, ActRow) for row in rows) < 8 * STEPS
    assert goes_on(tmp_path / "run") == whole


def test_what_was_told_and_asked_survives_once(tmp_path):
    """What a run was told, for a step that was not played yet, and an interview that was to be remembered are there once."""

    def played(run: tl.Run) -> tl.Run:
        at_pause(run, 4)
        run.tell("The harbour is closed from Friday on.", source="A passer-by")
        run.ask(run.agent_names[2], "What do you think of harbours?", remember=True)
        durable(run)
        return run

    calm = played(quick_run(steps=STEPS, limits=LIMITS))
    calm.resume()
    expected = outcome(calm.wait(60))
    assert expected != outcome(quick_run(steps=STEPS, limits=LIMITS).start().wait(60))
    folder = break_off(played(quick_run(steps=STEPS, limits=LIMITS, folder=tmp_path / "0")), tmp_path / "1")
    folder = break_off(at_pause(tl.Run.resume(folder).start(paused=True), 0 + 2), tmp_path / "2")
    run = tl.Run.resume(folder).start().wait(60)
    assert outcome(run) == expected
