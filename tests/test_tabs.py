"""The tabs below the panels: search, leafing, interviews, events, errors by kind, and alerts that are acknowledged."""

from __future__ import annotations

import asyncio
import gc
import html
import math
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from browser.stand_in import StandInRun
from helpers import eventually
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab import errors
from troupelab.dashboard import transcript_tab
from troupelab.dashboard.agents_field import AgentsField, completed
from troupelab.dashboard.alerts_tab import ROWS
from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.events_tab import cell
from troupelab.dashboard.interview_tab import ANSWER_CHARACTERS, MOST_AT_ONCE, starters
from troupelab.dashboard.look import for_page, for_plot
from troupelab.dashboard.mends import MENDS, UNKNOWN, mend
from troupelab.dashboard.search import PAGE_ROWS, Found, Query, marked, matching
from troupelab.events import FAMILIES, ActDone, ActionTaken, Alerted, CallDone, Failed, RunChanged
from troupelab.models.model import Reply, Request

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "abc\u202etxt.exe\u2066\u200f",
    "\x00\x1b[31m\x07",
    "x" * 100_000,
    "\ud800 lone",
    "שלום 12",
    "$\\int$ &amp; {{7*7}}",
)


def said(run: StandInRun, rows: Sequence[tuple[int, int, str, str]]) -> None:
    """Put actions into a run's recorder: step, agent, kind and content."""
    for number, (step, agent, action, content) in enumerate(rows):
        run.recorder.emit(ActionTaken(float(number), step, agent, 0, action, "", content))


def numbers_of(page: str) -> list[int]:
    """The numbers that stand at the ends of the rows of a page."""
    return [int(number) for number in re.findall(r"line (\d+)</td></tr>", page)]


# ------------------------------------------------------------------ search

TEXTS = st.text(st.sampled_from("abAB ßİſKe.*[(\u0301é"), max_size=12)
ROWS_OF = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from(["TALK", "THINK", "DONE"]), TEXTS), max_size=40
)


@given(
    rows=ROWS_OF,
    typed=TEXTS,
    agents=st.sets(st.integers(0, 2)),
    action=st.sampled_from(["", "TALK", "THINK"]),
    first=st.integers(0, 5),
    last=st.none() | st.integers(0, 5),
    cut=st.integers(0, 40),
)
@settings(max_examples=150, deadline=None)
def test_search_finds_what_a_plain_filter_finds(
    rows: list[tuple[int, int, str, str]],
    typed: str,
    agents: set[int],
    action: str,
    first: int,
    last: int | None,
    cut: int,
) -> None:
    """Whatever is looked for, in one go or in two, the rows are those that a naive filter of the frame keeps."""
    frame = pd.DataFrame(rows, columns=["step", "agent", "action", "content"])
    query = Query(Query.words_of(typed), tuple(sorted(agents)), action, first, last)
    naive = [
        place
        for place, row in enumerate(rows)
        if row[2] != "DONE"
        and (not action or row[2] == action)
        and row[0] >= first
        and (last is None or row[0] <= last)
        and (not agents or row[1] in agents)
        and all(word in row[3].casefold() for word in typed.casefold().split())
    ]
    found = Found(query)
    for start, part in ((0, frame[:cut]), (min(cut, len(frame)), frame[cut:])):
        columns = {
            "step": part["step"].to_numpy(np.int64),
            "agent": part["agent"].to_numpy(np.int64),
            "action": np.array(part["action"].tolist(), dtype=object),
            "content": np.array(part["content"].tolist(), dtype=object),
        }
        places = matching(query, columns)
        assert places is not None
        found.add(start, start + len(part), places)
    assert found.rows.tolist() == naive


def test_the_code_beside_a_search_finds_the_same_rows() -> None:
    """What is offered as code gives the rows that the search found, quotes in names and words included."""
    run = tl.Run("product_launch", model=tl.ScriptedModel(seed=3), steps=3, seed=3).start().wait(60)
    names = run.agent_names
    frame, columns = run.transcript(), run.recorder.read("actions").columns
    word = next(word for word in frame["content"].iloc[0].casefold().split() if word.isalpha())
    for query in (Query(), Query((word,), (0, 2), "TALK", 1, 2), Query(("it's", '"so"'))):
        kept = eval(query.as_code(names), {"run": run})
        places = matching(query, columns)
        assert places is not None
        assert sorted(kept["content"]) == sorted(columns["content"][places].tolist())
    assert len(eval(Query((word,)).as_code(names), {"run": run})) > 0


