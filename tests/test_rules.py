"""The rules that make a run the same in every schedule: each is kept, and a test fails where it is taken out.

A mutant is the engine without one rule. Several schedules (orders, concurrencies, who is slow) must agree with all rules, and must
not agree without this one. A rule whose absence may not show in what is said and remembered (the bound on the lead, the order within
an inbox, ties, hits) is asserted itself: its test passes with the rule, and what it asserts is false without.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import sys
from collections import defaultdict

import numpy as np
import orjson
import pytest
from helpers import eventually
from test_determinism import SMALL, STEPS, Held, neighbours, outcome

import troupelab as tl
from troupelab.engine import actor, engine, order, player
from troupelab.engine.consolidator import Consolidator
from troupelab.ids import make_id
from troupelab.livelimits import LiveLimits
from troupelab.memory import policy, record
from troupelab.memory.memory import Memory
from troupelab.memory.recent import Recent
from troupelab.memory.record import Note
from troupelab.models.model import NOW, sections
from troupelab.models.pipeline import Pipeline
from troupelab.models.rehearsal import server as rehearsal
from troupelab.models.rehearsal.settings import Settings
from troupelab.people import agent as people
from troupelab.people import stage
from troupelab.people.agent import Agent
from troupelab.people.stage import Stage

SCHEDULES = (("lockstep", 1, 0), ("free", 30, 2), ("free", 30, 0), ("lockstep", 30, 1), ("free", 3, 1))
"""Order, calls in flight, and which table is slow."""

IN_LOCKSTEP = (("lockstep", 1, 0), ("lockstep", 30, 1), ("lockstep", 4, 2))


class SlowTable(tl.ScriptedModel):
    """Says the same in every schedule, and takes longer for one table; `asked` is called with each request."""

    def __init__(self, slow):
        super().__init__(7, latency_s=0.001, latency_sigma=1.0)
        self.slow = slow
        self.asked = lambda request: None

    async def complete(self, request):
        self.asked(request)
        if request.agent // 4 == self.slow:
            await asyncio.sleep(0.004)
        return await super().complete(request)


def prepared(slow=0, *, slots=30, limits=SMALL, **options):
    """A run that is not yet started, and its model."""
    model, limits = SlowTable(slow), limits.replace(max_concurrency=slots)
    options.setdefault("embedder", tl.HashingEmbedder())
    return tl.Run(neighbours(), model, limits=limits, steps=STEPS, seed=7, **options), model


# ---------------------------------------------------------------------- what is played


def shrinks(run):
    """A limit on memory is lowered by hand while the sixth agent is asked at step 3."""

    def asked(request):
        if (request.agent, request.step) == (5, 3):
            run.limits.update(recent_max_records=4)

    return asked


def rumour(run):
    """Tell everybody something; an intervention."""
    run.tell(
        f"After {len(run.transcript())} actions somebody has seen the plan, and it has 14 pages.", source="A rumour"
    )


PLAYED = {
    "as usual": (SCHEDULES, None, {}),
    "notes by the model": (SCHEDULES, None, {"consolidate": "model"}),
    "told midway": (SCHEDULES, None, {"interventions": [tl.Intervention(rumour, at=(3, 5))]}),
    "little room": (
        SCHEDULES,
        None,
        {"limits": SMALL.replace(total_max_bytes=150_000, segment_cache_max_bytes=10_000)},
    ),
    "a cap in bytes": (SCHEDULES, None, {"limits": SMALL.replace(recent_max_bytes=2_500)}),
    "a limit by hand": (IN_LOCKSTEP, shrinks, {"limits": tl.Limits(recent_max_records=30)}),
}


def outcomes(scenario, mutate=None):
    """What comes of a scenario in one schedule after the other, with a rule taken out anew for each of them."""
    schedules, happens, options = PLAYED[scenario]
    for order_, slots, slow in schedules:
        with pytest.MonkeyPatch.context() as patch:
            if mutate is not None:
                mutate(patch)
            run, model = prepared(slow, order=order_, slots=slots, **options)
            if happens is not None:
                model.asked = happens(run)
            yield outcome(run.start().wait(60))


@functools.cache
def agreed(scenario):
    """The one outcome of a scenario, with all rules."""
    found = list(outcomes(scenario))
    assert len(set(found)) == 1, found
    return found[0]


def disagree(scenario, mutate):
    """Whether two schedules of a scenario differ without a rule."""
    found = outcomes(scenario, mutate)
    first = next(found)
    return any(other != first for other in found)


# ---------------------------------------------------------------------- the engine without a rule


def inbox_in_order_of_arrival(patch):
    """An inbox is as it came, not sorted by who sent it when."""
    patch.setattr(people, "sorted", lambda found, key: list(found), raising=False)


def the_world_speaks_last(patch):
    """What the world says comes after what agents say."""
    patch.setattr(stage, "WORLD", 1000)


def ids_from_a_counter(patch):
    """An id depends on how many were made before it: it shows in the memories, not in what is said."""
    counter = itertools.count()

    def counted(agent, step, sequence, attempt=0):
        return make_id(agent, step, next(counter), attempt)

    patch.setattr(people, "make_id", counted)
    patch.setattr(stage, "make_id", counted)


def notes_when_they_are_ready(patch):
    """An agent's next step does not wait for the notes of the last one."""

    async def admit(self, agent):
        running = self._running.get(agent.index, [])
        while running and running[0][1].done():
            job, made = running.pop(0)
            agent.memory.admit(job, made.result())

    patch.setattr(Consolidator, "admit", admit)


