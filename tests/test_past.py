"""The journal, and what goes on from it: resumed runs and forks."""

from __future__ import annotations

import asyncio
import sys
import threading

import msgspec
import pytest
from helpers import eventually, memories, quick_run, sha
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.events import ActionTaken, CallDone
from troupelab.memory.record import text_bytes
from troupelab.store import Store
from troupelab.telemetry.journal import (
    ActRow,
    AsideRow,
    EndRow,
    EventRow,
    Journal,
    LimitRow,
    ToldRow,
    read_header,
    read_rows,
)

texts = st.text(st.characters(exclude_categories=()), max_size=30)
ROWS = st.one_of(
    st.builds(AsideRow, st.integers(0, 9), texts, texts, texts),
    st.builds(
        ActRow, st.integers(0, 9), st.integers(0, 99), st.floats(0, 9), st.floats(0, 9), st.integers(0, 2**64 - 1),
        st.lists(st.tuples(texts, texts, texts), max_size=3), st.dictionaries(texts, texts, max_size=3),
    ),
)  # fmt: skip


def watched(run):
    """A run whose memories are looked at before a folder's store is closed: `run.at_the_end` has them then."""
    keep = run._keep_memories

    def look_and_keep():
        run.at_the_end = memories(run)
        keep()

    run._keep_memories = look_and_keep
    return run


def played(world="town", **options):
    """A run with small memories that was played to its end."""
    options.setdefault("limits", tl.Limits(recent_max_records=20))
    return watched(quick_run(world, **options)).start().wait(60)


# ---------------------------------------------------------------------- the journal


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(ROWS, max_size=5), max_size=8))
def test_rows_come_back_as_they_went(batches):
    """In whatever batches they are flushed, rows come back in their order; half a surrogate pair becomes a question mark."""
    with Store.temporary() as store:
        journal = Journal(store, max_bytes=lambda: None)
        for batch in batches:
            for row in batch:
                journal.append(row)
            journal.flush()
        store.flush()
        back = list(read_rows(store))
    rows = [row for batch in batches for row in batch]
    assert [type(row) for row in back] == [type(row) for row in rows]
    for row, other in zip(rows, back, strict=True):
        whole = repr(row).encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
        if not any(0xD800 <= ord(each) <= 0xDFFF for each in whole) and "\\ud" not in whole:
            assert row == other


def test_small_batches_are_put_together():
    """After thousands of small batches there are few blocks, nothing is lost, and the order is kept."""
    with Store.temporary() as store:
        journal = Journal(store, max_bytes=lambda: None)
        for number in range(3_000):
            journal.append(AsideRow(0, "TALK", "Elif", f"{number}"))
            journal.flush()
            if number == 2_100:
                journal.pin(True)
                store.flush()
                pinned = len(store.blocks("journal"))
            if number == 2_200:
                store.flush()
                assert len(store.blocks("journal")) == pinned + 100
                journal.pin(False)
        store.flush()
        assert [row.text for row in read_rows(store)] == [f"{number}" for number in range(3_000)]
        assert len(store.blocks("journal")) < 1_030
        assert journal.disk_bytes == sum(block.size_bytes for block in store.blocks("journal"))


def test_what_belongs_together_is_flushed_together():
    """While the journal is held, nothing is written; then all of it at once."""
    asked = []
    with Store.temporary() as store:
        journal = Journal(store, max_bytes=lambda: None, on_rows=lambda: asked.append(1))
        journal.hold(True)
        journal.append(AsideRow(0, "TALK", "Elif", "one"))
        assert journal.flush() == 0
        journal.append(AsideRow(0, "TALK", "Elif", "two"))
        journal.hold(False)
        assert len(asked) == 2
        journal.flush()
        store.flush()
        assert len(store.blocks("journal")) == 1


