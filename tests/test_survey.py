"""Surveys: everyone is asked everything, several at once, whatever the run is doing; and the tab that asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser.stand_in import StandInRun
from helpers import eventually, quick_run, sha
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.survey_tab import SurveyTab
from troupelab.survey import Survey, choice_in

EVIL = "<img src=x onerror=alert(1)>"


class Counting(tl.ScriptedModel):
    """Counts how many interviews are at it at once, and fails those of one agent."""

    def __init__(self, *, fails: int = -1, latency_s: float = 0.01) -> None:
        super().__init__(7, latency_s=latency_s)
        self.fails, self.now, self.most = fails, 0, 0

    async def complete(self, request: tl.Request) -> tl.Reply:
        if request.purpose != "ask":
            return await super().complete(request)
        if request.agent == self.fails:
            raise tl.ModelRequestError(f"refused {EVIL}")
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().complete(request)
        finally:
            self.now -= 1


def test_everyone_is_asked_everything_in_order() -> None:
    """Rows go by question and then by agent, with an answer each; the same run gives the same answers, before and after."""
    questions = ["Would you buy the lamp?", "What do you fear?"]
    found = []
    for _ in range(2):
        run = quick_run()
        before = run.survey(questions)
        after = run.start().wait(60).survey(questions)
        assert list(before.question) == [each for each in questions for _ in run.agent_names]
        assert list(before.agent) == [*run.agent_names, *run.agent_names]
        assert before.agent.dtype == "category"
        assert (after.answer.str.len() > 0).all()
        assert (after.error == "").all()
        assert (after.seconds >= 0).all()
        assert after.answer.nunique() > len(run.agent_names)
        found.append((list(before.answer), list(after.answer)))
    assert found[0] == found[1]


def test_asking_changes_nothing_unless_it_is_to_be_remembered() -> None:
    """A run whose agents were asked while it was paused plays as one that was not; what they remember, they remember."""
    plain = quick_run().start().wait(60)
    for remember in (False, True):
        run = quick_run()
        run.step(2)
        run.wait(60, until="paused")
        answers = run.survey("What did you hear about the price?", remember=remember)
        assert run.state == "paused"
        run.resume()
        run.wait(60)
        kept = [record.text for agent in run._stage.agents for record in agent.memory.between(0, 10**6)]
        assert remember or sha(run) == sha(plain)
        assert (answers.answer[0] in kept) is remember
    with pytest.raises(tl.RunError, match="nothing is remembered"):
        run.survey("Well?", remember=True)


def test_no_more_are_asked_at_once_than_the_limit_allows() -> None:
    """A survey keeps to max_concurrency, before the run and while it goes on."""
    model = Counting()
    run = quick_run("town", model=model, limits=tl.Limits(max_concurrency=3))
    assert len(run.survey("Well?")) == 25
    assert model.most == 3
    model.most = 0
    run.start()
    assert (run.survey("Well?").error == "").all()
    assert 0 < model.most <= 3
    run.wait(60)


def test_one_failure_is_one_row() -> None:
    """Where one agent's answer fails, its row says why, and all others are answered."""
    run = quick_run(model=Counting(fails=2))
    found = run.survey(["One?", "Two?"])
    bad = found[found.error != ""]
    assert set(bad.agent) == {run.agent_names[2]}
    assert len(bad) == 2
    assert bad.error.str.startswith("ModelRequestError: ").all()
    assert (bad.answer == "").all()
    assert (found.answer[found.error == ""] != "").all()


def test_an_answer_that_does_not_come_is_given_up_alone() -> None:
    """The time-out is for each answer, and is told in its row."""
    found = quick_run(model=Counting(latency_s=30.0)).survey("Well?", agents="Amara Okafor", timeout_s=0.1)
    assert list(found.error) == ["Amara Okafor did not answer within 0.1 s"]


def test_a_survey_outlives_the_run() -> None:
    """What the run's end cuts off is asked again after it, and no row is lost."""
    run = quick_run("town", model=Counting(latency_s=0.05), steps=30, limits=tl.Limits(max_concurrency=2)).start()
    asking = run.begin_survey(["One?", "Two?"])
    eventually("some are answered", lambda: asking.answered > 3)
    run.stop(now=True)
    found = asking.wait().frame()
    assert run.state == "stopped"
    assert len(found) == asking.total == 50
    assert (found.error == "").all()


def test_choices_are_told_and_recognised() -> None:
    """Each agent is told the answers that there are; the scripted model gives one, always the same to the same."""
    run = quick_run()
    first = run.survey("Would you buy the lamp?", choices=["yes", "no", "not sure"])
    again = run.survey("Would you buy the lamp?", choices=["yes", "no", "not sure"])
    assert first.choice.notna().all()
    assert first.choice.nunique() > 1
    assert list(first.choice) == list(again.choice)
    assert list(first.question.unique()) == ["Would you buy the lamp?"]


@given(st.text(max_size=60), st.lists(st.text("abc no", min_size=1, max_size=6), min_size=2, max_size=5))
@settings(max_examples=200, deadline=None)
def test_a_recognised_choice_is_one_of_them_and_in_the_answer(answer: str, choices: list[str]) -> None:
    """Whatever the answer and the choices are, what is recognised stands in the answer."""
    found = choice_in(answer, choices)
    assert found is None or (found in choices and found.casefold() in answer.casefold())


