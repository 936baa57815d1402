"""The request path as a whole: real HTTP against the rehearsal server, through runs."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import traceback

import pytest
from helpers import eventually, quick_run, sha

import troupelab as tl
from troupelab.events import CacheUsed, CallDone
from troupelab.livelimits import LiveLimits
from troupelab.models.model import NOW
from troupelab.models.pipeline import Pipeline
from troupelab.people.acts import EXPECTED, read_turn

KEY = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def endpoint():
    """A rehearsal server in a process of its own."""
    with tl.Rehearsal(key=KEY) as server:
        yield server


@pytest.fixture
def server(endpoint):
    """The same server without faults, counting from zero."""
    endpoint.configure(
        latency="const:0", p429=0, p500=0, pmalformed=0, pdrop=0, phang=0, retry_after_s=0, capacity=None,
        requests_per_s=None, refuse_parameters=(), models=None, key=KEY, prefix_cache=True, reply="scripted",
    )  # fmt: skip
    endpoint.reset()
    return endpoint


def chat(server, **options):
    """A model at the rehearsal server."""
    return tl.ChatModel("rehearsal", base_url=server.base_url, key=KEY, **options)


# ---------------------------------------------------------------------- the endpoint


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_over_http_is_counted_to_the_last_token(server, stream):
    """Requests, tokens and the provider's cached tokens in the frames are what the server has counted; connections are kept."""
    run = quick_run(model=chat(server, stream=stream)).start().wait(60)
    stats, summary, calls = server.stats(), run.summary(), run.frames.calls
    assert run.state == "done"
    assert summary["acts_lost"] == 0
    assert stats["requests"] == summary["requests"] == 32
    assert stats["tokens"] == {
        "in": summary["tokens_in"],
        "out": summary["tokens_out"],
        "cached": summary["tokens_cached"],
    }
    assert summary["tokens_cached"] > 0
    assert stats["connections"]["opened"] <= 8
    assert calls["first_token_s"].notna().all() == stream
    assert (calls["cost_usd"] == 0).all()


def test_what_the_endpoint_does_not_take_is_left_out(server):
    """An endpoint that wants max_completion_tokens and neither temperature nor a schema is talked to in its own way."""
    server.configure(refuse_parameters=("max_tokens", "temperature", "response_format"))
    run = quick_run(model=chat(server), steps=2).start().wait(60)
    assert run.summary()["acts_lost"] == 0
    assert (
        server.stats()["by_status"]["400"] <= 4 * 8
    )  # each of the first calls may meet each refusal; no later one does
    before = server.stats()["by_status"]["400"]
    quick_run(model=run.model, steps=1).start().wait(60)
    assert server.stats()["by_status"]["400"] == before


def test_an_azure_deployment_is_another_address_and_header(server):
    """The key goes as `api-key`, the version into the query, the deployment into the path."""
    root = server.base_url.removesuffix("/v1")
    model = tl.ChatModel.azure("rehearsal", endpoint=root, key=KEY)
    assert quick_run(model=model, steps=1).start().wait(60).summary()["acts_lost"] == 0


def test_environment_variables_are_those_that_everyone_knows(server, monkeypatch):
    """OPENAI_BASE_URL is where one talks to, and OPENAI_API_KEY goes there, but to no endpoint on one's own machine."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    model = tl.ChatModel("rehearsal")
    assert repr(model).endswith("key=none)")
    model.use_key(KEY)
    assert quick_run(model=model, steps=1).start().wait(60).summary()["acts_lost"] == 0
    assert repr(tl.ChatModel("x", base_url="https://example.org/v1")).endswith("key=***)")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "localhost:11434"}, "base_url"),
        ({"base_url": "ftp://x/v1"}, "base_url"),
        ({"base_url": "https://user:secret@x/v1"}, "without a user"),
        ({"base_url": "http://[::1/v1"}, "base_url"),
        ({"base_url": "http://x/v1", "key": "a\nb"}, "printable"),
    ],
)
def test_an_address_or_a_key_that_cannot_be_is_refused_at_once(options, says):
    """The sentence names the argument; the key is not in it."""
    with pytest.raises(tl.InputError, match=says) as caught:
        tl.ChatModel("m", **options)
    assert "secret" not in str(caught.value)
    assert "a\nb" not in str(caught.value)


def test_openai_without_a_key_says_so(monkeypatch):
    """Nobody has to make a call to hear that there is no key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(tl.ModelSetupError, match="OPENAI_API_KEY"):
        tl.ChatModel("gpt-4o-mini")


