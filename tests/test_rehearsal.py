"""The rehearsal server: its endpoints, its faults, its account, and the process that it runs in."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter

import aiohttp
import numpy as np
import pytest
from helpers import eventually
from hypothesis import given, settings
from hypothesis import strategies as st

from troupelab.errors import InputError, RunError
from troupelab.models.model import NOW, PEOPLE, PERSONA, ChatMessage, Request
from troupelab.models.parse import parse_object
from troupelab.models.rehearsal import command as rehearsal
from troupelab.models.rehearsal.command import Settings, serve
from troupelab.models.rehearsal.process import Rehearsal
from troupelab.models.rehearsal.replies import SHORT_REPLY, fill, spoil
from troupelab.models.rehearsal.settings import MALFORMED, Latency
from troupelab.models.scripted import ScriptedModel
from troupelab.people.acts import EXPECTED, read_turn
from troupelab.text.embed import HashingEmbedder

SYSTEM = (
    f"Play.{PERSONA}{json.dumps({'name': 'Ada', 'beliefs': ['Bread should be sour.']})}{PEOPLE}You can talk to: Bo."
)
USER = f"{NOW}{json.dumps({'type': 'CONVERSATION', 'source': 'Bo', 'content': 'The ferry leaves at 7.'})}"
CHAT = "/v1/chat/completions"


class Client:
    """Asks one server that runs in this process."""

    def __init__(self, address, session):
        self.root = address.removesuffix("/v1")
        self.session = session

    async def ask(self, path, body=None, *, method=None, headers=None):
        """Status and JSON of an answer; the text where it is none."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        method = method or ("GET" if data is None else "POST")
        data = data and io.BytesIO(data)  # aiohttp warns of long bodies that are bytes
        async with self.session.request(method, self.root + path, data=data, headers=headers) as answer:
            raw = await answer.text()
            try:
                return answer.status, json.loads(raw)
            except ValueError:
                return answer.status, raw

    async def chat(self, text="Say hello.", **more):
        """Ask for one completion."""
        return await self.ask(CHAT, chat(text, **more))

    async def said(self, text="Say hello.", **more):
        """The content of one completion."""
        status, found = await self.chat(text, **more)
        assert status == 200, found
        return found["choices"][0]["message"]["content"]

    async def stats(self):
        """The server's account."""
        return (await self.ask("/stats"))[1]


def chat(text="Say hello.", **more):
    """The body of a chat request."""
    return {"model": "any", "messages": [{"role": "user", "content": text}], **more}


def talk(use, **options):
    """Run `use(client)` against a server with these settings, in one loop."""

    async def main():
        address = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(Settings().changed(options), ready=address.set_result))
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            try:
                return await use(Client(await address, session))
            finally:
                serving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await serving

    return asyncio.run(main())


def consistent(stats):
    """Every request was counted once and ended once, or is still under way."""
    ended = sum(stats["by_status"].values())
    return stats["requests"] == sum(stats["by_path"].values()) == ended + stats["in_flight"]["now"]


# ---------------------------------------------------------------------- endpoints