def test_every_turn_and_every_call_stand_in_the_journal_once(tmp_path):
    """Each act is a row with its actions as they stand in the transcript, and so is each call; derived events are not."""
    run = played(steps=5, folder=tmp_path / "run")
    with Store.open(tmp_path / "run" / "run.sqlite") as store:
        rows = list(read_rows(store))
        header = read_header(store)
    acts = [row for row in rows if isinstance(row, ActRow)]
    assert len({(row.agent, row.step) for row in acts}) == len(acts) == 5 * len(run.agent_names)
    actions = run.recorder.read("actions").columns
    told = sorted(zip(*(actions[name].tolist() for name in ("step", "agent", "sequence", "action", "target", "content")), strict=True))  # fmt: skip
    assert told == sorted(
        (row.step, row.agent, place, kind, target, content)
        for row in acts
        for place, (kind, content, target) in enumerate(row.actions)
    )
    families = {row.family for row in rows if isinstance(row, EventRow)}
    assert CallDone.family in families
    assert ActionTaken.family not in families
    assert (header.seed, header.steps, header.world) == (7, 5, run.world.to_dict())


def test_a_full_journal_is_an_event_and_costs_nothing_but_time(tmp_path):
    """Past journal_max_bytes an alert says what it means; a resumed run asks for the rest anew and comes to the same."""
    limits = tl.Limits(recent_max_records=20, journal_max_bytes=20_000)
    run = played(steps=12, limits=limits, folder=tmp_path / "run")
    assert run.frames.alerts["kind"].tolist() == ["journal_max_bytes"]
    with pytest.raises(tl.RunError, match=r"journal was full before step 11 was over: a fork may begin at step \d"):
        run.fork(at_step=11, folder=tmp_path / "fork")
    assert not (tmp_path / "fork").exists()
    again = tl.Run.resume(tmp_path / "run")
    assert again.progress().step < 11
    again.start().wait(60)
    assert sha(again) == sha(run)
    assert again.frames.calls.query("source == 'cache'").size > 0
    with Store.open(tmp_path / "run" / "run.sqlite") as store:
        assert any(isinstance(row, EndRow) for row in read_rows(store))


def test_what_a_text_takes_does_not_depend_on_who_has_read_it():
    """A text beyond ASCII grows when it is first written as UTF-8; a memory's byte count has it in from the beginning."""
    for text in ("Dagný".join(["", " said: ten euros."]), "plain", "日本語" + chr(0x10FFFF)):
        before = text_bytes(text)
        msgspec.msgpack.encode(text)
        assert text_bytes(text) == before >= sys.getsizeof(text)


# ---------------------------------------------------------------------- going on


@pytest.mark.parametrize("order", ["lockstep", "free"])
@pytest.mark.parametrize("consolidate", ["extracted", "model"])
def test_a_run_that_was_broken_off_comes_to_the_same_end(tmp_path, order, consolidate):
    """Stopped in the middle of its calls and resumed twice, transcript, memories and frames are those of an undisturbed run."""
    options = {"order": order, "consolidate": consolidate, "steps": 10}
    model = tl.ScriptedModel(7, latency_s=0.002, latency_sigma=1.0)
    whole = played(**options)
    run = quick_run(
        "town", model=model, limits=tl.Limits(recent_max_records=20), folder=tmp_path / "run", **options
    ).start()
    for acts in (60, 140):
        eventually("it is under way", lambda acts=acts, run=run: run.progress().acts_done >= acts)
        run.stop(now=True)
        run.wait(60)
        run = watched(tl.Run.resume(tmp_path / "run", model)).start()
    run.wait(60)
    assert sha(run) == sha(whole)
    assert run.at_the_end == whole.at_the_end
    assert len(run.frames.acts) == len(whole.frames.acts)
    assert run.frames.acts.groupby(["step", "agent"], observed=True).size().max() == 1
    assert run.recorder.count("consolidations") == whole.recorder.count("consolidations") > 0
    assert "InexactPast" not in run.frames.errors["kind"].tolist()
    assert run.frames.acts["at_s"].is_monotonic_increasing


def test_what_happened_from_outside_is_lived_through_again(tmp_path):
    """Limits, what the run was told and a remembered interview come again at their steps, each once."""
    run = quick_run(steps=9, limits=tl.Limits(recent_max_records=50), folder=tmp_path / "run")
    run.step(3)
    run.wait(30, until="paused")
    run.limits.update(recent_max_records=9, agents=[run.agent_names[1]], note="one only")
    run.tell("The price has doubled.")
    answer = run.ask(run.agent_names[0], "What do you think of lamps?", remember=True)
    run.step(3)
    run.wait(30, until="paused")
    run.stop()
    run.wait(30)
    again = tl.Run.resume(tmp_path / "run")
    assert again.limits.for_agent(again.agent_names[1]).recent_max_records == 9
    again.start(paused=True)
    eventually("the past is lived through", lambda: again.progress().acts_done == 6 * len(run.agent_names))
    assert sha(again) == sha(run)
    watched(again).resume()
    again.wait(30)
    records = [record.text for record in again.at_the_end[0][0]]
    assert records.count("The price has doubled.") == 1
    assert sum(answer in text for text in records) == 1
    assert again.frames.limits[["field", "effective_step", "note"]].values.tolist() == [
        ["recent_max_records", 3, "one only"]
    ]