# ---------------------------------------------------------------------- what no call can get past


def paused(run):
    """Wait until a run has paused, and return its alert."""
    eventually("the run pauses", lambda: run.state == "paused" and run.in_flight == 0)
    return run.frames.alerts["message"].tolist()[-1]


def test_a_wrong_key_pauses_at_the_first_call_and_a_right_one_goes_on(server):
    """One sentence, no retries by the hour, no act lost; the wrong key and the right one appear nowhere."""
    model = tl.ChatModel("rehearsal", base_url=server.base_url, key="sk-wrong-987654321")
    run = quick_run(model=model, steps=2, limits=tl.Limits(max_concurrency=3)).start()
    alert = paused(run)
    assert "refused the key (401" in alert
    assert "OPENAI_API_KEY" in alert
    assert server.stats()["requests"] <= 3
    assert run.frames.alerts["kind"].tolist() == ["model"]
    model.use_key(KEY)
    run.resume()
    run.wait(60)
    assert run.summary()["acts_lost"] == 0
    assert run.summary()["requests"] == server.stats()["requests"]
    told = repr(model) + repr(run) + " ".join(frame.to_string() for frame in (run.frames.errors, run.frames.alerts))
    assert "wrong-98" not in told
    assert KEY not in told


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:9/v1", "nothing answers at http://127.0.0.1:9/v1"),
        (None, "is not the address of a chat endpoint"),
    ],
)
def test_a_wrong_address_pauses_at_the_first_call(server, url, says):
    """Where nothing listens, or something else, the first call says so and the run waits to be stopped."""
    run = quick_run(model=tl.ChatModel("m", base_url=url or server.base_url + "/nowhere", key=KEY), steps=1).start()
    assert says in paused(run)
    run.stop()
    assert run.wait(10).state == "stopped"


def test_a_model_that_does_not_exist_pauses_at_the_first_call(server):
    """The sentence names the model."""
    server.configure(models=("rehearsal",))
    run = quick_run(model=tl.ChatModel("gpt-99", base_url=server.base_url, key=KEY), steps=1).start()
    assert "has no model 'gpt-99'" in paused(run)
    server.configure(models=None)
    run.resume()
    assert run.wait(30).summary()["acts_lost"] == 0


def test_the_key_is_in_no_log_and_no_traceback(server, caplog):
    """Failures of every kind, with aiohttp's own errors among them, tell the address and never the key."""
    caplog.set_level(logging.DEBUG)
    texts = []
    server.configure(pdrop=1.0)
    for model in (chat(server), tl.ChatModel("m", base_url="http://127.0.0.1:9/v1", key=KEY)):
        request = tl.Request("act", 0, 0, 0, 0, 1, (tl.ChatMessage("user", "x"),))

        async def ask(model=model, request=request):
            try:
                await model.complete(request)
            finally:
                await model.release()

        with pytest.raises(tl.ModelError) as caught:
            asyncio.run(ask())
        texts += traceback.format_exception(caught.value)
        context = caught.value.__context__
        while context is not None:
            texts.append(repr(context))
            context = context.__context__
    assert not [text for text in [*texts, caplog.text] if KEY in text]


# ---------------------------------------------------------------------- guardrails