def test_a_prompt_of_ours_is_answered_as_the_scripted_model_answers_it():
    """The text is the scripted model's for the same messages and seed, and the tokens are its count."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]

    async def use(client):
        status, found = await client.ask(CHAT, {"model": "any", "messages": messages, "seed": 11})
        assert status == 200
        return found

    found = talk(use, seed=3)
    asked = Request("act", 0, 0, 0, 0, 11, tuple(ChatMessage(**each) for each in messages))
    reply = asyncio.run(ScriptedModel(3, latency_s=0.0).complete(asked))
    assert found["choices"][0]["message"]["content"] == reply.text
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["prompt_tokens"] == reply.tokens_in
    assert found["usage"]["completion_tokens"] == reply.tokens_out
    assert found["usage"]["total_tokens"] == reply.tokens_in + reply.tokens_out


def test_every_form_of_the_chat_path_answers_alike():
    """With /v1, without, and as Azure names it, where the model stands in the path."""

    async def use(client):
        body = chat("What is new?")
        first, second = await client.ask(CHAT, body), await client.ask("/chat/completions?x=1", body)
        azure = await client.ask(
            "/openai/deployments/my%20gpt/chat/completions?api-version=1", {"messages": body["messages"]}
        )
        return first, second, azure

    first, second, azure = talk(use)
    assert {status for status, _ in (first, second, azure)} == {200}
    texts = {found["choices"][0]["message"]["content"] for _, found in (first, second, azure)}
    assert len(texts) == 1
    assert azure[1]["model"] == "my gpt"


def test_embeddings_are_the_hashing_embedders_as_numbers_and_as_bytes():
    """A batch, one text, tokens; float and base64 agree; the dimensions asked for are the dimensions given."""
    texts = ["the bakery closes in May", "a new ferry"]

    async def use(client):
        plain = await client.ask("/v1/embeddings", {"model": "e", "input": texts})
        packed = await client.ask("/v1/embeddings", {"model": "e", "input": texts, "encoding_format": "base64"})
        small = await client.ask("/openai/deployments/e/embeddings", {"input": texts[0], "dimensions": 8})
        tokens = await client.ask("/v1/embeddings", {"model": "e", "input": [[1, 2], [3]]})
        return plain, packed, small, tokens, await client.stats()

    plain, packed, small, tokens, stats = talk(use)
    vectors = np.array([each["embedding"] for each in plain[1]["data"]], dtype=np.float32)
    assert np.allclose(vectors, HashingEmbedder(256).embed(texts))
    unpacked = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in packed[1]["data"]]
    assert np.array_equal(vectors, np.stack(unpacked))
    assert len(small[1]["data"][0]["embedding"]) == 8
    assert [each["index"] for each in tokens[1]["data"]] == [0, 1]
    assert plain[1]["usage"]["prompt_tokens"] == sum(map(len, texts)) // 4
    assert stats["embedding_texts"] == 7


def test_models_are_listed_and_another_is_not_found():
    """GET /v1/models lists them; a name that is not there is answered as OpenAI answers it."""

    async def use(client):
        return await client.ask("/v1/models"), await client.chat(), await client.ask(CHAT, chat() | {"model": "b"})

    listed, missing, known = talk(use, models=["a", "b"])
    assert [each["id"] for each in listed[1]["data"]] == ["a", "b"]
    assert (missing[0], missing[1]["error"]["code"]) == (404, "model_not_found")
    assert known[0] == 200


def test_a_stream_brings_the_same_text_in_pieces_and_its_usage_where_asked():
    """The pieces make the whole answer's text; the last chunk before the end has the usage and no choice."""

    async def use(client):
        whole = await client.said("A long question.")
        async with client.session.post(
            client.root + CHAT, json=chat("A long question.", stream=True, stream_options={"include_usage": True})
        ) as answer:
            assert answer.content_type == "text/event-stream"
            lines = [line.decode().strip() async for line in answer.content]
        async with client.session.post(client.root + CHAT, json=chat("A long question.", stream=True)) as answer:
            plain = (await answer.text()).strip().split("\n\n")
        return whole, [line for line in lines if line], plain, await client.stats()

    whole, lines, plain, stats = talk(use)
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == plain[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in chunks[:-1]) == whole
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(whole) // 4
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in json.loads(plain[0][6:])
    assert stats["by_status"] == {"200": 3}


def test_a_streams_first_chunk_comes_before_its_last():
    """The first chunk is there while the request is still in service."""

    async def use(client):
        async with client.session.post(client.root + CHAT, json=chat(stream=True)) as answer:
            first = await answer.content.readline()
            under_way = (await client.stats())["in_flight"]["now"]
            await answer.read()
        return first, under_way, await client.stats()

    first, under_way, stats = talk(use, latency="const:0.3")
    assert first.startswith(b"data: {")
    assert under_way == 1
    assert stats["service_s"]["max"] >= 0.3


def test_a_reply_ends_where_max_tokens_says():
    """A reply longer than max_tokens is cut and says so."""

    async def use(client):
        return await client.chat(max_tokens=3), await client.chat(max_completion_tokens=3)

    for status, found in talk(use):
        choice = found["choices"][0]
        assert (status, choice["finish_reason"], len(choice["message"]["content"])) == (200, "length", 12)
        assert found["usage"]["completion_tokens"] == 3


def test_the_prompts_beginning_is_reported_as_cached_once_it_was_answered():
    """Whole blocks of 1,024 tokens that a finished request had before; none where the cache is off."""
    start = "All that never changes. " * 400  # 9,600 characters: two blocks

    async def use(client):
        cached = []
        for text in (start + "One.", start + "Two.", "Other. " + start):
            found = (await client.chat(text))[1]
            cached.append(found["usage"]["prompt_tokens_details"]["cached_tokens"])
        stats = await client.stats()
        await client.ask("/config", {"prefix_cache": False})
        found = (await client.chat(start + "Three."))[1]
        return cached, stats, found["usage"]["prompt_tokens_details"]["cached_tokens"]

    cached, stats, off = talk(use)
    assert cached == [0, 2_048, 0]
    assert stats["tokens"]["cached"] == 2_048
    assert off == 0