def tiers_move_in_the_steps_of_others(patch):
    """What one says condenses the memories of those who hear it, at once."""
    deliver = Stage.deliver

    def meddling(self, agent, step, actions):
        deliver(self, agent, step, actions)
        for hearer in self.world.audience[agent.index]:
            self.agents[hearer].memory.end_episode()

    patch.setattr(Stage, "deliver", meddling)


def heard_as_soon_as_said(patch):
    """An agent reads what was said in this very step, as far as it has been said."""
    hear = Agent.hear
    patch.setattr(Agent, "hear", lambda self, step: [*hear(self, step), *hear(self, step + 1)])


def remembered_by_whom_it_reaches_first(patch):
    """Common knowledge is more than storage: what another one remembers already is not remembered again."""
    store = Memory.store

    def shared(self, records):
        common = self._pool.shelf.common
        store(self, [record for record in records if not common.holders(record.text)])

    patch.setattr(Memory, "store", shared)


def room_is_made_by_forgetting(patch):
    """Over the cap for all, records are dropped instead of moved to disk."""

    def forget(self):
        taken = self.take_oldest(len(self) // 2, float("inf"))
        self._shelf.common.release(record.text for record in taken.records)
        return len(taken.records), taken.bytes

    patch.setattr(Recent, "spill", forget)


def a_text_counts_as_python_tells(patch):
    """A text takes more once it has been encoded somewhere: what a memory has room for depends on when that was."""
    patch.setattr(record, "text_bytes", sys.getsizeof)


def limits_hold_when_they_are_accepted(patch):
    """A memory limit holds for each agent from its next act on."""
    patch.setattr(LiveLimits, "at_step", lambda self, step, agent: self.for_agent(agent))


def limits_hold_from_the_step_that_is_played(patch):
    """A memory limit holds from the highest step that anyone has started, not from the next one."""
    settle = LiveLimits.settle
    patch.setattr(LiveLimits, "settle", lambda self, step: settle(self, step - 1))


def limits_of_calls_wait(patch):
    """A limit on calls is not followed when it is accepted."""
    patch.setattr(Pipeline, "follow_limits", lambda self: None)


def draws_from_one_generator(patch):
    """A draw depends on how many were made before it."""
    shared = random.Random(7)
    patch.setattr(actor, "draw", lambda *names: shared.getrandbits(64))


def reaching_out_is_not_waited_for(patch):
    """Who may be reached out to does not wait for whoever may do so."""
    patch.setattr(engine, "hears", lambda world: order.hears(tl.World.from_dict({**world.to_dict(), "reach_out": []})))


def interventions_are_not_waited_for(patch):
    """In free order nobody waits for the step of an intervention."""
    patch.setattr(player, "next_due", lambda interventions, step: None)


def no_bound_on_the_lead(patch):
    """An agent may be any number of steps ahead."""
    patch.setattr(order, "MAX_LEAD", 10**6)


# ---------------------------------------------------------------------- rules that show in what is said or remembered

MUTANTS = {
    inbox_in_order_of_arrival: "as usual",
    ids_from_a_counter: "as usual",
    notes_when_they_are_ready: "notes by the model",
    tiers_move_in_the_steps_of_others: "as usual",
    heard_as_soon_as_said: "as usual",
    remembered_by_whom_it_reaches_first: "as usual",
    room_is_made_by_forgetting: "little room",
    a_text_counts_as_python_tells: "a cap in bytes",
    limits_hold_when_they_are_accepted: "a limit by hand",
    draws_from_one_generator: "as usual",
    reaching_out_is_not_waited_for: "as usual",
    interventions_are_not_waited_for: "told midway",
}


@pytest.mark.parametrize("scenario", PLAYED)
def test_with_all_rules_schedules_agree(scenario):
    """In either order, at any concurrency, whoever is slow: the same is said and remembered."""
    assert agreed(scenario)


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_without_a_rule_schedules_differ(mutate):
    """With one rule taken out, two of the schedules that agreed do not agree any more."""
    assert agreed(MUTANTS[mutate])
    assert disagree(MUTANTS[mutate], mutate)


def test_a_cap_for_all_moves_and_changes_nothing():
    """Under a cap that moves memories to disk all the time, the outcome is that of a run with room for all."""
    run, _ = prepared(limits=PLAYED["little room"][2]["limits"])
    moved = run.start().wait(60).frames.evictions
    assert len(moved) > 20
    assert not moved["dropped"].any()
    assert agreed("little room") == agreed("as usual")


# ---------------------------------------------------------------------- rules that are asserted themselves


def speakers(mutate=None):
    """Whom each agent hears at step 3, in the order of its prompt: the world as -2, what the run was told as -1, agents by index."""
    heard = {}

    def asked(request):
        if request.step == 3:
            lines = sections("".join(message.content for message in request.messages))[NOW].splitlines()
            heard[request.agent] = [orjson.loads(line)["source"] for line in lines if line.startswith("{")]

    with pytest.MonkeyPatch.context() as patch:
        if mutate is not None:
            mutate(patch)
        run, model = prepared(order="free", interventions=[tl.Intervention(rumour, at=3)])
        model.asked = asked
        run.start().wait(60)
    places = {"A letter": -2, "A rumour": -1, **{name: index for index, name in enumerate(run.agent_names)}}
    return [[places[name] for name in names] for names in heard.values()]


def test_an_inbox_has_the_world_then_what_the_run_was_told_then_agents_by_index():
    """Asserted itself, since another fixed order would be as repeatable."""
    inboxes = speakers()
    assert len(inboxes) == 10
    assert all(inbox == sorted(inbox) and inbox[:2] == [-2, -1] for inbox in inboxes)
    assert max(map(len, inboxes)) > 4
    for mutate in (inbox_in_order_of_arrival, the_world_speaks_last):
        assert any(inbox != sorted(inbox) for inbox in speakers(mutate))


def limits_by_step(mutate=None):
    """The caps under which agents act, by step, and from which step the event says that a new one holds.

    It is set by hand while two tables are at the model in step 3, and the last one, which hears nobody else, still in step 0.
    """
    caps = defaultdict(set)
    begin = Memory.begin

    def watched(self, step, limits):
        caps[step].add(limits.recent_max_records)
        begin(self, step, limits)

    asked = set()

    def hold(model, request):
        if request.step == 3 and request.agent not in asked:
            asked.add(request.agent)
            if len(asked) == 8:
                run.limits.update(recent_max_records=4)
        return (request.step == 3 or request.agent >= 8) and not run.recorder.count("limits")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Memory, "begin", watched)
        if mutate is not None:
            mutate(patch)
        world, limits = neighbours(reach=()), tl.Limits(recent_max_records=30)
        run = tl.Run(world, Held(hold), limits=limits, steps=12, seed=7, order="free")
        run.start().wait(60)
    (effective,) = run.frames.limits["effective_step"]
    return caps, effective


