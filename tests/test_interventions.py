"""Interventions, telling a run something, and what is done about acts that fail."""

from __future__ import annotations

import asyncio

import pytest
from helpers import eventually, quick_run

import troupelab as tl

GOOD = '{"actions": [{"type": "TALK", "content": "Hello.", "target": ""}, {"type": "DONE"}]}'


class Picky:
    """A model that fails for one agent, so often as it is told to, and answers everybody else."""

    name = "picky"

    def __init__(self, *, agent=2, step=1, fails=10**9, error=None):
        self.agent, self.step, self.left = agent, step, fails
        self.error = error or tl.ModelRequestError("no such words here")
        self.asked = []

    async def complete(self, request):
        self.asked.append((request.step, request.agent, request.call))
        await asyncio.sleep(0)
        if (request.agent, request.step) == (self.agent, self.step) and self.left > 0:
            self.left -= 1
            raise self.error
        return tl.Reply('{"answer": "I."}' if request.purpose == "ask" else GOOD, 1, 1, 0.0, self.name)


def heard(run, text):
    """Who remembers a text, and since which step."""
    return {
        (agent.index, record.step)
        for agent in run._stage.agents
        for record in agent.memory.between(0, 10**6)
        if record.text == text
    }


# ---------------------------------------------------------------------- interventions


@pytest.mark.parametrize("order", ["lockstep", "free"])
def test_an_intervention_is_called_between_two_steps(order):
    """It sees all that was done before its step and nothing of it, and what it tells is heard in that step."""
    seen = []

    def rumour(run):
        seen.append(run.transcript()["step"].max())
        assert run.tell("The ferry is cut.", to=run.agent_names[:2], source="A stranger") == 4

    world = tl.World.sample(10, seed=7)
    run = quick_run(world, order=order, steps=6, interventions=[tl.Intervention(rumour, at=4)])
    run.start().wait(60)
    assert seen == [3]
    assert heard(run, "The ferry is cut.") == {(0, 4), (1, 4)}


def test_interventions_are_called_as_often_as_they_say():
    """`every`, several steps in `at`, a condition, and `once` are each obeyed, in both orders alike."""
    hashes = set()
    for order in ("lockstep", "free"):
        calls = []

        def noted(name, calls=calls):
            return lambda played: calls.append((name, played.progress().step + 1))

        def late(run):
            return run.progress().acts_done >= 30

        run = quick_run(
            tl.World.sample(10, seed=7),
            order=order,
            steps=7,
            interventions=[
                tl.Intervention(noted("every"), every=3),
                tl.Intervention(noted("at"), at=(0, 5)),
                tl.Intervention(noted("when"), when=late),
                tl.Intervention(noted("once"), when=late, once=True),
            ],
        )
        run.start().wait(60)
        assert calls == [
            ("at", 0), ("every", 3), ("when", 3), ("once", 3), ("when", 4), ("at", 5), ("when", 5), ("every", 6), ("when", 6),
        ]  # fmt: skip
        hashes.add(run.summary()["transcript_sha256"])
    assert len(hashes) == 1


def test_an_intervention_changes_a_limit_from_its_step_on():
    """A memory limit that it changes holds for everybody from that very step."""
    run = quick_run(
        tl.World.sample(10, seed=7),
        order="free",
        steps=6,
        limits=tl.Limits(recent_max_records=100),
        interventions=[tl.Intervention(lambda run: run.limits.update(recent_max_records=8), at=3)],
    )
    run.start().wait(60)
    assert run.frames.limits["effective_step"].tolist() == [3]
    sizes = run.frames.memory
    assert sizes[sizes["step"] < 3]["recent_records"].max() > 8
    assert sizes[sizes["step"] >= 3]["recent_records"].max() <= 8


def test_an_intervention_may_pause():
    """It pauses between the steps; resumed, the run goes on with the step that it was called for."""
    run = quick_run(steps=4, interventions=[tl.Intervention(lambda run: run.pause(), at=2)]).start()
    run.wait(30, until="paused")
    assert run.progress().acts_done == 2 * len(run.agent_names)
    run.resume()
    assert run.wait(30).progress().acts_done == 4 * len(run.agent_names)


@pytest.mark.parametrize("order", ["lockstep", "free"])
def test_a_run_that_is_paused_before_a_steps_first_act_can_be_stopped(order):
    """It ends, and nobody has acted in that step."""
    pause = tl.Intervention(lambda run: run.pause(), at=2)
    run = quick_run(world="market_panel", steps=4, order=order, interventions=[pause])
    run.start().wait(30, until="paused")
    run.stop()
    run.wait(30)
    assert run.state == "stopped"
    assert run.frames.acts.step.max() == 1