# ---------------------------------------------------------------------- replies


def test_tinytroupes_schemas_are_answered_in_their_shape():
    """One action, several, with reasoning, and a scalar; DONE follows where an action was already taken."""
    heard = json.dumps({"stimuli": [{"type": "CONVERSATION", "source": "Bo", "content": "The ferry leaves at 7."}]})
    persona = (
        "# You\n```json\n" + json.dumps({"persona": {"name": "Ada", "beliefs": ["Bread should be sour."]}}) + "\n```"
    )

    def body(name, *, acted=False, schema=None):
        messages = [{"role": "system", "content": persona}, {"role": "user", "content": heard}]
        if acted:
            messages += [{"role": "assistant", "content": "{}"}, {"role": "user", "content": "Now act."}]
        held = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema or {}}}
        return {"model": "any", "messages": messages, "response_format": held}

    async def use(client):
        found = {}
        scalar = {"properties": {"value": {"type": "number"}}}
        for name, options in (
            ("CognitiveActionModel", {}),
            ("CognitiveActionsModel", {}),
            ("CognitiveActionsModelWithReasoning", {}),
            ("CognitiveActionModelWithReasoning", {"acted": True}),
            ("LLMScalarWithJustificationResponse", {}),
            ("LLMScalarWithJustificationAndReasoningResponse", {"schema": scalar}),
        ):
            answer = (await client.ask(CHAT, body(name, **options)))[1]
            found[name] = json.loads(answer["choices"][0]["message"]["content"])
        return list(found.values())

    one, several, reasoned, done, scalar, number = talk(use)
    assert list(one) == ["action", "cognitive_state"]
    assert set(one["cognitive_state"]) == {"goals", "context", "attention", "emotions"}
    assert one["action"]["type"] in ("THINK", "TALK")
    assert several["actions"][-1]["type"] == "DONE"
    assert "reasoning" not in several
    assert next(iter(reasoned)) == "reasoning"
    assert done["action"]["type"] == "DONE"
    assert set(scalar) == {"justification", "value", "confidence"}
    assert isinstance(scalar["value"], str)
    assert isinstance(number["value"], int)
    assert number["reasoning"]


def test_other_requests_get_something_sensible():
    """A plain sentence without a format, an object with json_object, TinyTroupe's notes where it asks for them."""

    async def use(client):
        plain = await client.said("Say hello.")
        held = await client.said("Say hello.", response_format={"type": "json_object"})
        notes = await client.said('Write {"consolidation": [...]}', response_format={"type": "json_object"})
        parts = await client.said(
            [{"type": "text", "text": "Say "}, {"type": "image_url"}, {"type": "text", "text": "hi."}]
        )
        return plain, json.loads(held), json.loads(notes), parts

    plain, held, notes, parts = talk(use)
    assert plain.endswith((".", "?", "!", "…"))
    assert "{" not in plain + parts
    assert read_turn(held).actions
    assert notes["consolidation"][0]["content"]


SCHEMA = st.recursive(
    st.sampled_from(
        [{"type": "string"}, {"type": "integer", "minimum": 4}, {"type": "null"}, {"enum": ["a", "b"]}, {"const": 7},
         {"$ref": "#"}, {"$ref": "#/$defs/x"}, {}, {"type": ["boolean", "null"]}, {"type": 5}]
    ),
    lambda inner: st.one_of(
        inner.map(lambda items: {"type": "array", "items": items}),
        st.dictionaries(st.text(max_size=3), inner, max_size=4).map(lambda found: {"type": "object", "properties": found}),
        st.lists(inner, max_size=3).map(lambda found: {"anyOf": found}),
    ),
    max_leaves=12,
)  # fmt: skip


@given(SCHEMA)
def test_any_schema_is_filled_in_bounded_time(schema):
    """Schemas that contain themselves end, too, and what is written is JSON of bounded size."""
    assert len(json.dumps(fill(schema, "Hm."))) < 100_000