@given(texts=st.text(st.sampled_from('aAbß<&>"İ é'), max_size=30), words=st.lists(TEXTS, max_size=3))
@settings(max_examples=200, deadline=None)
def test_marks_stand_around_words_and_change_nothing_else(texts: str, words: list[str]) -> None:
    """Without its marks a marked text is the escaped text, and each mark is around a word that was looked for."""
    wanted = [word for typed in words for word in typed.casefold().split()]
    shown = marked(texts, wanted)
    assert shown.replace("<mark>", "").replace("</mark>", "") == for_page(texts)
    assert ("<mark>" in shown) == any(word in texts.casefold() for word in wanted)


def test_a_word_far_into_a_long_text_is_shown() -> None:
    """Of a text of 100 kB the part that holds the word is shown, and no more than a few hundred characters."""
    shown = marked("x" * 60_000 + " needle " + "y" * 40_000, ["needle"])
    assert "<mark>needle</mark>" in shown
    assert len(shown) < 450


@pytest.mark.parametrize("many", [0, 1, PAGE_ROWS, PAGE_ROWS + 1, 5 * PAGE_ROWS + 17])
def test_leafing_shows_each_match_exactly_once(many: int) -> None:
    """From the newest page to the oldest every match comes once, and leafing back ends where it began."""
    found = Found(Query(), 3 * many, np.arange(many) * 3)
    pages = [found.page().tolist()]
    while found.span()[0]:
        found.older()
        pages.append(found.page().tolist())
    assert [row for page in reversed(pages) for row in page] == found.rows.tolist()
    for page in reversed(pages[:-1]):
        found.newer()
        assert found.page().tolist() == page


def test_rows_that_leave_the_recorder_leave_the_page() -> None:
    """What the ring has dropped is no match any more, and a page that is gone becomes the oldest that there is."""
    found = Found(Query(), 1000, np.arange(1000))
    for _ in range(4):
        found.older()
    found.forget(700)
    assert found.page().tolist() == list(range(700, 900))


# ------------------------------------------------------------------ the transcript's tab


def test_the_whole_transcript_is_searched_and_an_older_page_stays(dashboard: Callable[..., Dashboard]) -> None:
    """A word of long ago is found as one types; an older page stays where it is while rows come; follow goes to the newest."""
    run = StandInRun(["Ann", "Bo"])
    said(
        run,
        [
            (number, number % 2, "TALK", f"The {'Lamp' if number == 3 else 'price'} line {number}")
            for number in range(900)
        ],
    )
    tab: Any = dashboard(run)._tabs["transcript"]
    eventually("the newest", lambda: numbers_of(tab.rows.value)[:1] == [899])
    assert len(numbers_of(tab.rows.value)) == PAGE_ROWS
    tab.older.click()
    eventually("the page before", lambda: numbers_of(tab.rows.value) == list(range(699, 499, -1)))
    assert tab.follow.value is False
    said(run, [(900, 0, "TALK", f"line {number}") for number in range(900, 950)])
    eventually("new rows are counted", lambda: "950 of 950 actions match: 251 to 450" in tab.told.value)
    assert numbers_of(tab.rows.value) == list(range(699, 499, -1))
    tab.follow.value = True
    eventually("the newest again", lambda: numbers_of(tab.rows.value)[:1] == [949])
    tab.search.value = "lAMP the"
    eventually("one match", lambda: "1 of 950 actions match" in tab.told.value)
    eventually("it is marked", lambda: "The</mark> <mark>Lamp</mark> line 3" in tab.rows.value)
    said(run, [(901, 1, "THINK", "the lamp, line 950")])
    eventually("a new match", lambda: numbers_of(tab.rows.value) == [950, 3])
    tab.action.value = "THINK"
    eventually("of a kind", lambda: numbers_of(tab.rows.value) == [950])
    tab.action.value, tab.search.value, tab.agents.tags.value, tab.last.value = "", "", ["bO"], 4
    eventually("by agent and step", lambda: numbers_of(tab.rows.value) == [3, 1])
    assert tab.agents.tags.value == ["Bo"]
    eventually("it stands as code", lambda: "agent in [&#x27;Bo&#x27;]" in tab.code.value)