def test_a_memory_limit_holds_for_everybody_from_one_step():
    """Changed by hand in free order, a cap is the old one for all up to a step and the new one for all from there, as its event says.

    Asserted itself: when somebody's hand comes is no part of what repeats.
    """
    caps, effective = limits_by_step()
    assert effective == 4
    assert caps == {step: {4 if step >= 4 else 30} for step in range(13)}
    for mutate in (limits_hold_when_they_are_accepted, limits_hold_from_the_step_that_is_played):
        assert {4, 30} in limits_by_step(mutate)[0].values()


def in_flight_after(mutate=None):
    """How many calls are in flight at the most when their limit is raised from 2 to 6 in the midst of a step; and the step of its event."""
    with pytest.MonkeyPatch.context() as patch:
        if mutate is not None:
            mutate(patch)
        model = Held(lambda model, request: request.step == 0)
        run = tl.Run(neighbours(), model, limits=tl.Limits(max_concurrency=2), steps=2, seed=7).start()
        eventually("two calls are in flight", lambda: run.in_flight == 2)
        run.limits.update(max_concurrency=6)
        eventually("the change is accepted", lambda: run.recorder.count("limits") == 1)
        run.pause()  # by now the loop has done all that the change led to
        found = run.in_flight
        run.stop(now=True)
        run.wait(10)
    return found, run.frames.limits["effective_step"].tolist()