@pytest.mark.parametrize("policy", ["skip", "pause", "raise"])
def test_a_broken_intervention_is_an_event_and_dealt_with_as_asked(policy):
    """An error in it is told; the run goes on, pauses, or ends, as on_error says."""

    def broken(run):
        raise KeyError("nobody")

    run = quick_run(steps=3, on_error=policy, interventions=[tl.Intervention(broken, at=1)]).start()
    if policy == "raise":
        with pytest.raises(tl.RunError, match=r"broken before step 1 failed.*nobody"):
            run.wait(30)
    elif policy == "pause":
        run.wait(30, until="paused")
        assert "broken" in run.paused_for
        run.resume()
        run.wait(30)
    else:
        run.wait(30)
    assert run.frames.errors["kind"].tolist() == ["KeyError"]


@pytest.mark.parametrize(
    "arguments", [{}, {"at": -1}, {"at": "3"}, {"every": 0}, {"every": 1.5}, {"when": 3}, {"at": (1, -2)}]
)
def test_an_intervention_that_says_no_time_is_refused(arguments):
    """Without a step, an interval or a condition, or with a wrong one, it is a RunError."""
    with pytest.raises(tl.RunError, match="intervention"):
        tl.Intervention(print, **arguments)


# ---------------------------------------------------------------------- telling


def test_what_a_run_is_told_is_heard_in_the_next_step_that_nobody_has_started():
    """Told while it is paused after step 1, everybody hears it in step 2, after what the world had scheduled."""
    run = quick_run(steps=4)
    run.step(2)
    run.wait(30, until="paused")
    assert run.tell("The price has doubled.") == 2
    assert run.tell("And trebled.", to=run.agent_names[0]) == 2
    run.resume()
    run.wait(30)
    assert heard(run, "The price has doubled.") == {(agent, 2) for agent in range(len(run.agent_names))}
    assert heard(run, "And trebled.") == {(0, 2)}


def test_telling_is_refused_where_nobody_would_hear_it():
    """Before the start, after the end, in the last step, for a stranger and without words, it is a RunError."""
    run = quick_run(steps=1)
    with pytest.raises(tl.RunError, match="needs a run"):
        run.tell("Too early.")
    run.step(1)
    with pytest.raises(tl.RunError, match="no agent"):
        run.tell("Hello.", to="Nobody")
    with pytest.raises(tl.RunError, match="text"):
        run.tell("")
    run.wait(30)
    with pytest.raises(tl.RunError, match="needs a run"):
        run.tell("Too late.")


# ---------------------------------------------------------------------- acts that fail


def test_a_failed_act_is_skipped():
    """With `skip`, the agent does nothing in that step, everybody else goes on, and its row says why."""
    model = Picky()
    run = quick_run(model=model, steps=3, on_error="skip").start().wait(30)
    acts = run.frames.acts
    assert len(acts) == 3 * len(run.agent_names)
    assert acts[acts["error"] != ""][["step", "error"]].values.tolist() == [[1, "ModelRequestError"]]
    assert [call for step, agent, call in model.asked if (step, agent) == (1, 2)] == [0]


@pytest.mark.parametrize(("fails", "lost"), [(2, 0), (10**9, 1)])
def test_a_failed_act_is_asked_for_again(fails, lost):
    """With `retry`, it is asked for three times in all, by three calls with other draws, and then skipped."""
    model = Picky(fails=fails)
    run = quick_run(model=model, steps=3, on_error="retry").start().wait(30)
    assert [call for step, agent, call in model.asked if (step, agent) == (1, 2)] == [0, 1, 2]
    assert run.summary()["acts_lost"] == lost
    assert len(run.frames.errors) >= 2


def test_a_failed_act_pauses_the_run():
    """With `pause`, the run stands until it goes on, and then asks for that act again; nothing is lost."""
    model = Picky(fails=1)
    run = quick_run(model=model, steps=3, on_error="pause").start()
    run.wait(30, until="paused")
    assert run.agent_names[2] in run.paused_for
    assert run.frames.alerts["kind"].tolist() == ["on_error"]
    run.resume()
    run.wait(30)
    assert run.summary()["acts_lost"] == 0


