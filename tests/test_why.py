"""Why this jump: looking back on an act names every record that came or left, and the tab shows it."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import pytest
from browser.stand_in import StandInRun
from helpers import eventually, quick_run, sha
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.evidence import Point, act_at, evidence
from troupelab.dashboard.why_tab import WhyTab
from troupelab.errors import CheckpointError, RunError
from troupelab.events import CallDone, Consolidated, MemorySized
from troupelab.hindsight import look_back
from troupelab.models.model import Reply, Request
from troupelab.telemetry.journal import ActRow, EndRow, read_header, read_rows, write_past
from troupelab.telemetry.recorder import Recorder

LAMP = "The lamp cost 4711 crowns."
EVIL = "<img src=x onerror=alert(1)>"


class Listening:
    """A model that keeps what it is asked for."""

    name = "listening"

    def __init__(self) -> None:
        self.inner = tl.ScriptedModel(7, latency_s=0.0)
        self.asked: dict[tuple[int, int], list[tuple[tuple[str, str], ...]]] = defaultdict(list)

    async def complete(self, request: Request) -> Reply:
        """Answer as the scripted model does."""
        if request.purpose == "act":
            messages = tuple((each.role, each.content) for each in request.messages)
            self.asked[request.agent, request.step].append(messages)
        return await self.inner.complete(request)


def planted(text: str = LAMP, *, at: int = 2, steps: int = 6, **limits: object) -> tl.Run:
    """A run in which the first agent alone is told something at a step, and limits change for the step after; it is over."""
    run = quick_run(steps=steps, limits=tl.Limits(recent_max_records=60), consolidate="extracted")
    run.start(paused=True)
    run.step(at)
    run.wait(60, until="paused")
    assert run.tell(text, to=run.agent_names[0]) == at
    run.step()
    run.wait(60, until="paused")
    if limits:
        run.limits.update(note="smaller window", **limits)
    run.resume()
    return run.wait(60)


def the_lamp(moment: tl.engine.moment.Moment, text: str = LAMP) -> list[tuple[str, int]]:
    """What became of the planted record in an act, and its id."""
    return [(fate.what, fate.record_id) for fate in moment.records if fate.text == text]


# ------------------------------------------------------------------ one record behind a jump


@pytest.mark.parametrize(
    ("limits", "fate", "reason"),
    [
        ({"recent_max_records": 4}, "condensed", "recent_max_records was lowered from 60 to 4 (note: smaller window)"),
        ({"max_age_steps": 1}, "dropped", "max_age_steps"),
    ],
)
def test_the_record_behind_a_jump_is_named(limits, fate, reason):
    """A record that was planted is stored in its step, and leaves in the step whose limit took it, by that limit's name."""
    run = planted(**limits)
    name = run.agent_names[0]
    ((what, key),) = the_lamp(run.moment(name, 2))
    assert what == "stored"
    moments = [run.moment(name, step) for step in range(3, 7)]
    left = [(moment, found) for moment in moments for found in moment.records if found.text == LAMP]
    assert len(left) == 1
    moment, found = left[0]
    assert (found.record_id, found.what, found.step_of_origin) == (key, fate, 2)
    assert reason in found.why
    assert reason in moment.sentence
    assert any("4711" in note for note in found.into)
    assert all(moment.exact for moment in moments)
    if fate == "condensed":
        assert moment.step == 3
        assert moment.changes == (reason,)
        note = next(note for note in moment.notes if "4711" in note.text)
        assert (note.made_at, note.visible_from) == (3, 4)
        later = run.moment(name, 4).notes
        assert any((each.text, each.visible_from) == (note.text, 4) for each in later)


def test_records_that_are_only_archived_say_so():
    """Without notes, what leaves recent memory is archived, and nothing has taken its place."""
    run = quick_run("town", steps=5, consolidate="off", limits=tl.Limits(recent_max_records=5)).start().wait(60)
    fates = [fate for step in range(5) for fate in run.moment(0, step).records]
    assert {fate.what for fate in fates} >= {"stored", "archived"}
    assert "condensed" not in {fate.what for fate in fates}
    assert all(not fate.into for fate in fates if fate.what == "archived")


def test_what_is_said_twice_is_merged_and_names_what_took_it_in():
    """A text that comes again takes the earlier record in; the later moment names both ids."""
    run = quick_run(steps=4).start(paused=True)
    for _ in range(2):
        run.tell(LAMP, to=run.agent_names[0])
        run.step()
        run.wait(60, until="paused")
    run.resume()
    run.wait(60)
    ((_, first),) = the_lamp(run.moment(0, 0))
    found = {fate.what: fate for fate in run.moment(0, 1).records if fate.text == LAMP}
    assert found["merged"].record_id == first
    assert found["merged"].into_id == found["stored"].record_id
    assert found["merged"].into == (LAMP,)