def test_a_limit_on_calls_holds_at_once():
    """Raised while all slots are taken, more calls go out without waiting for a step. Asserted itself: it changes only the pace."""
    assert in_flight_after() == (6, [0])
    assert in_flight_after(limits_of_calls_wait)[0] == 2


def furthest(expected, mutate=None):
    """How far others get while one agent never answers, who hear nobody; waits until they get as far as is expected."""
    with pytest.MonkeyPatch.context() as patch:
        if mutate is not None:
            mutate(patch)
        model = Held(lambda model, request: request.agent == 0)
        limits = tl.Limits(timeout_s=None, deadline_s=None)
        run = tl.Run(neighbours(4, edges=[], reach=()), model, limits=limits, steps=20, seed=7, order="free").start()
        eventually("the others get so far", lambda: len(model.answered) >= 3 * expected)
        eventually("nobody else acts", lambda: len(run._engine.player.tasks) == 1)
        run.stop(now=True)
        run.wait(10)
    return 1 + max(step for step, _ in model.answered)


def test_nobody_is_more_than_eight_steps_ahead():
    """While one agent is at step 0, the others play steps 0 to 7. Asserted itself: a longer lead would change nothing that is said."""
    assert furthest(8) == 8
    assert furthest(20, no_bound_on_the_lead) == 20


def faults(bodies, mutate=None):
    """The fault that each of some requests meets, the first and the second time it comes."""
    with pytest.MonkeyPatch.context() as patch:
        if mutate is not None:
            mutate(patch)
        server = rehearsal.RehearsalServer(Settings(seed=5, p429=0.2, p500=0.2, pmalformed=0.1, pdrop=0.1))
        met = defaultdict(list)
        for body in bodies:
            met[body].append(server._admit("scripted", body)[0])
    return met