def test_a_schema_is_filled_with_what_it_asks_for():
    """Each property has its type; a schema that contains itself ends in nothing."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 18},
            "kind": {"enum": ["b", "c"]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "$defs": {"Tag": {"type": "object", "properties": {"ok": {"type": "boolean"}}}},
    }
    found = fill(schema, "Hm.")
    assert found["name"] == "Hm."
    assert found["age"] == 18
    assert found["kind"] == "b"
    assert found["tags"] == [{"ok": True}]
    assert found["next"]["name"] == "Hm."


def test_the_short_reply_is_a_turn():
    """What benchmarks are answered can be read as an act."""
    assert [action.type for action in read_turn(json.loads(SHORT_REPLY)).actions] == ["TALK", "DONE"]


# ---------------------------------------------------------------------- faults


def test_too_many_and_failing_are_answered_as_openai_answers_them():
    """429 with its header, 500, each with an error object."""

    async def use(client):
        async with client.session.post(client.root + CHAT, json=chat()) as answer:
            busy = answer.status, answer.headers["Retry-After"], (await answer.json())["error"]["code"]
        await client.ask("/config", {"p429": 0, "p500": 1})
        return busy, await client.chat()

    busy, failed = talk(use, p429=1.0, retry_after_s=0.5)
    assert busy == (429, "0.5", "rate_limit_exceeded")
    assert (failed[0], failed[1]["error"]["type"]) == (500, "server_error")


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_reply_is_spoilt_in_each_way(kind):
    """The answer is 200 and its content is what `spoil` makes of the good one."""

    async def use(client):
        good = await client.said("Say hello.", response_format={"type": "json_object"})
        await client.ask("/config", {"pmalformed": 1.0, "malformed": kind})
        return good, await client.said("Say hello.", response_format={"type": "json_object"})

    good, spoilt = talk(use)
    assert spoilt == spoil(good, kind) != good
    if kind == "fence":  # the one that a lenient reader always mends
        assert parse_object(spoilt, EXPECTED, max_bytes=100_000, max_depth=16) == json.loads(good)
    elif kind == "nokey":
        assert not set(EXPECTED) & json.loads(spoilt).keys()
    else:
        with pytest.raises(json.JSONDecodeError):
            json.loads(spoilt)


def test_mixed_draws_several_ways():
    """Over some requests more than two ways of spoiling occur."""

    async def use(client):
        return [await client.said(f"Question {number}.") for number in range(20)]

    assert len({text[:10] for text in talk(use, pmalformed=1.0)}) > 2


def test_a_dropped_call_gets_no_answer():
    """The connection is lost, whole and streamed, and counted as dropped."""

    async def use(client):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.chat()
        async with client.session.post(client.root + CHAT, json=chat(stream=True)) as answer:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.ask("/v1/embeddings", {"model": "e", "input": "x"})
        return await client.stats()

    stats = talk(use, pdrop=1.0)
    assert stats["by_status"] == {"dropped": 3}
    assert consistent(stats)


def test_a_hanging_call_gets_no_answer_until_its_time_is_over():
    """It hangs for hang_s, then loses its connection; who leaves earlier is counted as hung as well."""

    async def use(client):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.chat()
        await client.ask("/config", {"hang_s": 60})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.chat(), 0.1)
        while (await client.stats())["in_flight"]["now"]:
            await asyncio.sleep(0.01)
        return await client.stats()

    stats = talk(use, phang=1.0, hang_s=0.05)
    assert stats["by_status"] == {"hung": 2}


async def outcomes(client, at_once):
    """Each of 40 bodies five times over, and how each of these calls ended."""
    slots = asyncio.Semaphore(at_once)

    async def once(number):
        async with slots:
            try:
                status, found = await client.chat(f"Question {number}.")
            except aiohttp.ClientError:
                return "dropped"
            return found["choices"][0]["message"]["content"] if status == 200 else str(status)

    async def five_times(number):
        return [await once(number) for _ in range(5)]

    return await asyncio.gather(*(five_times(number) for number in range(40)))


def test_faults_do_not_depend_on_how_many_calls_are_in_flight():
    """At 1 and 50 in flight each body meets the same faults in the same order, another seed gives others."""
    faults = {"p429": 0.2, "p500": 0.1, "pmalformed": 0.1, "pdrop": 0.1, "latency": "uniform:0:0.002"}
    one = talk(lambda client: outcomes(client, 1), seed=5, **faults)
    many = talk(lambda client: outcomes(client, 50), seed=5, **faults)
    other = talk(lambda client: outcomes(client, 50), seed=6, **faults)
    assert one == many != other
    ends = Counter(end for ends in many for end in ends)
    assert {"429", "500", "dropped"} <= ends.keys()
    assert 15 <= ends["429"] <= 70  # 200 draws at 0.2
    assert any(len(set(ends)) > 1 for ends in many)  # asked again, a body may fare better


def test_more_than_the_capacity_is_turned_away_and_not_counted_as_seen():
    """Of ten at once two are served; what was turned away meets its first draw later."""

    async def use(client):
        answers = await asyncio.gather(*(client.chat(f"Question {number}.") for number in range(10)))
        await client.ask("/config", {"capacity": None, "latency": "const:0"})
        late = [await client.chat(f"Question {number}.") for number in range(10)]
        return answers, late, await client.stats()

    answers, late, stats = talk(use, capacity=2, latency="const:0.2")
    assert Counter(status for status, _ in answers) == {200: 2, 429: 8}
    ids = [found["id"].rpartition("-")[2] for _, found in late]
    assert Counter(ids) == {"0": 8, "1": 2}
    assert stats["by_status"] == {"200": 12, "429": 8}


def test_more_than_so_many_a_second_are_turned_away():
    """One second's worth at once goes through, then the rate holds."""

    async def use(client):
        return Counter([(await client.chat(f"Question {number}."))[0] for number in range(10)])

    assert talk(use, requests_per_s=4.0 / 60) == {200: 1, 429: 9}