def test_a_note_that_is_dropped_is_named():
    """A cap on notes names each note that it dropped, by its text."""
    run = quick_run(steps=8, limits=tl.Limits(recent_max_records=6, semantic_max_notes=2)).start().wait(60)
    moments = [run.moment(0, step) for step in range(9)]
    forgotten = [fate.text for moment in moments for fate in moment.records if fate.what == "forgotten note"]
    made = [note.text for moment in moments for note in moment.notes if note.made_at == moment.step]
    left = [note.text for note in run._stage.agents[0].memory.notes]
    assert forgotten
    assert sorted([*forgotten, *left]) == sorted(made)


# ------------------------------------------------------------------ exact, for all acts


def test_every_prompt_is_the_one_that_was_sent():
    """For every agent and step, the prompt that is rebuilt is what the model was asked."""
    model = Listening()
    run = quick_run("town", model=model, steps=5, limits=tl.Limits(recent_max_records=8)).start().wait(60)
    assert len(model.asked) == 5 * len(run.agent_names)
    for (agent, step), prompts in model.asked.items():
        moment = run.moment(agent, step)
        assert (moment.prompt, moment.exact, moment.remark) == (prompts[-1], True, "")


@settings(max_examples=8, deadline=None)
@given(
    st.integers(4, 30), st.sampled_from([None, 1, 3]), st.sampled_from([None, 1, 4]), st.sampled_from([None, 0.9, 1.0]),
    st.sampled_from(["extracted", "model", "off"]), st.sampled_from([None, 5]),
)  # fmt: skip
def test_every_record_is_accounted_for_once(cap, age, notes, similarity, consolidate, later):
    """Whatever the limits: from act to act, what was there and came is what is there and left, and nothing is told twice."""
    limits = tl.Limits(recent_max_records=cap, max_age_steps=age, semantic_max_notes=notes, dedup_similarity=similarity)
    run = quick_run(steps=4, limits=limits, consolidate=consolidate).start(paused=True)
    run.step(2)
    run.wait(60, until="paused")
    if later:
        run.limits.update(recent_max_records=later)
    run.resume()
    run.wait(60)
    live = run._stage.agents[1].memory
    there: dict[int, str] = {}
    for step in range(5):
        moment = run.moment(1, step)
        assert moment.exact
        ids = [fate.record_id for fate in moment.records if fate.what != "forgotten note"]
        assert len(ids) == len(set(ids))
        for fate in moment.records:
            if fate.what in ("stored", "condensed", "archived"):
                there[fate.record_id] = fate.what
            elif fate.what != "forgotten note":
                there.pop(fate.record_id, None)
        assert moment.settled is not None
        assert sum(what == "stored" for what in there.values()) == moment.settled.recent_records
        assert sum(what != "stored" for what in there.values()) == moment.settled.archive_records
    assert {record.id for record in live.between(0, 99)} == set(there)
    recorded = run.frames.memory.query("agent == @run.agent_names[1]")
    told = [run.moment(1, step).after for step in range(5)]
    assert [each.recent_bytes for each in told if each] == recorded.recent_bytes.tolist()


# ------------------------------------------------------------------ runs of all kinds


def test_forks_and_resumed_runs_can_be_looked_back_on(tmp_path):
    """A fork knows its parent's past and its own; a resumed run knows its earlier life; both agree with the first run."""
    run = planted(recent_max_records=4)
    fork = run.fork({"recent_max_records": 30}, at_step=3).start().wait(60)
    assert fork.moment(0, 2).records == run.moment(0, 2).records
    assert fork.moment(0, 4).exact
    first = quick_run(steps=3, folder=tmp_path / "town").start().wait(60)
    before = first.moment(0, 2)
    second = tl.Run.resume(tmp_path / "town", steps=5).start().wait(60)
    assert second.moment(0, 2).records == before.records
    assert second.moment(0, 4).exact


def test_a_run_that_is_looked_into_goes_on_as_if_nobody_had():
    """Looking back, again and again while the run goes on, changes nothing of what is done."""
    quiet = quick_run("town", steps=8, limits=tl.Limits(recent_max_records=10)).start().wait(60)
    run = quick_run(
        "town", steps=8, limits=tl.Limits(recent_max_records=10), model=tl.ScriptedModel(7, latency_s=0.01)
    ).start()
    looked = 0
    while run.state == "running":
        with contextlib.suppress(RunError):
            looked += run.moment(0, max(0, run.progress().step - 1)).exact
    run.wait(60)
    assert looked > 0
    assert sha(run) == sha(quiet)