def test_a_fault_is_drawn_for_its_request_and_attempt():
    """In whichever order requests come, each meets its own faults; drawn from one generator, they depend on the order."""

    def one_generator(patch):
        shared = random.Random(7)
        patch.setattr(rehearsal, "uniform", lambda *names, **more: shared.random())

    bodies = [b"%d" % number for number in range(50)] * 2
    turned = bodies[::-1]
    met = faults(bodies)
    assert met == faults(turned)
    assert set(itertools.chain(*met.values())) == {"", "429", "500", "malformed", "drop"}
    assert any(first != second for first, second in met.values())
    assert faults(bodies, one_generator) != faults(turned, one_generator)


def recalled(seed, mutate=None):
    """The notes that a memory recalls of twenty that fit alike, put in in some order, where the last bits of cosines are chance."""
    chance = np.random.default_rng(seed)
    notes = [Note(make_id(0, 0, place), 0, 0, 1, "The ferry will be cut on 3 May.") for place in range(20)]
    relevance = policy.relevance

    def inexact(cosines, overlaps):
        found = relevance(cosines, overlaps)
        return found + (chance.random(found.shape) * 3e-7).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "relevance", inexact)
        if mutate is not None:
            mutate(patch)
        memory = Memory(0, tl.Limits(), tl.Pool(embedder=tl.HashingEmbedder()))
        memory.remember([notes[place] for place in chance.permutation(20)])
        return tuple(sorted(note.id for note in memory.recall(["When will the ferry be cut?"], 5)))


def test_scores_are_rounded_and_ties_go_by_id():
    """Whatever the last bits of a cosine are, and however notes lie, the same ones are recalled: those of the lowest ids.

    Asserted itself: on one machine, last bits do not differ between schedules.
    """

    def exact_scores(patch):
        patch.setattr(policy, "scores", lambda relevance, ages, weights: relevance.astype(np.float64) * weights)

    def ties_by_place(patch):
        best = policy.best
        patch.setattr(policy, "best", lambda scores, ids, k: best(scores, np.arange(len(ids)), k))

    lowest = tuple(make_id(0, 0, place) for place in range(5))
    assert {recalled(seed) for seed in range(10)} == {lowest}
    for mutate in (exact_scores, ties_by_place):
        assert len({recalled(seed, mutate) for seed in range(10)}) > 1


def hits(asks, mutate=None):
    """What memories count of their use in a run in which some agents are interviewed, with a dashboard, or in a plain one; and its outcome."""
    with pytest.MonkeyPatch.context() as patch:
        if mutate is not None:
            mutate(patch)
        run, _ = prepared(order="free")
        dashboard = tl.Dashboard(run) if asks else None
        try:
            run.step(4)
            run.wait(60, until="paused")
            for name in run.agent_names[:3] if asks else ():
                run.ask(name, "How many people came to the meeting?")
            run.resume()
            run.wait(60)
        finally:
            if dashboard is not None:
                dashboard.close()
        memories = [agent.memory for agent in run._stage.agents]
        return [(memory._hits, memory._touched, memory.warmth()) for memory in memories], outcome(run)


def test_interviews_and_panels_leave_hits_alone():
    """What decides whose memory leaves RAM first counts acts alone. Asserted itself: what leaves RAM is found as before."""

    def asking_is_recalling(patch):
        relevant = Memory.relevant

        def touching(self, text, k=5, **tiers):
            self.recall([text], 1)
            return relevant(self, text, k, **tiers)

        patch.setattr(Memory, "relevant", touching)

    plain = hits(asks=False)
    assert plain[1] == agreed("as usual")
    assert hits(asks=True) == plain
    assert hits(asks=True, mutate=asking_is_recalling)[0] != plain[0]