def test_parameters_can_be_refused():
    """A refused parameter is answered 400 and named; without it the request is served."""

    async def use(client):
        return await client.chat(max_tokens=5), await client.chat(max_completion_tokens=5), await client.chat(seed=None)

    refused, served, absent = talk(use, refuse_parameters=["max_tokens", "seed"])
    assert refused[0] == 400
    assert refused[1]["error"]["param"] == "max_tokens"
    assert refused[1]["error"]["code"] == "unsupported_parameter"
    assert served[0] == absent[0] == 200


def test_a_key_is_asked_for_and_never_shown():
    """A wrong or missing key is 401; both headers carry it; no answer, setting or error holds either key."""
    key, wrong = "sk-right-4711", "sk-wrong-0815"

    async def use(client):
        answers = [
            await client.ask(CHAT, chat(), headers=headers)
            for headers in (
                {"Authorization": f"Bearer {key}"},
                {"api-key": key},
                {"Authorization": f"Bearer {wrong}"},
                {"api-key": wrong},
                {},
            )
        ]
        shown = [await client.ask("/config"), await client.ask("/config", {"key": key + "\n"}), await client.stats()]
        return answers, json.dumps([answers, shown])

    answers, shown = talk(use, key=key)
    assert [status for status, _ in answers] == [200, 200, 401, 401, 401]
    assert answers[2][1]["error"]["code"] == "invalid_api_key"
    assert key not in shown + repr(Settings(key=key)) + repr(Rehearsal(key=key))
    assert wrong not in shown


# ---------------------------------------------------------------------- account


def test_every_request_is_counted_once_under_a_mix_of_faults_and_leaving_clients():
    """After 150 calls with faults, of which some clients leave early, all are accounted for and none is in flight."""

    async def use(client):
        async def once(number):
            body = chat(f"Question {number}.", stream=number % 3 == 0)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with (
                    asyncio.timeout(0.4 if number % 4 == 0 else 5),
                    client.session.post(client.root + CHAT, json=body) as answer,
                ):
                    await answer.read()
            return await client.stats() if number % 10 == 0 else None

        middle = await asyncio.gather(*(once(number) for number in range(150)))
        while (await client.stats())["in_flight"]["now"]:
            await asyncio.sleep(0.01)
        return [each for each in middle if each], await client.stats()

    middle, stats = talk(
        use, latency="uniform:0.1:0.8", p429=0.1, p500=0.1, pdrop=0.1, phang=0.05, pmalformed=0.1, hang_s=0.3
    )
    assert all(map(consistent, middle))
    assert consistent(stats)
    assert 112 <= stats["requests"] <= 150  # a quarter may have left before it had asked
    assert {"200", "429", "500", "dropped", "hung", "client_gone"} == stats["by_status"].keys()
    assert 0 < stats["in_flight"]["mean"] <= stats["in_flight"]["peak"] <= 150


def test_connections_are_counted_without_those_that_only_look():
    """Ten calls one after another over one pooled connection open one; reading the account opens none."""

    async def use(client):
        for _ in range(10):
            await client.chat()
        async with aiohttp.ClientSession() as other:
            for _ in range(3):
                async with other.get(client.root + "/stats") as answer:
                    stats = await answer.json()
        return stats

    stats = talk(use)
    assert stats["connections"] == {"opened": 1, "open": 1, "peak": 1}
    assert stats["bytes"]["in"] == 10 * len(json.dumps(chat()))


