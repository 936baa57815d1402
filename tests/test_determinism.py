"""The determinism matrix: one world, model, seed and limits give one transcript and the same memories, however the run is played."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
from itertools import product

import pytest
from helpers import eventually
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.engine.order import MAX_LEAD, Order
from troupelab.events import ActDone
from troupelab.models import retry

ORDERS = ("lockstep", "free")
SLOTS = (1, 4, 30)
CORNERS = [*product(ORDERS, (1, 30))]
STEPS = 8
SMALL = tl.Limits(recent_max_records=12)
"""So few that memories condense, archive and merge all the time."""

GOOD = json.dumps({"actions": [{"type": "TALK", "content": "Well.", "target": ""}, {"type": "DONE"}]})


def neighbours(count=10, *, table=4, edges=None, reach=((0, 4), (1, 8), (5, 9))):
    """People at tables of four, of whom some may reach out to other tables, and who hear news with numbers; or those of some edges."""
    names = [persona.name for persona in tl.Persona.sample(count, 7)]
    hears = {"groups_of": table} if edges is None else {"edges": [[names[one], names[other]] for one, other in edges]}
    news = [
        {"step": step, "text": f"{40 + step} people came to meeting {step}.", "source": "A letter"}
        for step in (1, 2, 3, 5)
    ]
    found = {
        "type": "TroupeLabWorld", "format": 1, "name": "neighbours", "start": "2026-03-02T18:00:00", "step_minutes": 5,
        "agents": {"sample": count}, "hears": hears, "reach_out": [[names[one], names[other]] for one, other in reach],
        "knowledge": ["The ferry to the island will be cut on 3 May."],
        "opening": [{"text": "14 crossings a week will be cut to 5. What do you make of it?", "source": "A stranger"}],
        "events": news,
    }  # fmt: skip
    return tl.World.from_dict(found, agents=count, seed=7)


def uneven(seed=7):
    """A scripted model whose latencies shuffle who ends first."""
    return tl.ScriptedModel(seed, latency_s=0.0005, latency_sigma=1.5)


def play(world=None, *, model=None, slots=30, limits=SMALL, steps=STEPS, **options):
    """Play a run to its end."""
    options.setdefault("embedder", tl.HashingEmbedder())
    limits = limits.replace(max_concurrency=slots)
    run = tl.Run(world or neighbours(), model or uneven(), limits=limits, steps=steps, seed=7, **options)
    return run.start().wait(60)


def outcome(run):
    """Two digests: of what was done, and of all that the agents remember, their states of mind and whom they have met."""
    kept = [
        (each.memory.between(0, 10**6), list(each.memory.notes), each.memory.stored, each.state, sorted(each.opened))
        for each in run._stage.agents
    ]
    return run.recorder.transcript_sha256()[:12], hashlib.sha256(repr(kept).encode()).hexdigest()[:12]


def check_eventful(run):
    """The run has condensed, merged, archived and reached out: a comparison of nothing would prove nothing."""
    assert run.recorder.count("consolidations") > len(run.agent_names)
    assert run.recorder.count("dedups") > 0
    assert (run.transcript()["action"] == "REACH_OUT").any()
    assert sum(agent.memory.size().archive_records for agent in run._stage.agents) > 100


def one_and_only(outcomes):
    """The outcome that all schedules share; otherwise says which differ."""
    assert len(set(outcomes.values())) == 1, outcomes
    return next(iter(outcomes.values()))


# ---------------------------------------------------------------------- the matrix


def test_orders_concurrencies_and_the_cache_give_one_run(tmp_path):
    """Eighteen schedules: in either order, with 1, 4 or 30 in flight, without a cache, filling one, and from the filled one."""
    outcomes = {}
    for order, slots in product(ORDERS, SLOTS):
        file = tmp_path / f"{order}{slots}.sqlite"
        for cache, where in (("off", False), ("empty", file), ("filled", file)):
            run = play(order=order, slots=slots, cache=where)
            outcomes[order, slots, cache] = outcome(run)
            check_eventful(run)
            assert run.deterministic
            assert run.summary()["order"] == order
            assert run.summary()["cached"] == (STEPS * 10 if cache == "filled" else 0)
    one_and_only(outcomes)


FAULTY = {
    "skip": [
        ("lockstep", 30, "off"), ("free", 30, "off"), ("free", 1, "off"), ("lockstep", 4, "empty"), ("free", 30, "filled"),
        ("lockstep", 1, "filled"),
    ],
    "retry": [("lockstep", 30, "off"), ("free", 4, "empty"), ("lockstep", 1, "filled")],
}  # fmt: skip


@pytest.mark.parametrize("on_error", FAULTY)
def test_with_seeded_faults_too(on_error, tmp_path, monkeypatch):
    """Faults come alike in every schedule, and so acts are lost; a cache that one schedule has filled serves the others."""
    monkeypatch.setattr(retry, "BASE_S", 0.004)
    outcomes, lost, asked = {}, {}, {}
    faults = {"p429": 0.1, "p500": 0.15, "pmalformed": 0.15, "pdrop": 0.1}
    limits = SMALL.replace(max_attempts=2)
    with tl.Rehearsal(latency="lognorm:0.001:1.5", seed=5, **faults) as server:
        for schedule in FAULTY[on_error]:
            order, slots, cache = schedule
            server.reset()  # so that the same request meets the same fault
            run = play(
                model=tl.ChatModel("rehearsal", base_url=server.base_url), order=order, slots=slots, limits=limits, on_error=on_error,
                cache=False if cache == "off" else tmp_path / "replies.sqlite",
            )  # fmt: skip
            outcomes[schedule], lost[schedule] = outcome(run), run.summary()["acts_lost"]
            asked.setdefault(cache, set()).add(server.stats()["requests"])
            check_eventful(run)
            kinds = {"ModelServerError", "ReplyError"} | (
                {"ModelBusyError", "ModelConnectionError"} if cache != "filled" else set()
            )
            assert set(run.frames.errors["kind"]) >= kinds
    one_and_only(outcomes)
    assert len(set(lost.values())) == 1
    assert (max(lost.values()) > 0) == (on_error == "skip")
    assert asked["off"] == asked["empty"]
    assert len(asked["off"]) == 1
    assert max(asked["filled"]) < max(asked["off"]) / 2


@pytest.mark.parametrize("consolidate", ["model", "off"])
def test_whoever_writes_the_notes(consolidate):
    """Notes that the model writes, in calls of their own that take their time, and no notes at all, are one run too."""
    outcomes = {}
    for order, slots in CORNERS:
        run = play(order=order, slots=slots, consolidate=consolidate)
        outcomes[order, slots] = outcome(run)
        assert ("consolidate" in set(run.frames.calls["purpose"])) == (consolidate == "model")
    one_and_only(outcomes)


def test_with_and_without_a_dashboard():
    """A dashboard that is open all along, or closed midway, changes nothing."""
    outcomes = {}
    for order in ORDERS:
        outcomes[order, "alone"] = outcome(play(order=order))
        for closed in ("at the end", "midway"):
            run = tl.Run(
                neighbours(), uneven(), limits=SMALL, steps=STEPS, seed=7, order=order, embedder=tl.HashingEmbedder()
            )
            dashboard = tl.Dashboard(run)
            try:
                run.step(4)
                run.wait(60, until="paused")
                if closed == "midway":
                    dashboard.close()
                run.resume()
                run.wait(60)
            finally:
                dashboard.close()
            outcomes[order, closed] = outcome(run)
    one_and_only(outcomes)


def test_interventions_that_tell_and_change_limits():
    """What functions of the run tell the agents, and the limits that they change, hold from the same step on in every schedule."""

    def shrink(run):
        run.limits.update(recent_max_records=6, note="smaller", by="shrink")
        run.limits.update(recent_max_records=30, agents=[run.agent_names[3]], by="shrink")

    def rumour(run):
        run.tell(
            f"After {len(run.transcript())} actions somebody has seen the plan.",
            to=run.agent_names[:5],
            source="A rumour",
        )

    def is_loud(run):
        return len(run.transcript()) > 60

    outcomes, told = {}, {}
    for order, slots in CORNERS:
        interventions = [tl.Intervention(shrink, at=3), tl.Intervention(rumour, when=is_loud, every=2, once=True)]
        run = play(order=order, slots=slots, interventions=interventions)
        outcomes[order, slots] = outcome(run)
        heard = [each for each in run._stage.agents[0].memory.between(0, STEPS) if each.source == "A rumour"]
        told[order, slots] = [(each.step, each.text) for each in heard]
        assert run.frames.limits["effective_step"].tolist() == [3, 3]
        assert run.deterministic
    one_and_only(outcomes)
    assert len(told["free", 30]) == 1
    assert one_and_only(outcomes) != outcome(play())


def graphs():
    """Small worlds: who hears whom, and who may reach out to whom."""
    pairs = [(one, other) for one in range(5) for other in range(5) if one != other]
    reach = [pair for pair in pairs if pair[0] < pair[1]]
    return st.tuples(
        st.lists(st.sampled_from(pairs), unique=True, max_size=10),
        st.lists(st.sampled_from(reach), unique=True, max_size=3),
    )


@settings(max_examples=12, deadline=None)
@given(graphs(), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.integers(0, 99))
def test_any_graph_in_any_order(graph, slots, other_slots, seed, other_seed):
    """Whoever hears whom, both orders give one run, at any concurrency and with any latencies."""

    class Shuffled(tl.ScriptedModel):
        """Speaks the same whatever its latencies are drawn from."""

        def draw_latency_s(self, request_seed):
            return super().draw_latency_s(request_seed ^ self.shuffle)

    outcomes = {}
    for order, parallel, shuffle in zip(ORDERS, (slots, other_slots), (seed, other_seed), strict=True):
        model = Shuffled(7, latency_s=0.0005, latency_sigma=1.5)
        model.shuffle = shuffle
        world = neighbours(5, edges=graph[0], reach=graph[1])
        outcomes[order] = outcome(
            play(world, model=model, slots=parallel, steps=4, order=order, limits=tl.Limits(recent_max_records=5))
        )
    one_and_only(outcomes)


# ---------------------------------------------------------------------- the order alone


@given(st.data())
def test_an_order_begins_what_may_begin_and_nothing_else(data):
    """Against a naive look at everybody: who is given next, that it waits for all whom it hears and for the lead, and that all is played."""
    count, steps = data.draw(st.integers(1, 7)), data.draw(st.sampled_from((20, 12, 2)))
    others = st.lists(st.integers(0, count - 1), unique=True)
    heard = [[each for each in data.draw(others) if each != agent] for agent in range(count)]
    holds_up = [sum(agent in each for each in heard) for agent in range(count)]
    slow = data.draw(st.none() | st.integers(0, count - 1))  # ends only when nobody else can go on
    chance = data.draw(st.randoms(use_true_random=False))
    order = Order(heard, holds_up, [0] * count)
    done, acting, played = [0] * count, set(), 0

    def may_begin():
        free = [agent for agent in range(count) if agent not in acting]
        ready = [agent for agent in free if all(done[each] >= done[agent] for each in heard[agent])]
        within = [agent for agent in ready if done[agent] < min(order.until, min(done) + MAX_LEAD)]
        return min(((done[agent], -holds_up[agent], agent) for agent in within), default=None)

    while min(done) < steps:
        if min(done) == order.until:
            order.until = min(steps, order.until + chance.choice((steps, 1)))
        while not acting or chance.random() < 0.8:
            expected, due = may_begin(), order.take()
            assert due == (None if expected is None else (expected[0], expected[2]))
            if due is None:
                break
            acting.add(due[1])
        assert acting  # something can always go on
        agent = chance.choice(sorted(acting - {slow}) or [slow])
        acting.remove(agent)
        done[agent] += 1
        order.finish(agent)
        played += 1
        assert order.lowest == min(done)
    assert played == steps * count
    assert order.take() is None


def test_an_order_goes_on_from_any_point():
    """Made anew from how far each had come, an order gives the same acts as the one that was broken off."""
    heard = [[1], [0, 2], [1], []]
    order = Order(heard, [1, 2, 1, 0], [0] * 4)
    order.until = 12
    done, acting, rest = [0] * 4, [], []
    for _ in range(9):
        while (due := order.take()) is not None:
            heapq.heappush(acting, due)
        agent = heapq.heappop(acting)[1]
        done[agent] += 1
        order.finish(agent)
    again = Order(heard, [1, 2, 1, 0], done)
    again.until = 12
    while (due := again.take()) is not None:
        rest.append(due)
    assert sorted(rest) == sorted([*acting, *iter(order.take, None)])


# ---------------------------------------------------------------------- what free order is for


class Held:
    """A model whose replies to some agents wait for a condition, and which remembers who was answered when."""

    name = "held"

    def __init__(self, hold):
        self.hold = hold
        self.answered = []

    async def complete(self, request):
        while self.hold(self, request):
            await asyncio.sleep(0.001)
        self.answered.append((request.step, request.agent))
        return tl.Reply(GOOD, 1, 1, 0.0, self.name)


def test_in_free_order_tables_are_at_different_steps():
    """The second table gets no answer at step 0 until the first is at step 5: lockstep could never end, and free order does."""
    world = neighbours(8, reach=())
    model = Held(
        lambda model, request: request.agent >= 4 and all((5, agent) not in model.answered for agent in range(4))
    )
    run = play(world, model=model, order="free")
    assert run.state == "done"
    assert sorted(model.answered) == sorted(product(range(STEPS), range(8)))
    times = run.recorder.read("acts").columns
    overlaps = [
        (step, other)
        for step, start in zip(times["step"], times["start_s"], strict=True)
        for other, begun, ended in zip(times["step"], times["start_s"], times["end_s"], strict=True)
        if other != step and begun < start < ended
    ]
    assert max(step - other for step, other in overlaps) >= 5


@pytest.mark.parametrize("steps", [MAX_LEAD - 2, MAX_LEAD + 4])
def test_who_hangs_holds_up_only_who_must_hear_it(steps):
    """One agent never answers: its table stays at step 0 or 1, and the other table plays on to the end, or to the bound on the lead."""
    world = neighbours(8, reach=())
    model = Held(lambda model, request: request.agent == 5)
    run = tl.Run(world, model, limits=tl.Limits(timeout_s=None, deadline_s=None), steps=steps, seed=7, order="free")
    run.start()
    far = min(steps, MAX_LEAD)
    eventually("the others get as far as they may", lambda: run.recorder.count("acts") == 4 * far + 3)
    acts = run.recorder.read("acts").columns
    assert {agent: acts["step"][acts["agent"] == agent].tolist() for agent in range(8)} == {
        **{agent: list(range(far)) for agent in range(4)}, 4: [0], 5: [], 6: [0], 7: [0],
    }  # fmt: skip
    assert run.state == "running"
    run.stop(now=True)
    assert run.wait(10).state == "stopped"


def test_who_fails_for_good_stalls_nobody():
    """One agent's calls always fail, each after its attempts: all others play to the end, in both orders the same."""

    class Broken(tl.ScriptedModel):
        async def complete(self, request):
            if request.agent == 5:
                raise OSError("the line is dead")
            return await super().complete(request)

    outcomes = {}
    for order, slots in product(ORDERS, (2, 30)):
        model = Broken(7, latency_s=0.0005, latency_sigma=1.5)
        run = play(model=model, order=order, slots=slots, limits=SMALL.replace(max_attempts=1))
        outcomes[order, slots] = outcome(run)
        acts = run.frames.acts
        assert len(acts) == STEPS * 10
        assert set(acts[acts["error"] != ""]["agent"]) == {run.agent_names[5]}
        assert run.summary()["acts_lost"] == STEPS
    one_and_only(outcomes)


def test_acts_are_told_once_each_in_every_order():
    """Each agent acts once in each step, and its steps follow one another."""
    for order in ORDERS:
        run = play(order=order)
        told = [
            (agent, step)
            for agent, step in zip(
                *(run.recorder.read(ActDone.family).columns[name].tolist() for name in ("agent", "step")), strict=True
            )
        ]
        assert sorted(told) == list(product(range(10), range(STEPS)))
        assert [step for agent, step in told if agent == 3] == list(range(STEPS))