def test_max_tokens_pauses_and_no_call_goes_beyond_it(server):
    """The run pauses before the budget is exceeded, says which, goes on when it is raised, and ends as if nothing had been."""
    free = quick_run(model=chat(server)).start().wait(60)
    run = quick_run(model=chat(server), limits=tl.Limits(max_tokens=30_000)).start()
    alert = paused(run)
    assert "max_tokens" in alert
    assert "raise max_tokens and it goes on" in alert
    assert 20_000 < run.summary()["tokens_in"] + run.summary()["tokens_out"] <= 30_000
    assert run.frames.runs["reason"].tolist()[-1].startswith("max_tokens")
    run.limits.update(max_tokens=40_000)
    eventually("it goes on and pauses again", lambda: len(run.frames.alerts) == 2)
    run.limits.update(max_tokens=None)
    run.wait(60)
    assert run.summary()["acts_lost"] == 0
    assert sha(run) == sha(free)


def test_resuming_without_raising_the_budget_pauses_again(server):
    """A resumed run whose budget is still used up does not make a call."""
    run = quick_run(model=chat(server), limits=tl.Limits(max_tokens=12_000)).start()
    paused(run)
    before = server.stats()["requests"]
    run.resume()
    eventually("it pauses again", lambda: len(run.frames.alerts) == 2 and run.state == "paused")
    assert server.stats()["requests"] == before
    run.stop()
    run.wait(10)


def test_waiting_ends_at_a_pause_where_that_is_wanted_and_says_why(server, caplog):
    """wait(until="paused") returns at each pause, also the one after a raised limit; a plain wait says what holds the run; so does the log."""
    run = quick_run(model=chat(server), limits=tl.Limits(max_tokens=20_000)).start()
    assert run.wait(30, until="paused").state == "paused"
    assert run.paused_for.startswith("max_tokens")
    with pytest.raises(TimeoutError, match=r"it is paused \(max_tokens"):
        run.wait(0.1)
    done = run.progress().acts_done
    run.limits.update(max_tokens=40_000)
    run.wait(30, until="paused")
    assert run.progress().acts_done > done
    run.limits.update(max_tokens=None)
    assert run.wait(30, until="paused").state == "done"
    assert "raise max_tokens" in caplog.text


def test_max_cost_pauses_and_an_unknown_price_is_said(server):
    """With a price the budget holds; without one cost is NaN, an alert says so, and the summary has no number."""
    price = tl.Price(10.0, 1.0, 30.0)
    run = quick_run(model=chat(server, price=price), limits=tl.Limits(max_cost_usd=0.3)).start()
    assert "max_cost_usd" in paused(run)
    assert 0.2 < run.summary()["cost_usd"] <= 0.3
    run.stop()
    run.wait(10)
    unknown = chat(server)
    unknown.price = None
    run = quick_run(model=unknown, steps=1).start().wait(60)
    assert run.frames.alerts["kind"].tolist() == ["price"]
    assert run.summary()["cost_usd"] is None
    assert json.dumps(run.summary())


def test_max_wall_and_max_rss_pause_and_go_on_when_raised():
    """Time and memory pause the run too; pauses do not count as time."""
    model = tl.ScriptedModel(7, latency_s=0.05, latency_sigma=0.0)
    run = quick_run(model=model, steps=40, limits=tl.Limits(max_wall_s=0.4)).start()
    assert "max_wall_s" in paused(run)
    run.limits.update(max_wall_s=None, max_rss_bytes=100_000_000)
    eventually("memory pauses it", lambda: run.frames.alerts["kind"].tolist()[-1] == "max_rss_bytes")
    run.limits.update(max_rss_bytes=None)
    assert run.wait(60).state == "done"
    assert run.summary()["acts_lost"] == 0


# ---------------------------------------------------------------------- kept and shared answers


def test_a_second_run_from_the_cache_makes_no_call_and_says_the_same(server, tmp_path):
    """Same world, model, seed: all replies come from the file; another seed shares none; a damaged setting is refused in words."""
    file = tmp_path / "replies.sqlite"
    first = quick_run(model=chat(server), cache=file).start().wait(60)
    made = server.stats()["requests"]
    second = quick_run(model=chat(server), cache=file).start().wait(60)
    summary = second.summary()
    assert server.stats()["requests"] == made == 32
    assert sha(second) == sha(first)
    assert (summary["cached"], summary["requests"], summary["tokens_in"]) == (32, 0, 0)
    assert summary["tokens_saved"] == first.summary()["tokens_in"] + first.summary()["tokens_out"]
    assert set(second.frames.calls["source"]) == {"cache"}
    other = quick_run(model=chat(server), cache=file, seed=8).start().wait(60)
    assert other.summary()["cached"] == 0