def test_a_reset_counts_from_zero_and_forgets():
    """Requests under way at a reset count towards neither side, and bodies are new again."""

    async def use(client):
        first = (await client.chat())[1]["id"]
        slow = asyncio.create_task(client.ask(CHAT, chat("Slow.", seed=1)))
        await client.ask("/config", {"latency": "const:0.1"})
        under_way = asyncio.create_task(client.chat("Under way."))
        while not (await client.stats())["in_flight"]["now"]:
            await asyncio.sleep(0.005)
        await client.ask("/reset", {})
        await asyncio.gather(slow, under_way)
        after = await client.stats()
        await client.ask("/config", {"latency": "const:0"})
        return first, (await client.chat())[1]["id"], after

    first, again, after = talk(use)
    assert first == again
    assert (after["requests"], after["by_status"], after["in_flight"]["peak"]) == (0, {}, 0)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"latency": "const"}, "latency"),
        ({"latency": "const:nan"}, "latency"),
        ({"latency": "uniform:2:1"}, "latency"),
        ({"latency": 3}, "latency"),
        ({"p429": 1.5}, "p429"),
        ({"p500": "0.5"}, "p500"),
        ({"p429": 0.6, "p500": 0.6}, "p429"),
        ({"malformed": "odd"}, "malformed"),
        ({"capacity": 0}, "capacity"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"models": "gpt"}, "models"),
        ({"models": [[]]}, "models"),
        ({"refuse_parameters": ["messages"]}, "refuse_parameters"),
        ({"refuse_parameters": [["x"]]}, "refuse_parameters"),
        ({"prefix_cache": 1}, "prefix_cache"),
        ({"reply": []}, "reply"),
        ({"key": ""}, "key"),
        ({"no_such": 1}, "settings"),
    ],
)
def test_a_bad_setting_is_refused_by_name(options, named):
    """Here and over HTTP the message names the setting, and nothing is changed."""
    with pytest.raises(InputError, match=rf"rehearsal: {named}: expected"):
        Settings().changed(options)

    async def use(client):
        return await client.ask("/config", options), await client.ask("/config")

    refused, shown = talk(use)
    assert (refused[0], refused[1]["error"]["param"]) == (400, named)
    assert shown[1] == json.loads(json.dumps(Settings().to_dict()))


def test_settings_change_while_it_runs():
    """A change holds from the next request on, and is shown."""

    async def use(client):
        before = await client.chat()
        changed = await client.ask("/config", {"p500": 1, "models": ["any"], "latency": "lognorm:0.001:0.5"})
        return before[0], changed, (await client.chat())[0], await client.ask("/config")

    before, changed, after, shown = talk(use)
    assert (before, after) == (200, 500)
    assert changed == shown
    assert shown[1]["models"] == ["any"]


def test_latencies_have_the_distribution_that_their_name_says():
    """Median, bounds and slope of each model, by quantiles."""
    assert Latency.parse("const:2").seconds(0.9, 50) == 2
    assert Latency.parse("lognorm:0.8:0.5").seconds(0.5, 0) == pytest.approx(0.8)
    assert Latency.parse("lognorm:0.8:0.5").seconds(0.8413447, 0) == pytest.approx(0.8 * np.exp(0.5), rel=1e-4)
    assert Latency.parse("uniform:1:3").seconds(0.25, 0) == 1.5
    assert Latency.parse("pertoken:1:0.1").seconds(0.3, 20) == pytest.approx(3)


# ---------------------------------------------------------------------- bad input

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "cat"])}, optional={"content": JSON_VALUES}
    ),
    max_size=3,
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON_VALUES.map(lambda found: json.dumps(found).encode()),
    st.fixed_dictionaries(
        {"model": st.just("any"), "messages": MESSAGES | JSON_VALUES},
        optional=dict.fromkeys(
            ("seed", "n", "stream", "stream_options", "max_tokens", "temperature", "response_format"), JSON_VALUES
        ),
    ).map(lambda found: json.dumps(found).encode()),
    st.fixed_dictionaries(
        {"model": st.just("any"), "messages": st.just([{"role": "user", "content": USER}])},
        optional={
            "response_format": st.fixed_dictionaries(
                {
                    "type": st.just("json_schema"),
                    "json_schema": st.fixed_dictionaries({"name": st.text(max_size=5), "schema": SCHEMA | JSON_VALUES}),
                }
            )
        },
    ).map(lambda found: json.dumps(found).encode()),
    st.fixed_dictionaries(
        {"model": st.just("any"), "input": JSON_VALUES},
        optional={"dimensions": JSON_VALUES, "encoding_format": JSON_VALUES},
    ).map(lambda found: json.dumps(found).encode()),
)