def test_a_resumed_run_may_play_on_for_longer(tmp_path):
    """A run that had ended goes on for more steps, and is then the longer run."""
    short, whole = played(steps=4, folder=tmp_path / "run"), played(steps=7)
    run = watched(tl.Run.resume(tmp_path / "run", steps=7)).start().wait(60)
    assert sha(short) != sha(run) == sha(whole)
    assert run.at_the_end == whole.at_the_end


def test_interventions_that_were_called_are_not_called_again(tmp_path):
    """What an intervention did before the end of the first life stays done, and those to come are called in the second."""
    calls = []

    def rumour(run):
        calls.append(run.progress().step + 1)
        run.tell(f"Rumour {len(calls)}.")

    def make():
        return [tl.Intervention(rumour, at=(1, 3)), tl.Intervention(rumour, when=lambda run: True, once=True)]

    whole = played(steps=5, interventions=make())
    assert calls == [0, 1, 3]
    calls.clear()
    run = quick_run("town", steps=5, limits=tl.Limits(recent_max_records=20), folder=tmp_path / "run", interventions=make())  # fmt: skip
    run.step(2)
    run.wait(30, until="paused")
    run.stop()
    run.wait(30)
    with pytest.raises(tl.CheckpointError, match="interventions of this run are rumour, rumour"):
        tl.Run.resume(tmp_path / "run")
    run = tl.Run.resume(tmp_path / "run", interventions=make()).start().wait(60)
    assert calls == [0, 1, 3]
    assert sha(run) == sha(whole)


def test_a_past_that_another_embedder_would_make_is_told_of(tmp_path):
    """Resumed without the embedder that merged and recalled, the run says that its past is not quite what it was."""
    run = quick_run("town", steps=10, folder=tmp_path / "run", limits=tl.Limits(recent_max_records=12)).start().wait(60)
    assert run.recorder.count("dedups") > 0
    again = tl.Run.resume(tmp_path / "run", steps=11, embedder=None).start().wait(60)
    assert again.frames.errors["kind"].tolist() == ["InexactPast"]
    assert not again.deterministic


def test_a_resumed_run_is_asked_when_it_has_lived_through_its_past(tmp_path):
    """Before its start an interview is refused; from then on it waits for the past. One before the first start survives."""
    run = quick_run("town", steps=8, folder=tmp_path / "run")
    name = run.agent_names[0]
    early = run.ask(name, "Who are you?", remember=True)
    run.start().wait(60)
    again = watched(tl.Run.resume(tmp_path / "run", steps=9))
    with pytest.raises(tl.RunError, match="yet to live through its past"):
        again.ask(name, "Who are you?")
    again.start(paused=True)
    assert again.ask(name, "What do you think of the ferry?")
    assert again.recorder.count("acts") == 8 * len(run.agent_names)
    again.resume()
    again.wait(60)
    assert sum(early in record.text for record in again.at_the_end[0][0]) == 1
    assert "InexactPast" not in again.frames.errors["kind"].tolist()
    assert again.ask(name, "And after the end?")


def test_what_an_earlier_life_has_spent_counts_against_the_budget(tmp_path):
    """A resumed run pauses where the run would have paused that was not broken off; a fork begins with nothing spent."""
    limits = tl.Limits(max_tokens=60_000, max_concurrency=1)
    run = quick_run(steps=9, limits=limits, folder=tmp_path / "run")
    run.step(2)
    run.wait(30, until="paused")
    spent = int(run.frames.calls[["tokens_in", "tokens_out"]].sum().sum())
    fork = run.fork(steps=3)
    run.stop()
    run.wait(30)
    again = tl.Run.resume(tmp_path / "run", cache=False).start()
    again.wait(30, until="paused")
    assert again.paused_for.startswith("max_tokens")
    total = int(again.frames.calls[["tokens_in", "tokens_out"]].sum().sum())
    assert spent < total <= 60_000
    again.stop(now=True)
    again.wait(30)
    assert 0 < fork.start().wait(30)._engine.pipeline.sender.budget.tokens < total - spent