def test_a_folder_keeps_replies_of_its_own(server, tmp_path):
    """A run with a folder has its replies beside its memories, unless they are not wanted."""
    quick_run(model=chat(server), steps=1, folder=tmp_path / "a").start().wait(60)
    quick_run(model=chat(server), steps=1, folder=tmp_path / "b", cache=False).start().wait(60)
    assert (tmp_path / "a" / "replies.sqlite").exists()
    assert not (tmp_path / "b" / "replies.sqlite").exists()
    again = quick_run(model=chat(server), steps=1, cache=tmp_path / "a" / "replies.sqlite").start().wait(60)
    assert again.summary()["cached"] == 8


def ask_many(server, requests, *, limits=None, **options):
    """Send requests at the same time through a pipeline; returns the turns and the events."""
    events = []

    async def main():
        pipeline = Pipeline(
            chat(server), LiveLimits(limits or tl.Limits()), emit=events.append,
            clock=asyncio.get_running_loop().time, **options,
        )  # fmt: skip
        tasks = [
            pipeline.complete(lambda attempt, request=request: request, read_turn, EXPECTED) for request in requests
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await pipeline.drain()

    return asyncio.run(main()), events


def same(number, temperature):
    """One of many requests for the same thing, by different agents."""
    message = tl.ChatMessage("user", f"{NOW}You just heard:\nnothing new")
    return tl.Request("act", number, 0, 0, 0, number, (message,), temperature)


def test_the_same_request_under_way_is_sent_once(server):
    """Twenty agents that ask the same at temperature 0 take one call; drawn replies are shared only where that is wanted."""
    server.configure(latency="const:0.1")
    turns, events = ask_many(server, [same(number, 0.0) for number in range(20)])
    assert server.stats()["requests"] == 1
    assert all(turn == turns[0] for turn in turns)
    calls = [event for event in events if isinstance(event, CallDone)]
    assert sorted(call.source for call in calls) == ["flight"] * 19 + ["model"]
    assert sum(call.attempts for call in calls) == 1
    assert sum(isinstance(event, CacheUsed) for event in events) == 19
    ask_many(server, [same(number, 1.0) for number in range(20)])
    assert server.stats()["requests"] == 21
    ask_many(server, [same(number, 1.0) for number in range(20)], share_identical=True)
    assert server.stats()["requests"] == 22


def test_interviews_of_like_questions_are_answered_alike_and_checked_in_the_shadow(server):
    """With cache_similarity set, a question in other words gets the kept answer; one with another number does not."""
    run = quick_run(model=chat(server), steps=2, limits=tl.Limits(cache_similarity=0.9)).start().wait(60)
    before = server.stats()["requests"]
    first = run.ask("Amara Okafor", "What would you pay for the lamp, honestly?")
    assert run.ask("Amara Okafor", "What would you pay for the lamp - honestly?") == first
    assert server.stats()["requests"] <= before + 2  # the second only where it is checked in the shadow
    run.ask("Amara Okafor", "What would you pay for 2 lamps, honestly?")
    assert server.stats()["requests"] >= before + 2
    used = run.frames.cache
    assert "semantic" in used["kind"].tolist()


# ---------------------------------------------------------------------- packing


def test_acts_that_are_packed_take_a_call_for_many(server):
    """With pack_acts, a step's acts go out together; every agent still acts, and tokens and requests add up."""
    server.configure(latency="const:0.05")
    run = quick_run(model=chat(server), steps=3, pack_acts=True, limits=tl.Limits(batch_window_ms=100)).start().wait(60)
    calls, summary = run.frames.calls, run.summary()
    assert summary["acts_lost"] == 0
    assert server.stats()["requests"] == summary["requests"] == 3
    assert (calls["source"] == "pack").sum() == 24
    assert (calls["purpose"] == "pack").sum() == 3
    assert server.stats()["tokens"]["in"] == summary["tokens_in"]
    assert run.frames.actions.groupby("agent", observed=True).size().min() >= 3


def test_a_bad_part_of_a_pack_falls_back_to_a_call_of_its_own():
    """What is missing or broken in a packed reply is asked for by itself; the others are taken."""

    class Sloppy(tl.ScriptedModel):
        async def complete(self, request):
            reply = await super().complete(request)
            if request.purpose != "pack":
                return reply
            parts = json.loads(reply.text)
            del parts["1"]
            parts["2"] = "later"
            parts["3"] = {"actions": []}
            return tl.Reply(json.dumps(parts), 1, 1, 0.0, "sloppy")

    limits = tl.Limits(batch_window_ms=100)
    run = quick_run(model=Sloppy(7, latency_s=0.0), steps=1, pack_acts=True, limits=limits).start().wait(60)
    calls = run.frames.calls
    assert run.summary()["acts_lost"] == 0
    assert run.summary()["requests"] == 1 + 2 + 1
    assert (calls["source"] == "pack").sum() == 5
    assert set(run.frames.errors["kind"]) == {"ReplyError"}


def test_consolidations_are_packed_and_keep_every_fact():
    """Notes that the model writes for several agents at once are those that it writes for each."""
    limits = tl.Limits(recent_max_records=30)
    options = {"steps": 12, "consolidate": "model"}
    packed = quick_run(limits=limits, **options).start().wait(60)
    single = quick_run(limits=limits.replace(batch_window_ms=0), **options).start().wait(60)
    assert packed.summary()["requests"] < single.summary()["requests"]
    assert packed.summary()["tokens_in"] < single.summary()["tokens_in"]
    notes = [[[note.text for note in agent.memory.notes] for agent in run._stage.agents] for run in (packed, single)]
    assert notes[0] == notes[1]
    assert sha(packed) == sha(single)


# ---------------------------------------------------------------------- pace


def test_adaptive_concurrency_finds_what_the_endpoint_takes(server):
    """Against an endpoint that takes eight at once, fewer calls are refused than without, and all acts are done."""
    server.configure(latency="const:0.05", capacity=8)
    world = tl.World.load("market_panel", agents=40, seed=7)
    refused = []
    for adaptive in (False, True):
        server.reset()
        limits = tl.Limits(max_concurrency=40, adaptive_concurrency=adaptive)
        run = quick_run(world, model=chat(server), steps=4, limits=limits).start().wait(120)
        assert run.summary()["acts_lost"] == 0
        refused.append(server.stats()["by_status"].get("429", 0))
    assert refused[1] < refused[0]


def test_requests_a_minute_hold_and_can_be_lifted_mid_run(server):
    """At 120 a minute a run crawls; lifted, the rest goes at once."""
    run = quick_run(model=chat(server), steps=3, limits=tl.Limits(requests_per_minute=120)).start()
    eventually("a few calls are made", lambda: run.progress().acts_done >= 3)
    assert run.progress().acts_done < 20
    run.limits.update(requests_per_minute=None)
    assert run.wait(10).summary()["acts_lost"] == 0


def test_the_calls_in_flight_follow_the_limit(server):
    """From 10 to 60 to 5 while it runs: what the server sees at once is never more than was allowed, and gets there."""
    server.configure(latency="const:0.2")
    world = tl.World.load("market_panel", agents=60, seed=7)
    run = quick_run(world, model=chat(server), steps=12, limits=tl.Limits(max_concurrency=10)).start()
    for size in (10, 60, 5):
        run.limits.update(max_concurrency=size)
        eventually(f"{size} are in flight", lambda size=size: run.in_flight == size, timeout_s=5)
        eventually("and at the server", lambda size=size: server.stats()["in_flight"]["now"] == size, timeout_s=5)
    run.stop(now=True)
    run.wait(10)


# ---------------------------------------------------------------------- hedging and priority


def test_a_slow_call_is_asked_twice_and_the_first_answer_counts():
    """With hedging on, a call that hangs is overtaken by its second request; no more than a share of calls is asked twice."""

    class Uneven:
        name = "uneven"

        def __init__(self):
            self.seen, self.calls = set(), 0

        async def complete(self, request):
            self.calls += 1
            slow = request.agent == 39 and (request.agent, request.step) not in self.seen
            self.seen.add((request.agent, request.step))
            await asyncio.sleep(30 if slow else 0.005)
            return tl.Reply('{"actions": [{"type": "DONE"}]}', 1, 1, 0.0, self.name)

    model = Uneven()
    world = tl.World.load("market_panel", agents=40, seed=7)
    limits = tl.Limits(max_hedged_fraction=0.05, max_concurrency=30)
    run = quick_run(world, model=model, steps=5, limits=limits).start().wait(25)
    assert run.summary()["requests"] == model.calls
    assert 5 <= model.calls - 200 <= 10


def test_who_holds_up_the_most_others_is_served_first():
    """With one slot, the agent whom most hear goes before those whom few hear, whatever their order in the world."""
    asked = []

    class Watching(tl.ScriptedModel):
        async def complete(self, request):
            asked.append(request.agent)
            return await super().complete(request)

    run = quick_run("town", model=Watching(7, latency_s=0.0), steps=1, limits=tl.Limits(max_concurrency=1))
    run.start(paused=True)
    eventually("all wait", lambda: run.queued == 0 and run.state == "paused")
    run.resume()
    run.wait(30)
    holds = [len(run.world.audience[agent]) + len(run.world.reachable[agent]) for agent in asked]
    assert sorted(asked) == list(range(25))
    assert sum(holds[:12]) > sum(holds[-12:])


# ---------------------------------------------------------------------- interviews


def test_an_interview_is_held_at_any_time_and_changes_nothing():
    """Asked before, during, while paused and after, the transcript is that of a run without interviews."""
    plain = quick_run(steps=6).start().wait(60)
    run = quick_run(steps=6, model=tl.ScriptedModel(7, latency_s=0.0))
    name = run.agent_names[1]
    assert run.ask(name, "Who are you?")
    run.step(3)
    eventually("it has paused", lambda: run.state == "paused" and run.progress().step == 2)
    assert run.ask(name, "What does the lamp cost?")
    run.resume()
    run.wait(60)
    assert run.ask(name, "And now?")
    assert sha(run) == sha(plain)
    asked = run.frames.calls.query("purpose == 'ask'")
    assert len(asked) == 3
    assert (asked["latency_s"] > 0).all()


def test_an_interview_is_remembered_only_if_asked_to_be():
    """With remember=True, question and answer are in the agent's memory from its next act on; else nowhere."""
    run = quick_run(steps=4)
    name = run.agent_names[0]
    run.step(2)
    eventually("it has paused", lambda: run.state == "paused" and run.progress().step == 1)
    run.ask(name, "Is the zeppelin safe?")
    answer = run.ask(name, "Is the submarine safe?", remember=True)
    run.resume()
    run.wait(60)
    texts = [record.text for record in run._stage.agents[0].memory.between(0, 4)]
    assert "Is the submarine safe?" in texts
    assert answer in texts
    assert not any("zeppelin" in text for text in texts)
    with pytest.raises(tl.RunError, match="ended"):
        run.ask(name, "Again?", remember=True)


def test_an_interview_that_the_run_s_end_overtakes_says_so():
    """A question under way when the run is stopped ends with a sentence, and can be asked again."""

    class Slow(tl.ScriptedModel):
        async def complete(self, request):
            await asyncio.sleep(60 if request.purpose == "ask" and run.state != "stopped" else 0.02)
            return await super().complete(request)

    model = Slow(7, latency_s=0.0)
    run = quick_run(model=model, steps=400).start()
    outcome = []

    def ask():
        try:
            run.ask(run.agent_names[0], "Who are you?")
        except tl.RunError as error:
            outcome.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    eventually("the question is under way", lambda: run._engine.interviewer._questions == 1)
    time.sleep(0.1)
    run.stop(now=True)
    run.wait(10)
    asking.join(10)
    assert outcome == ["the run ended before that was done; ask again, now that it has"]
    assert run.ask(run.agent_names[0], "Who are you?")


def test_an_interview_that_the_budget_does_not_cover_is_refused_and_pauses_nothing():
    """Also after the end, where nobody could raise the limit in time, the sentence names it."""
    run = quick_run(steps=1).start().wait(60)
    run.limits.update(max_tokens=1)
    with pytest.raises(tl.ModelRequestError, match="raise max_tokens"):
        run.ask(run.agent_names[0], "And now?")
    assert len(run.frames.alerts) == 0


def test_nobody_who_is_not_there_can_be_asked():
    """An unknown name is refused with the known ones."""
    with pytest.raises(tl.RunError, match="Amara Okafor"):
        quick_run().ask("Nobody", "?")


# ---------------------------------------------------------------------- vectors from the endpoint


def test_vectors_of_an_endpoint_are_fetched_ahead_and_together(server):
    """Memories that compare by an endpoint's vectors never wait for it on the loop, and many texts share a request."""
    server.configure(latency="const:0.02")
    with tl.EndpointEmbedder(chat(server), "vectors") as embedder:
        fetched_on_loop = []
        embed = embedder.embed

        def watched(texts):
            before = embedder.stats()["requests"]
            vectors = embed(texts)
            if embedder.stats()["requests"] > before and threading.current_thread().name == "troupelab":
                fetched_on_loop.append(texts)
            return vectors

        embedder.embed = watched
        limits = tl.Limits(recent_max_records=30)
        run = quick_run(model=chat(server), steps=8, embedder=embedder, limits=limits).start().wait(60)
        assert run.ask(run.agent_names[0], "What does the lamp cost?")
        stats = embedder.stats()
    assert run.summary()["acts_lost"] == 0
    assert run.summary()["errors"] == 0
    assert fetched_on_loop == []
    assert stats["texts_sent"] > 3 * stats["requests"]


def test_a_run_whose_vectors_cannot_be_had_pauses_and_goes_on(server):
    """An embedding endpoint that fails pauses the run with an alert; mended and resumed, no act is lost."""
    with tl.EndpointEmbedder(chat(server), "vectors", dims=256, max_attempts=1) as embedder:
        run = quick_run(steps=3, embedder=embedder)
        server.configure(p500=1.0)
        run.start()
        assert "the endpoint failed" in paused(run)
        server.configure(p500=0)
        run.resume()
        assert run.wait(30).summary()["acts_lost"] == 0


# ---------------------------------------------------------------------- all faults at once


def test_through_all_faults_every_act_is_done_or_told_and_every_request_is_counted(server):
    """With a fault in a third of all requests, no act is lost untold, the account is the server's own, and a second run meets the same."""
    digests, requests = [], []
    for concurrency in (30, 4):
        server.configure(
            latency="lognorm:0.01:0.5", p429=0.2, p500=0.05, pmalformed=0.05, pdrop=0.02, phang=0.01, seed=5
        )
        server.reset()
        world = tl.World.load("market_panel", agents=30, seed=7)
        limits = tl.Limits(timeout_s=0.5, max_concurrency=concurrency)
        run = quick_run(world, model=chat(server), steps=4, limits=limits).start().wait(120)
        stats, errors, acts = server.stats(), run.frames.errors, run.frames.acts
        kinds = errors["kind"].value_counts()
        assert run.state == "done"
        assert len(acts) == 120
        assert stats["requests"] == run.frames.calls["attempts"].sum() > 150
        assert kinds["ModelBusyError"] == stats["by_status"]["429"]
        assert kinds["ModelServerError"] == stats["by_status"]["500"]
        assert kinds["ModelConnectionError"] == stats["by_status"]["dropped"]
        assert len(errors) == stats["requests"] - len(acts) + (acts["error"] != "").sum()
        digests.append(sha(run))
        requests.append(stats["requests"])
    assert digests[0] == digests[1]
    assert requests[0] == requests[1]