def test_a_long_transcript_is_looked_through_beside_the_ui_thread(
    dashboard: Callable[..., Dashboard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than are looked at in one go are an errand, and a query that is changed meanwhile wins."""
    monkeypatch.setattr(transcript_tab, "AT_ONCE_ROWS", 100)
    threads: set[str] = set()
    real = transcript_tab.matching

    def watched(*args: Any) -> Any:
        threads.add(threading.current_thread().name)
        return real(*args)

    monkeypatch.setattr(transcript_tab, "matching", watched)
    run = StandInRun(2)
    said(run, [(number // 50, 0, "TALK", f"line {number}") for number in range(5000)])
    tab: Any = dashboard(run)._tabs["transcript"]
    eventually("all of it", lambda: "5,000 of 5,000" in tab.told.value)
    for typed in ("l", "line 4", "line 4999"):
        tab.search.value = typed
    eventually("the last query's rows", lambda: "1 of 5,000 actions match" in tab.told.value)
    eventually("it is marked", lambda: re.sub("</?mark>", "", tab.rows.value).count("line 4999") == 1)
    assert "troupelab-errand" in threads


# ------------------------------------------------------------------ interviews


class Sulky:
    """Answers as scripted, but not to those whose question holds a word; can be made to wait."""

    def __init__(self) -> None:
        self.name = "sulky"
        self.inner = tl.ScriptedModel(seed=1)
        self.may_go = threading.Event()
        self.may_go.set()

    async def complete(self, request: Request) -> Reply:
        """The reply of the scripted model."""
        await asyncio.to_thread(self.may_go.wait, 30)
        if "zanzibar" in str(request.messages):
            raise errors.ModelSetupError("the key <b>is</b> wrong")
        return await self.inner.complete(request)


def test_agents_answer_in_the_tab_while_the_run_goes_on(dashboard: Callable[..., Dashboard]) -> None:
    """Several questions are under way at once, answers and refusals stand in the chat, and the run ends as it would have."""
    model = Sulky()
    run = tl.Run("product_launch", model=model, steps=2, seed=1, cache=False)
    tab: Any = (shown := dashboard(run))._tabs["interview"]
    eventually("the agents", lambda: len(tab.agent.options) == 8)
    eventually("what to do is said", lambda: "will appear here" in tab.chat.value)
    tab.starters[0].click()
    eventually("a starter fills the field", lambda: "What do you make of this" in tab.question.value)
    assert "Pebble" in tab.question.value
    model.may_go.clear()
    for question in ("What is 1 < 2?", "What of zanzibar?"):
        tab.question.value = question
        tab.question._handle_custom_msg({"event": "submit"}, [])
        eventually("it is asked", lambda question=question: html.escape(question) in tab.chat.value)
    assert tab.chat.value.count("waiting for the answer") == 2
    model.may_go.set()
    eventually("both came", lambda: "waiting" not in tab.chat.value)
    assert "the key &lt;b&gt;is&lt;/b&gt; wrong" in tab.chat.value
    assert tab.chat.value.count("troupelab-answer") == 1
    tab.remember.value = True
    eventually("what remembering does is said", lambda: "may change what it does" in tab.explained.value)
    run.start().wait(60)
    tab.question.value = "And now?"
    tab.button.click()
    eventually("an ended run remembers nothing, and says so", lambda: "the run has ended" in tab.chat.value)
    other = StandInRun(["Ann"])
    shown.attach(other)
    eventually("whoever cannot answer says so", lambda: "Nobody can answer here" in tab.told.value)
    eventually("the field is shut", lambda: tab.question.disabled)
    eventually("what was asked of the other run is gone", lambda: "And now?" not in tab.chat.value)
    shown.attach(run)
    eventually("what was asked is kept", lambda: "And now?" in tab.chat.value)
    eventually("the field is open", lambda: not tab.question.disabled)


class Answering(StandInRun):
    """Answers what it is told to, when it is let."""

    def __init__(self, answer: str) -> None:
        super().__init__(["Ann"])
        self.answer = answer
        self.may_go = threading.Event()

    def ask(self, agent: str, question: str, *, remember: bool, timeout_s: float) -> str:
        """The answer."""
        self.may_go.wait(30)
        return self.answer


def test_so_many_questions_wait_and_long_answers_are_shortened(dashboard: Callable[..., Dashboard]) -> None:
    """Nobody is asked without end, an empty question is refused, and 100 kB of answer become 20 kB of text."""
    run = Answering("<b>" + "y" * 100_000)
    tab: Any = dashboard(run)._tabs["interview"]
    eventually("it has begun", lambda: tab.agent.options)
    tab.button.click()
    eventually("a question is wanted", lambda: "type a question first" in tab.told.value)
    for number in range(MOST_AT_ONCE + 1):
        tab.question.value = f"Question {number}"
        tab.button.click()
        eventually(
            "it is asked or refused",
            lambda number=number: f"Question {number}" in tab.chat.value or "wait for an answer" in tab.told.value,
        )
    assert f"Question {MOST_AT_ONCE}" not in tab.chat.value
    assert tab.question.value == f"Question {MOST_AT_ONCE}"
    run.may_go.set()
    eventually("all came", lambda: "waiting" not in tab.chat.value)
    assert "<b>yy" not in tab.chat.value
    assert max(map(len, re.findall("y+", tab.chat.value))) == ANSWER_CHARACTERS - len("<b>") - 1


def test_starters_are_questions_in_any_world() -> None:
    """There are three questions to begin with, about the world where it says something."""
    for name in tl.World.names():
        first, *_ = starters(tl.Run(name, steps=1))
        assert first.startswith("What do you make of this: ")
        assert len(first) < 200
    assert all(question.endswith("?") for question in starters(StandInRun(2)))


# ------------------------------------------------------------------ events and errors


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_events_of_every_family_are_rows(family: str, dashboard: Callable[..., Dashboard]) -> None:
    """Each family has its sentence, its code, and its newest events first with agents by name, or says that there are none."""
    run = StandInRun(["Ann", "Bo"])
    tab: Any = (shown := dashboard(run))._tabs["events"]
    shown._tabs.open("events")
    tab.family.value = family
    eventually("nothing yet", lambda: f"No events of the family {family}" in tab.rows.value)
    kind = FAMILIES[family]
    for number in range(300):
        values: dict[str, Any] = {"int": number, "float": math.nan, "bool": True, "str": HOSTILE[number % len(HOSTILE)]}
        given = {name: values[str(kind.__annotations__.get(name, "float"))] for name in kind.__struct_fields__}
        run.recorder.emit(kind(**{**given, "at_s": float(number), **({"agent": 1} if "agent" in given else {})}))
    eventually("the newest", lambda: "299.00 s" in tab.rows.value)
    assert tab.rows.value.count("<tr>") == 201
    assert tab.rows.value.index("299.00 s") < tab.rows.value.index("298.00 s")
    assert ("<td>Bo</td>" in tab.rows.value) == ("agent" in kind.__struct_fields__)
    assert f"run.frames.{family}" in tab.code.value
    assert "<script" not in tab.rows.value
    assert len(tab.about.value) > 60


def test_cells_have_units_and_what_is_not_finite_is_text() -> None:
    """Numbers are written with their unit, NaN as a dash and infinity as its sign."""
    run = StandInRun(["Ann"])
    values = (("latency_s", 0.25), ("recent_bytes", 1500), ("cost_usd", 0.5), ("accepted_ms", 1.25), ("notes", 1234))
    assert [cell(run, name, value) for name, value in values] == ["0.25 s", "1.5 kB", "$0.5000", "1.25 ms", "1,234"]
    assert [cell(run, "new", value) for value in (math.nan, math.inf, -math.inf)] == ["–", "∞", "−∞"]
    assert [cell(run, "agent", value) for value in (0, -1)] == ["Ann", "all"]


def test_errors_are_counted_by_kind_with_what_mends_them(dashboard: Callable[..., Dashboard]) -> None:
    """Each kind has its count and a sentence; choosing one shows its rows alone, old ones too; lost acts are told."""
    run = StandInRun(["Ann", "Bo"])
    run.recorder.emit(Failed(0.0, 0, 0, "ModelBusyError", "429 <once>", 1))
    for number in range(300):
        run.recorder.emit(Failed(1.0, 1, 1, "Own<Error>", f"number {number}", 1))
    for error in ("", "", "", "ModelBusyError"):
        run.recorder.emit(ActDone(1.0, 0, 0, 0.0, 1.0, 1, 1, error))
    run.recorder.emit(CallDone(1.0, 0, 0, "act", 1.0, 0.0, 1, 1, 0.0, False, 3, "", "model", 0, math.nan))
    tab: Any = (shown := dashboard(run))._tabs["errors"]
    shown._tabs.open("errors")
    eventually("both kinds", lambda: "1 × ModelBusyError" in tab.kinds.value)
    assert "300 × Own&lt;Error&gt;" in tab.kinds.value
    assert "lower max_concurrency" in tab.kinds.value
    assert "1 of 4 acts were lost (25 %)" in tab.share.value
    assert "1 of 1 calls were sent more than once" in tab.share.value
    assert "429" not in tab.rows.value
    tab.kind.value = "ModelBusyError"
    eventually("its rows alone", lambda: "429 &lt;once&gt;" in tab.rows.value)
    assert "number 2" not in tab.rows.value


def test_every_kind_of_error_has_a_sentence() -> None:
    """Each class of TroupeLab's errors has a sentence of its own; what is unknown is said to be so."""
    assert set(errors.__all__) <= set(MENDS)
    assert len({mend(kind) for kind in MENDS if kind not in {"PersonaError", "WorldError"}}) == len(MENDS) - 2
    assert mend("ZeroDivisionError") == UNKNOWN


# ------------------------------------------------------------------ alerts


def test_alerts_are_acknowledged(dashboard: Callable[..., Dashboard]) -> None:
    """Acknowledging takes an alert from the header and the count, and leaves it in the list; so it stays when shown again."""
    run = StandInRun(["Ann"])
    for number in range(3):
        run.recorder.emit(Alerted(float(number), -1, "price", f"number {number} <b>"))
    shown = dashboard(run)
    tab: Any = shown._tabs["alerts"]
    shown._tabs.open("alerts")
    place = [one.name for one in shown._tabs.tabs].index("alerts")
    eventually("three", lambda: shown._tabs.box.get_title(place) == "alerts (3)")
    eventually("the newest below the header", lambda: "number 2 &lt;b&gt;" in shown._header.said.value)
    eventually("a row each", lambda: len(tab._slots) == 3)
    tab._slots[0].button.click()
    eventually("the next one", lambda: "number 1" in shown._header.said.value)
    eventually("two", lambda: shown._tabs.box.get_title(place) == "alerts (2)")
    eventually("the first is done", lambda: "troupelab-done" in tab._slots[0].text.value)
    eventually("its button is shut", lambda: tab._slots[0].button.disabled)
    tab.all.click()
    eventually("nothing is left to say", lambda: shown._header.said.value == "")
    eventually("nothing is counted", lambda: shown._tabs.box.get_title(place) == "alerts")
    shown.attach(StandInRun(["Bo"]))
    eventually("another run", lambda: "No alerts so far" in tab.rows.value)
    shown.attach(run)
    eventually("the alerts are there", lambda: "No alerts" not in tab.rows.value)
    assert shown._header.said.value == ""
    assert tab.count == 0
    run.recorder.emit(Alerted(9.0, -1, "price", "a new one"))
    eventually("a new one is told", lambda: "a new one" in shown._header.said.value)
    run.recorder.emit(RunChanged(10.0, 0, "running", ""))
    eventually("it holds no longer", lambda: shown._header.said.value == "")
    assert tab.count == 1


def test_no_more_widgets_than_rows_and_none_is_left() -> None:
    """However many alerts come there are so many rows with buttons, and closing frees all of every tab."""
    before = set(ipywidgets.widgets.widget._instances)
    run = StandInRun([f"Agent {number}" for number in range(20)])
    shown = Dashboard(run)
    tab: Any = shown._tabs["alerts"]
    for kind in ("interview", "events", "errors", "transcript", "alerts"):
        shown._tabs.open(kind)
        eventually(f"{kind} is shown", lambda: not shown._wishes.qsize())
    counts = set()
    for _ in range(4):
        for number in range(ROWS):
            run.recorder.emit(Alerted(float(number), 0, "stalled", "number"))
        total = run.recorder.count("alerts")
        eventually("they are shown", lambda total=total: f"{total} of {total} not" in tab.told.value)
        counts.add(len(ipywidgets.widgets.widget._instances))
    assert len(counts) == 1
    assert len(tab._slots) == ROWS
    shown.close()
    assert set(ipywidgets.widgets.widget._instances) - before == set()
    gc.collect()


# ------------------------------------------------------------------ texts and names


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_text_everywhere(text: str, dashboard: Callable[..., Dashboard]) -> None:
    """A text that a model wrote is shown escaped, short, in one direction's bounds, and can be sent to a page."""
    run = StandInRun(["Ann"])
    said(run, [(0, 0, "TALK", text)])
    run.recorder.emit(Failed(0.0, 0, 0, "ReplyError", text, 1))
    run.recorder.emit(Alerted(0.0, 0, "price", text))
    shown = dashboard(run)
    tabs: Any = shown._tabs
    places = {"transcript": ["rows"], "errors": ["rows", "kinds"], "alerts": ["rows"]}
    for name, parts in places.items():
        tabs.open(name)
        eventually(f"{name} is written", lambda name=name: "will appear" not in tabs[name].rows.value)
        for value in [getattr(tabs[name], part).value for part in parts] + [
            slot.text.value for slot in tabs["alerts"]._slots
        ]:
            value.encode("utf-8")
            assert len(value) < 5_000
            assert not re.search("<(script|img)|[\u202a-\u202e\u2066\u2067\u200e\u200f\x00\x07\x1b]", value)
            assert value.count("\u2068") == value.count("\u2069")


def test_right_to_left_texts_are_isolated_and_keep_their_joiners() -> None:
    """A name read from right to left cannot reorder the numbers beside it, and joiners inside words and emoji stay."""
    assert for_page("שלום") == "\u2068שלום\u2069"
    assert for_plot("مرحبا 3") == "\u2068مرحبا 3\u2069"
    assert for_page("می\u200cخواهم") == "\u2068می\u200cخواهم\u2069"
    assert for_page("👩\u200d🚀 Ann") == "👩\u200d🚀 Ann"
    assert for_page("a\u202eb\u2069c") == "a b c"


def test_a_few_letters_of_a_name_are_enough() -> None:
    """Letters that one name begins with become that name; others are refused with a sentence, and those chosen stay."""
    chosen: list[tuple[str, ...]] = []
    field = AgentsField(lambda then: then(), chosen.append, placeholder="", width="100px")
    field.offer(["Ann Lee", "Anna", "Bo"])
    field.tags.value = ["bo"]
    assert field.tags.value == ["Bo"]
    field.tags.value = ["Bo", "zed <b>"]
    assert field.tags.value == ["Bo"]
    assert "begins with “zed &lt;b&gt;”" in field.said.value
    field.tags.value = ["Bo", "ann l"]
    assert field.tags.value == ["Bo", "Ann Lee"]
    assert field.said.value == ""
    field.tags.value = ["Bo", "Ann Lee", "bo"]
    assert field.tags.value == ["Bo", "Ann Lee"]
    assert chosen[-1] == ("Bo", "Ann Lee")
    for part in field.parts:
        part.close()
    assert completed([f"Agent {number}" for number in range(30)], "agent 2")[0] == "Agent 2"
    assert completed([f"Agent {number}" for number in range(30)], "agent")[1].startswith("30 names begin with")


def test_what_no_json_can_carry_is_in_no_widget(dashboard: Callable[..., Dashboard]) -> None:
    """Names, kinds and messages with lone surrogates leave nothing in any tab's widgets that a page could not be sent."""
    odd = "a lone surrogate: \ud800"
    run = StandInRun([odd, "Ann"])
    shown = dashboard(run)
    run.recorder.emit(Failed(1.0, 0, 0, odd, odd, 1))
    run.recorder.emit(Alerted(1.0, 0, odd, odd))
    run.recorder.emit(ActionTaken(1.0, 0, 0, 0, odd, odd, odd))
    for tab in shown._tabs.tabs:
        shown._tabs.open(tab.name)
        tab.errands.wish(tab.write)
    shown._tabs.open("errors")
    eventually("the kind is offered", lambda: len(shown._tabs["errors"].kind.options) == 2)
    waiting = [shown]
    while waiting:
        part = waiting.pop()
        state = {name: value for name, value in part.get_state().items() if isinstance(value, str | tuple | list)}
        assert "\\ud800" not in repr([value for name, value in state.items() if name != "children"]), type(part)
        waiting += getattr(part, "children", ())