# ---------------------------------------------------------------------- forks


def test_a_fork_has_the_past_of_its_run_and_its_own_future():
    """Two runs from one checkpoint: the same up to it, different under other limits after it, the same under the same."""
    run = quick_run("town", steps=12, limits=tl.Limits(recent_max_records=60))
    run.step(6)
    run.wait(30, until="paused")
    same, other = run.fork(), run.fork({"recent_max_records": 6})
    assert (same.forked_at, other.forked_at) == (6, 6)
    run.resume()
    for each in (same, other):
        each.start()
    for each in (run, same, other):
        each.wait(60)
    assert sha(same) == sha(run) != sha(other)
    assert memories(same) == memories(run)
    frames = [each.frames.memory.sort_values(["step", "agent"]) for each in (run, other)]
    before = [frame[frame["step"] < 6].drop(columns=["at_s", "total_bytes"]).to_numpy().tolist() for frame in frames]
    after = [frame[frame["step"] >= 6]["recent_records"].max() for frame in frames]
    assert before[0] == before[1]
    assert after[0] > 6 >= after[1]
    assert other.frames.limits[["field", "new", "note", "effective_step"]].values.tolist() == [
        ["recent_max_records", 6.0, "fork", 6]
    ]
    assert other.limits.recent_max_records == 6
    assert run.limits.recent_max_records == 60


def test_a_fork_may_begin_anywhere_in_the_past_and_while_its_run_plays(tmp_path):
    """Of a run that is going on in free order, forks at several steps come to its end, without asking for what was answered."""
    model = tl.ScriptedModel(7, latency_s=0.004, latency_sigma=1.0)
    run = quick_run("town", model=model, order="free", steps=12, folder=tmp_path / "run").start()
    eventually("it is under way", lambda: run.progress().acts_done >= 120)
    forks = [run.fork(), run.fork(at_step=1), run.fork(at_step=0, folder=tmp_path / "fork")]
    run.wait(60)
    forks.append(run.fork(at_step=5))
    for fork in forks:
        fork.start().wait(60)
        assert sha(fork) == sha(run)
    calls = forks[2].frames.calls
    assert set(calls["source"]) == {"cache"}
    assert tl.Run.resume(tmp_path / "fork", steps=13).start().wait(60).forked_at == 0
    assert forks[3].fork(at_step=3).start().wait(60).forked_at == 3


def test_a_fork_inherits_the_limits_of_its_step_or_of_now():
    """The latest fork has the limits that its run has now; one of an earlier step has those of that step."""
    run = quick_run(steps=9, limits=tl.Limits(recent_max_records=90))
    for steps, cap in ((3, 50), (3, 30)):
        run.step(steps)
        run.wait(30, until="paused")
        run.limits.update(recent_max_records=cap)
    assert [run.fork(at_step=step).limits.recent_max_records for step in (2, 3, 5, None)] == [90, 50, 50, 30]
    run.stop()
    run.wait(30)


def test_a_fork_may_have_other_interventions():
    """What was called before the fork stays done; from its first step on the fork's own are called, those that its run had no more."""
    calls = []

    def before(run):
        calls.append(("before", run.progress().step + 1))

    def after(run):
        calls.append(("after", run.progress().step + 1))

    run = played("product_launch", steps=6, interventions=[tl.Intervention(before, at=(1, 4))])
    run.fork(at_step=3, interventions=[tl.Intervention(after, when=lambda run: True, once=True)]).start().wait(60)
    run.fork(at_step=3).start().wait(60)
    assert calls == [("before", 1), ("before", 4), ("after", 3), ("before", 4)]


def test_a_fork_where_nothing_is_to_be_played_is_refused():
    """A step nobody has reached, none left to play, and an unknown limit are refused, and the run goes on unharmed."""
    run = played(steps=3)
    with pytest.raises(tl.RunError, match="no step is left"):
        run.fork()
    with pytest.raises(tl.RunError, match="from 0 to 3, not 4"):
        run.fork(at_step=4, steps=9)
    with pytest.raises(tl.LimitError):
        run.fork({"recent_max_rekords": 5}, at_step=1)
    assert run.fork(steps=5).start().wait(60).progress().acts_done == 5 * len(run.agent_names)