def test_a_failed_act_ends_the_run():
    """With `raise`, the run fails and says whose act of which step it was; what was done stays readable."""
    run = quick_run(model=Picky(), steps=3, on_error="raise").start()
    with pytest.raises(tl.RunError, match=r"act of step 1 failed.*no such words"):
        run.wait(30)
    assert run.state == "failed"
    assert len(run.transcript()) >= len(run.agent_names)


def test_a_model_that_breaks_for_one_agent_does_not_stop_the_others():
    """A bug in somebody's model is a failed call of that one act, and told."""
    model = Picky(error=ZeroDivisionError("a bug"), agent=0, step=0)
    run = quick_run(model=model, steps=3, limits=tl.Limits(max_attempts=1)).start().wait(30)
    assert run.frames.acts["error"].tolist().count("ModelServerError") == 1
    errors = run.frames.errors
    assert len(errors) == 1
    assert "ZeroDivisionError: a bug" in errors["message"][0]
    assert run.progress().acts_done == 3 * len(run.agent_names)


def test_an_agent_that_is_stalled_is_told_of_once_and_others_go_on(monkeypatch):
    """An act that takes far longer than usual is an alert that names the agent; in free order the others play on meanwhile."""
    monkeypatch.setattr("troupelab.engine.actor._STALLED_S", 0.05)
    monkeypatch.setattr("troupelab.engine.watch._EVERY_S", 0.02)

    class Hung(Picky):
        async def complete(self, request):
            if (request.agent, request.step) == (0, 1):
                while not self.freed:
                    await asyncio.sleep(0.002)
            return tl.Reply(GOOD, 1, 1, 0.0, self.name)

        freed = False

    model = Hung()
    run = quick_run(tl.World.sample(10, seed=7), model=model, order="free", steps=6).start()
    eventually("it is told", lambda: run.recorder.count("alerts") == 1)
    eventually("the other table is done", lambda: run.progress().acts_done >= 5 * 6)
    model.freed = True
    run.wait(30)
    (message,) = run.frames.alerts["message"]
    assert run.frames.alerts["kind"].tolist() == ["stalled"]
    assert run.agent_names[0] in message
    assert "step 1" in message


@pytest.mark.parametrize(("name", "value"), [("order", "chaos"), ("on_error", "ignore"), ("consolidate", "never")])
def test_a_choice_that_there_is_not_is_refused(name, value):
    """An unknown order, policy or way of consolidating names what there is."""
    with pytest.raises(tl.RunError, match=f"{name} must be"):
        quick_run(**{name: value})


# ---------------------------------------------------------------------- whether it is the same again


def test_a_run_says_whether_it_would_be_the_same_again():
    """A scripted run is deterministic; a model of one's own without a cache, a limit changed by hand and like answers are named."""
    run = quick_run(steps=3).start().wait(30)
    assert run.deterministic
    assert run.deterministic.reasons == ()
    other = quick_run(steps=3, model=Picky(agent=-1), limits=tl.Limits(cache_similarity=0.95))
    other.step(1)
    other.wait(30, until="paused")
    other.limits.update(recent_max_records=9)
    other.resume()
    other.wait(30)
    assert not other.deterministic
    assert [reason.split()[0] for reason in other.deterministic.reasons] == ["the", "cache_similarity", "1"]


def test_a_world_without_groups_says_that_free_order_is_lockstep():
    """Where everyone hears everyone, an alert says that no order waits less, and the transcript is that of lockstep."""
    runs = [quick_run("product_launch", order=order, steps=3).start().wait(30) for order in ("lockstep", "free")]
    assert runs[1].frames.alerts["kind"].tolist() == ["order"]
    assert [run.summary()["order"] for run in runs] == ["lockstep", "lockstep"]
    assert runs[0].recorder.transcript_sha256() == runs[1].recorder.transcript_sha256()


def test_what_was_told_and_asked_by_hand_and_acts_lost_to_the_endpoint_are_named():
    """A run that a user told something and interviewed for keeps says so, and so does one whose endpoint failed."""
    run = quick_run(steps=3, model=Picky(agent=1, step=2, error=tl.ModelServerError("down")), cache=False,
                    limits=tl.Limits(max_attempts=1))  # fmt: skip
    run.step(1)
    run.wait(30, until="paused")
    run.tell("The price has doubled.")
    run.ask(run.agent_names[3], "And you?", remember=True)
    run.resume()
    run.wait(30)
    reasons = run.deterministic.reasons
    assert [reason.split()[:3] for reason in reasons] == [
        ["the", "model", "may"], ["2", "things", "were"], ["1", "acts", "were"],
    ]  # fmt: skip