def test_any_body_gets_an_answer_in_json_and_never_a_failure(caplog):
    """Whatever is posted to any path is answered 200 or with an error object of the 400s, and nothing is logged."""

    async def use(client):
        loop = asyncio.get_running_loop()

        def post(path, body):
            return asyncio.run_coroutine_threadsafe(client.ask(path, body), loop).result(10)

        @settings(max_examples=250, deadline=None)
        @given(st.sampled_from([CHAT, "/v1/embeddings", "/config", "/v1/models", "/none"]), BODIES)
        def fuzz(path, body):
            status, found = post(path, body)
            if status != 200:
                assert 400 <= status < 500, found
                assert set(found["error"]) == {"message", "type", "param", "code"}
            elif path != "/config":
                assert isinstance(found, dict) or found.endswith("data: [DONE]\n\n")

        await asyncio.to_thread(fuzz)
        return await client.stats()

    assert consistent(talk(use))
    assert not caplog.records


def nested(depth):
    """JSON nested as deep as this."""
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, b'{"model": "any", "messages": ' + nested(2_000) + b"}", 400),
        (CHAT, b'{"model": "any", "messages": [{"role": "user", "content": ' + nested(900) + b"}]}", 400),
        (CHAT, json.dumps(chat("x" * 2_000_001)).encode(), 400),
        (CHAT, b" " * (8 * 1_024 * 1_024 + 1), 413),
        ("/v1/embeddings", b'{"model": "any", "input": ["x"], "dimensions": 100000}', 400),
        ("/v1/embeddings", json.dumps({"model": "any", "input": ["x"] * 2_048, "dimensions": 4_096}).encode(), 400),
        ("/v1/embeddings", json.dumps({"model": "any", "input": "x" * 40_000}).encode(), 400),
        ("/v1/completions", b"{}", 404),
        ("/stats", b"{}", 405),
        ("/v1/models", b"{}", 405),
    ],
)
def test_what_is_too_long_too_deep_or_elsewhere_is_refused(path, body, status):
    """Each with its status and an error object."""

    async def use(client):
        return await client.ask(path, body), await client.stats()

    (answered, found), stats = talk(use)
    assert answered == status
    assert found["error"]["message"]
    assert consistent(stats)


def test_deeply_nested_personas_and_schemas_end_in_an_answer():
    """Texts that hold JSON nested to the limit of what can be read bring no failure."""
    deep = nested(990).decode()
    schema = {"type": "json_schema", "json_schema": {"name": "Deep", "schema": {"const": json.loads(nested(300))}}}
    texts = (
        f'```json\n{{"name": "A", "x": {deep}}}\n```',
        f'{{"stimuli": [{{"content": {deep}}}]}}',
        f'{PERSONA}{{"name": "A", "beliefs": [{deep}]}}{NOW}',
    )

    async def use(client):
        return [(await client.chat(text))[0] for text in texts], (await client.chat(response_format=schema))[0]

    statuses, held = talk(use)
    assert set(statuses) <= {200, 400}
    assert held == 200