def test_an_interview_and_what_follows_the_last_step_are_moments_too():
    """What was asked aside is stored by the next act; one step beyond the last is the delivery of what was said in that."""
    run = quick_run(steps=3).start(paused=True)
    run.step(1)
    run.wait(60, until="paused")
    run.ask(run.agent_names[0], "What did the lamp cost?", remember=True)
    run.resume()
    run.wait(60)
    assert "What did the lamp cost?" in [fate.text for fate in run.moment(0, 1).records]
    last = run.moment(0, 3)
    assert (last.prompt, last.reply) == ((), "")
    assert {fate.source for fate in last.records if fate.what == "stored"} - {run.agent_names[0]}


def test_what_is_not_known_is_refused_in_a_sentence():
    """An unknown agent, a step that is to come, a run that has yet to begin, and a journal that was full are refused."""
    run = quick_run(steps=2)
    with pytest.raises(RunError, match="yet to begin"):
        run.moment(0, 0)
    run.start().wait(60)
    with pytest.raises(RunError, match="no agent 'Nobody'"):
        run.moment("Nobody", 0)
    for step in (-1, 3, 99):
        with pytest.raises(RunError, match="step"):
            run.moment(0, step)
    with run._file.reading(run._engine.keeper, run._engine.handover) as store:
        header, rows = read_header(store), list(read_rows(store))
    assert header is not None
    fresh = tl.store.Store.temporary()
    with fresh:
        acts = [row for row in rows if not (isinstance(row, ActRow) and row.step == 1)]
        write_past(fresh, header, [*acts, EndRow(1.0)])
        for step, known in ((0, True), (1, False)):
            reading = contextlib.nullcontext(fresh)
            if known:
                assert look_back(reading, 0, step, embedder=run._embedder).exact
            else:
                with pytest.raises(CheckpointError, match="journal was full"):
                    look_back(reading, 0, step, embedder=run._embedder)


def test_another_embedder_is_told_by_the_moment():
    """Where the prompt that is rebuilt is not the one that was sent, the moment says so."""
    run = quick_run("town", steps=14, limits=tl.Limits(recent_max_records=4)).start().wait(60)
    with run._file.reading(run._engine.keeper, run._engine.handover) as store:
        moments = [look_back(contextlib.nullcontext(store), agent, 13, embedder=None) for agent in range(8)]
    strayed: Sequence[tl.engine.moment.Moment] = [moment for moment in moments if not moment.exact]
    assert strayed
    assert all("not the one that was sent" in moment.sentence for moment in strayed)


def test_a_moment_shows_itself_in_a_notebook():
    """Its HTML escapes what was said; its frame has a row for each record."""
    run = planted(f"{EVIL} 4711", recent_max_records=4)
    moment = run.moment(0, 3)
    page = moment._repr_html_()
    assert EVIL not in page
    assert "&lt;img src=x onerror=alert(1)&gt; 4711" in page
    frame = moment.to_frame()
    assert frame.record_id.tolist() == [fate.record_id for fate in moment.records]


# ------------------------------------------------------------------ in the dashboard


@pytest.fixture
def why() -> Iterator[Callable[..., tuple[Dashboard, WhyTab]]]:
    """Shows a run, and gives its dashboard and tab."""
    shown = []

    def show(run):
        shown.append(Dashboard(run))
        eventually("the tab knows the run", lambda: shown[-1]._tabs["why this jump?"].run is run)
        tab = shown[-1]._tabs["why this jump?"]
        assert isinstance(tab, WhyTab)
        return shown[-1], tab

    yield show
    for dashboard in shown:
        dashboard.close()


def of_step(run: tl.Run, agent: int, step: int) -> float:
    """When an agent's memory was measured after a step."""
    rows = run.recorder.read("memory").columns
    return float(rows["at_s"][(rows["agent"] == agent) & (rows["step"] == step)][0])