def test_a_run_that_was_not_started_can_be_forked(tmp_path):
    """Its fork has no past, and the limits that the run has; in a folder it keeps its replies there."""
    run = quick_run(steps=2, limits=tl.Limits(recent_max_records=33))
    fork = run.fork({"recent_max_bytes": 50_000}, folder=tmp_path / "fork")
    assert (fork.limits.recent_max_records, fork.limits.recent_max_bytes) == (33, 50_000)
    assert sha(fork.start().wait(30)) == sha(run.start().wait(30))
    assert (tmp_path / "fork" / "replies.sqlite").is_file()


# ---------------------------------------------------------------------- side by side


def test_many_runs_play_side_by_side_each_in_a_store_of_its_own(tmp_path):
    """Four runs in one kernel, in folders and without, do not disturb each other; a folder that is open is refused."""
    alone = played(steps=6)
    model = tl.ScriptedModel(7, latency_s=0.002)
    limits = tl.Limits(recent_max_records=20)
    runs = [
        quick_run("town", model=model, steps=6, limits=limits, order=order, folder=folder)
        for order, folder in (
            ("free", tmp_path / "a"),
            ("lockstep", tmp_path / "b"),
            ("free", None),
            ("lockstep", None),
        )
    ]
    for run in runs:
        watched(run).start(paused=True)
    assert set(runs) <= set(tl.runs())
    with pytest.raises(tl.StoreLockedError, match="open"):
        tl.Run.resume(tmp_path / "a")
    with pytest.raises(tl.RunError, match="holds a run already"):
        quick_run(folder=tmp_path / "a")
    for run in runs:
        run.resume()
    for run in runs:
        run.wait(60)
        assert sha(run) == sha(alone)
        assert run.at_the_end == alone.at_the_end


def test_controls_answer_while_the_past_is_lived_through(tmp_path):
    """A resumed run can be paused, stopped and asked while it still lives through its past."""
    played(steps=12, folder=tmp_path / "run")
    run = tl.Run.resume(tmp_path / "run", steps=13)
    run.start()
    run.stop(now=True)
    assert run.wait(60).state == "stopped"
    again = tl.Run.resume(tmp_path / "run", steps=13).start().wait(60)
    assert again.progress().acts_done == 13 * len(again.agent_names)


def test_the_rows_of_limits_and_of_what_was_told_say_by_whom(tmp_path):
    """A user's change and an intervention's stand in the journal with who made them."""

    def news(run):
        run.limits.update(by="news", recent_max_records=12)
        run.tell("News.")

    run = quick_run(steps=3, folder=tmp_path / "run", interventions=[tl.Intervention(news, at=1)])
    run.start().wait(30)
    with Store.open(tmp_path / "run" / "run.sqlite") as store:
        rows = list(read_rows(store))
    assert [(row.from_step, row.by) for row in rows if isinstance(row, LimitRow)] == [(1, "news")]
    assert [(row.step, row.by) for row in rows if isinstance(row, ToldRow)] == [(1, "news")]


def test_starting_from_several_threads_at_once_starts_one(tmp_path):
    """Of many threads that start a resumed run, one does, and the others are told."""
    played(steps=2, folder=tmp_path / "run")
    run = tl.Run.resume(tmp_path / "run", steps=3)
    refused = []

    def start():
        try:
            run.start()
        except tl.RunError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 4
    run.wait(30)


def test_a_run_with_a_model_of_ones_own_wants_it_again(tmp_path):
    """What is no ScriptedModel cannot be kept in a folder: resume says so, and takes the model when it is given."""

    class Own:
        name = "own"

        async def complete(self, request):
            await asyncio.sleep(0)
            return tl.Reply('{"actions": [{"type": "DONE"}]}', 1, 1, 0.0, self.name)

    played("product_launch", model=Own(), steps=2, folder=tmp_path / "run")
    with pytest.raises(tl.CheckpointError, match="'own': give it again"):
        tl.Run.resume(tmp_path / "run")
    assert tl.Run.resume(tmp_path / "run", Own(), steps=3).start().wait(30).state == "done"