def test_the_longer_choice_wins_at_the_same_place() -> None:
    """Of "not" and "not sure", an answer that says the longer means it; parts of words mean nothing."""
    assert choice_in("Not sure, really.", ["not", "not sure"]) == "not sure"
    assert choice_in("I know nothing.", ["no", "thing"]) is None


@pytest.mark.parametrize(
    ("questions", "how", "error", "says"),
    [
        ([], {}, tl.InputError, "1 to 100 questions"),
        (["x"] * 101, {}, tl.InputError, "found 101"),
        (["a", " "], {}, tl.InputError, r"questions\[1\]: expected a text"),
        (["a", 3], {}, tl.InputError, r"questions\[1\]"),
        ("ä" * 5_001, {}, tl.InputError, "at most 10000 bytes, found 10002"),
        ("a", {"choices": ["yes"]}, tl.InputError, "choices"),
        ("a", {"choices": ["yes", "Yes"]}, tl.InputError, "choices"),
        ("a", {"choices": ["a;b", "c"]}, tl.InputError, "semicolons"),
        ("a", {"agents": ["Nobody"]}, tl.RunError, "no agent 'Nobody'"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    questions: Any, how: dict[str, Any], error: type[Exception], says: str
) -> None:
    """No question, too many, too long ones, strange choices and unknown agents are refused before anything is asked."""
    with pytest.raises(error, match=says):
        quick_run().survey(questions, **how)


def test_a_fork_has_to_live_through_its_past_first() -> None:
    """Agents without their past are not asked."""
    fork = quick_run().start().wait(60).fork(at_step=2)
    with pytest.raises(tl.RunError, match="live through its past"):
        fork.survey("Well?")
    fork.close()


# ------------------------------------------------------------------ the tab


@pytest.fixture
def tab() -> Iterator[tuple[Any, SurveyTab]]:
    """A run whose third agent refuses, and the tab of its dashboard, which is looked at."""
    run = quick_run(model=Counting(fails=2))
    dashboard = Dashboard(run)
    found = dashboard._tabs["survey"]
    assert isinstance(found, SurveyTab)
    dashboard._tabs.open("survey")
    eventually("the run is shown", lambda: found.run is run)
    yield run, found
    dashboard.close()


def test_the_tab_asks_and_shows_answers_as_text(tab: tuple[Any, SurveyTab]) -> None:
    """Each line is a question; answers, choices and failures are rows, and the code that asks the same stands below."""
    run, survey = tab
    assert "one a line" in survey.rows.value
    survey.questions.value = f"Would you buy it?\n\n  {EVIL}  "
    survey.choices.value = "yes; no"
    survey.button.click()
    eventually("all have answered", lambda: "16 of 16 answered, 2 of them without an answer" in survey.said.value)
    eventually("it can be asked again", lambda: not survey.button.disabled)
    assert "<img" not in survey.rows.value
    assert "ModelRequestError: refused &lt;img" in survey.rows.value
    assert survey.rows.value.count("<tr>") == 17
    assert "<th>choice</th>" in survey.rows.value
    assert survey.code.code == f"run.survey({['Would you buy it?', EVIL]!r}, choices=['yes', 'no'])"
    assert len(eval(survey.code.code, {"run": run})) == 16


def test_the_tab_fills_in_while_answers_come() -> None:
    """Before the last answer is there, those that came are shown, with how many there are."""
    run = quick_run("town", model=Counting(latency_s=0.3), limits=tl.Limits(max_concurrency=2))
    dashboard = Dashboard(run)
    try:
        survey: Any = dashboard._tabs["survey"]
        dashboard._tabs.open("survey")
        eventually("the run is shown", lambda: survey.run is run)
        survey.questions.value = "Well?"
        survey.button.click()
        eventually(
            "some rows", lambda: 1 < survey.rows.value.count("<tr>") < 26 and " of 25 answered" in survey.said.value
        )
        assert survey.button.disabled
        other = quick_run()
        dashboard.attach(other)
        eventually(
            "another run has answers of its own", lambda: survey.run is other and "one a line" in survey.rows.value
        )
        assert not survey.button.disabled
    finally:
        dashboard.close()


def test_the_tab_says_what_it_needs(tab: tuple[Any, SurveyTab]) -> None:
    """No question, a refused one, and agents that are drawn as lines: each is said or done."""
    survey = tab[1]
    survey.button.click()
    assert "Write a question first" in survey.said.value
    survey.questions.value = "x" * 10_001
    survey.button.click()
    eventually("the refusal is told", lambda: "at most 10000 bytes" in survey.said.value)
    survey.questions.value = "Well?"
    survey.whom.value = "those drawn as lines"
    survey.button.click()
    eventually("all eight are lines here", lambda: "8 of 8 answered" in survey.said.value)
    assert "agents=" in survey.code.code


def test_what_cannot_be_asked_says_so() -> None:
    """Where nobody could answer, the button is off, and a sentence says why."""
    dashboard = Dashboard(StandInRun(3))
    try:
        survey: Any = dashboard._tabs["survey"]
        eventually("it says why", lambda: "none who could answer" in survey.rows.value)
        assert survey.button.disabled
    finally:
        dashboard.close()


def test_a_survey_can_be_read_while_it_goes_on() -> None:
    """`begin_survey` returns at once with what can be asked how far it is."""
    run = quick_run(model=Counting(latency_s=0.2))
    asking = run.begin_survey("Well?")
    assert isinstance(asking, Survey)
    assert (asking.total, len(asking.frame())) == (8, asking.answered)
    assert asking.wait().answered == 8