def test_broken_http_and_slow_or_compressed_bodies_stop_nothing():
    """Garbage, half a request, a bad gzip body and a bomb of zeros; afterwards the server answers as before."""

    async def use(client):
        host, port = client.root.removeprefix("http://").split(":")
        for raw in (
            b"\x16\x03\x01garbage\r\n\r\n",
            b"GET /%zz HTTP/9.9\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(raw)
            await reader.read(10_000)
            writer.close()
        _, half = await asyncio.open_connection(host, int(port))
        half.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        while not (await client.stats())["in_flight"]["now"]:
            await asyncio.sleep(0.005)
        half.close()
        while (await client.stats())["in_flight"]["now"]:
            await asyncio.sleep(0.005)
        gzip = {"Content-Encoding": "deflate"}
        bad = await client.ask(CHAT, b"no deflate at all", headers=gzip)
        bomb = await client.ask(CHAT, zlib.compress(b" " * 30_000_000), headers=gzip)
        return bad[0], bomb[0], (await client.chat())[0], await client.stats()

    bad, bomb, after, stats = talk(use)
    assert (bad, bomb, after) == (400, 413, 200)
    assert stats["by_status"]["client_gone"] == 1
    assert consistent(stats)


def test_curls_way_of_asking_first_is_answered():
    """A client that waits for `100 Continue` before its body gets it."""

    async def use(client):
        return await client.ask(CHAT, chat(), headers={"Expect": "100-continue"})

    assert talk(use)[0] == 200


# ---------------------------------------------------------------------- the process


def command(*arguments, **options):
    """Start the server in a process of its own; its address comes first."""
    line = [sys.executable, "-W", "error", "-m", "troupelab.models.rehearsal.command", *arguments]
    return subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_the_context_manager_starts_asks_and_ends_a_server():
    """All of it in one: address, account, settings at runtime, reset, the key from the environment, and the end."""
    with Rehearsal(seed=3, key="sk-4711", models=("a",), refuse_parameters=("seed",), prefix_cache=False) as server:
        assert server.base_url in repr(server)
        request = urllib.request.Request(f"{server.base_url}/models", headers={"Authorization": "Bearer sk-4711"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.load(answer)["data"][0]["id"] == "a"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{server.base_url}/models", timeout=10)
        refused.value.close()
        assert server.stats()["by_status"] == {"200": 1, "401": 1}
        server.configure(p429=0.5, models=None)
        assert server.settings.p429 == 0.5
        with pytest.raises(InputError, match="p429"):
            server.configure(p429=7)
        assert server.start() is server
        server.reset()
        assert server.stats()["requests"] == 0
    assert "not running" in repr(server)
    server.close()
    with pytest.raises(RunError, match="not running"):
        server.stats()


def test_a_server_that_is_forgotten_ends():
    """Without `close`, the process ends as soon as nobody holds the handle."""
    server = Rehearsal().start()
    port = int(server.base_url.rpartition(":")[2].removesuffix("/v1"))
    del server

    def refused():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    eventually("nothing listens any more", refused, timeout_s=10)


def test_a_child_that_cannot_start_says_why(monkeypatch):
    """The error holds what the child said."""
    monkeypatch.setattr(Rehearsal, "_command", lambda self: [sys.executable, "-c", "raise SystemExit('no room here')"])
    with pytest.raises(RunError, match="no room here"):
        Rehearsal().start()


def test_the_child_ends_when_its_parent_dies():
    """A parent that is killed leaves no server behind."""
    code = (
        "import sys, time\nfrom troupelab.models.rehearsal.process import Rehearsal\n"
        "server = Rehearsal().start()\nprint(server.base_url, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        port = int(parent.stdout.readline().strip().rpartition(":")[2].removesuffix("/v1"))
        parent.kill()
        parent.wait()

    def refused():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    eventually("nothing listens any more", refused, timeout_s=10)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_even_with_a_call_in_service(number):
    """Exit code 0, one line on the output, nothing on the error output; a port in use is said in one sentence."""
    with command("--port", "0", "--latency", "const:30") as child:
        first = child.stdout.readline()
        assert first.startswith("rehearsal: http://127.0.0.1:")
        assert first.endswith("/v1  (stop it with Ctrl-C)\n")
        port = first.split()[1].rpartition(":")[2].removesuffix("/v1")
        with socket.create_connection(("127.0.0.1", int(port))) as busy:
            body = json.dumps(chat())
            busy.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            if number == signal.SIGTERM:
                with command("--port", port) as second:
                    said = second.communicate(timeout=20)
                    assert second.returncode == 2
                    assert f"port {port}" in said[1]
                    assert said[1].count("\n") == 1
            else:
                time.sleep(0.2)
            child.send_signal(number)
            rest = child.communicate(timeout=20)
        assert (child.returncode, *rest) == (0, "", "")


def test_the_commands_options_are_the_settings(capsys, monkeypatch):
    """Each setting has its option; a bad one ends with one sentence and code 2, and the key may come from the environment."""
    parser = argparse.ArgumentParser()
    rehearsal.add_arguments(parser)
    given = parser.parse_args(
        ["--latency", "lognorm:0.8:0.5", "--p429", "0.05", "--models", "a,b", "--no-prefix-cache"]
    )
    assert (given.latency, given.p429, given.models, given.prefix_cache) == ("lognorm:0.8:0.5", 0.05, ("a", "b"), False)
    assert {name for name in vars(given) if name not in ("host", "port", "until_stdin_closes")} == set(
        Settings().to_dict()
    )
    monkeypatch.setenv("TROUPELAB_REHEARSAL_KEY", "sk-4711")
    assert rehearsal.main(parser.parse_args(["--p429", "2"])) == 2
    assert rehearsal.main(parser.parse_args(["--port", "70000"])) == 2
    said = capsys.readouterr().err
    assert said.startswith("troupelab: rehearsal: p429: expected a number from 0 to 1, found 2.0\n")
    assert "sk-4711" not in said