def test_a_click_on_a_line_names_the_record_behind_the_jump(why):
    """Clicking the first agent's line where it falls brings the tab forward, with the record's id and text, why it went, prompt and reply."""
    run = planted(f"{EVIL} 4711 crowns", recent_max_records=4)
    ((_, key),) = the_lamp(run.moment(0, 2), f"{EVIL} 4711 crowns")
    dashboard, tab = why(run)
    eventually("the panel has the agent", lambda: dashboard._panels and 0 in dashboard._panels.memory.chosen)
    place = 5 + dashboard._panels.memory.chosen.index(0)
    dashboard._live.clicked("memory", place, of_step(run, 0, 3), 4.0)
    eventually("it is found", lambda: str(key) in tab.found.value)
    assert dashboard._tabs.box.selected_index == [each.name for each in dashboard._tabs.tabs].index("why this jump?")
    assert (tab.agent.value, tab.step.value) == (0, 3)
    assert "recent_max_records was lowered from 60 to 4 (note: smaller window)" in tab.told.value
    assert "&lt;img src=x onerror=alert(1)&gt; 4711 crowns" in tab.found.value
    assert "<img" not in tab.told.value + tab.facts.value + tab.found.value
    assert "the prompt</summary>" in tab.found.value
    assert "cognitive_state" in tab.found.value
    assert "recent_max_records: 60 records → 4 records (smaller window)" in tab.facts.value
    tab.earlier.click()
    eventually("the step before", lambda: "condensed" not in tab.found.value and str(key) in tab.found.value)
    assert tab.step.value == 2
    tab.agent.value = 1
    eventually("somebody else", lambda: run.agent_names[1] in tab.told.value and "looking" not in tab.told.value)
    assert "4711" not in tab.told.value


def test_points_of_all_panels_lead_to_an_act():
    """A call is the slowest near its time, a dot its agent's act, and what shows everybody is the act that changed most there."""
    recorder = Recorder()
    for step, (agent, records, latency) in enumerate([(0, 5, 0.2), (1, 40, 2.5), (0, 12, 3.0), (1, 10, 0.3)]):
        at_s = float(step + 1)
        recorder.emit(
            CallDone(at_s, step, agent, "act", latency, latency * 0.9, 5, 1, 0.0, False, 1, "", "model", 0, 0.0)
        )
        recorder.emit(MemorySized(at_s, step, agent, records, records * 100, 0, 0, 0, 0, 0))
    recorder.emit(Consolidated(4.0, 3, 1, "high water", 30, 2, 3000, 500, 0.5, 0.0, 0))
    assert act_at(recorder, Point("latency", 2.5, 2.0)) == (0, 2)
    assert act_at(recorder, Point("latency", 0.1, 0.1)) == (0, 0)
    assert act_at(recorder, Point("memory", 3.5, 1.0)) == (1, 3)
    assert act_at(recorder, Point("memory", 3.5, 1.0, agent=0)) == (0, 2)
    assert act_at(recorder, Point("consolidations", 9.0, 0.0, agent=1)) == (1, 3)
    assert act_at(Recorder(), Point("memory", 1.0, 1.0)) is None
    told = evidence(recorder, ["Ann", "Bo"], 0, 2, asked="latency").sentence
    assert told.startswith("Ann's call of step 2 took 3 s: 2.7 s in the queue, with 1 other call under way")
    assert "0.3 s at the model" in told
    assert "Bo's recent memory fell, from 40 records to 10 records (−3 kB), at step 3" in (
        evidence(recorder, ["Ann", "Bo"], 1, 3).sentence
    )


def test_what_cannot_be_looked_back_on_shows_what_was_recorded(why):
    """For a run without a journal in this kernel the tab shows the recorder's part and says so; a step to come is refused in a sentence."""
    stand_in = StandInRun(3)
    for number in range(30):
        stand_in.act(number / 10)
    dashboard, tab = why(stand_in)
    dashboard._live.clicked("latency", 1, 1.0, 0.01)
    eventually("it says so", lambda: "cannot be looked back on" in tab.told.value)
    assert "recent memory" in tab.facts.value
    assert tab.found.value == ""
    run = quick_run(steps=3).start(paused=True)
    dashboard, tab = why(run)
    tab.again.click()
    eventually("it is refused", lambda: "no step 0 of it to look back on" in tab.told.value)
    tab.step.value = 2
    eventually("it is refused", lambda: "no step 2 of it to look back on" in tab.told.value)
    run.stop()
    run.wait(60)


def test_an_adopted_world_gives_what_was_kept(tinytroupe, tmp_path):
    """Of TinyTroupe's own persons no prompt can be rebuilt: the moment has actions and values, and says so."""
    from townsfolk import HOUR, people, world_of

    from troupelab.bridges.tinytroupe.adopt import adopt

    world = world_of(tinytroupe, people(tinytroupe, 3))
    with adopt(world, tl.ScriptedModel(7, latency_s=0.0), steps=2, step_time=HOUR, folder=tmp_path / "run") as run:
        run.start().wait(60)
        moment = run.moment(0, 1)
        assert (moment.agent, moment.exact, moment.prompt) == (run.agent_names[0], False, ())
        assert "TinyTroupe" in moment.sentence
        assert "actions" in moment.reply
        assert any(fate.text for fate in moment.records)
        with pytest.raises(RunError, match="no step 5"):
            run.moment(0, 5)
