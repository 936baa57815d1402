"""EndpointEmbedder: gathering, single flight, the cache, failures, and what is left when it ends."""

from __future__ import annotations

import asyncio
import gc
import http.server
import json
import threading
from collections.abc import Callable

import numpy as np
import pytest
from helpers import eventually
from hypothesis import given, settings
from hypothesis import strategies as st

from troupelab.errors import (
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelServerError,
    ModelSetupError,
    ModelTimeoutError,
)
from troupelab.ids import make_id
from troupelab.limits import Limits
from troupelab.memory.memory import Memory
from troupelab.memory.pool import Pool
from troupelab.memory.record import Record
from troupelab.models.chat import ChatModel
from troupelab.models.embeddings import MAX_TEXT_CHARS, EndpointEmbedder
from troupelab.models.rehearsal.process import Rehearsal
from troupelab.text.embed import HashingEmbedder

KEY = "sk-embed-4711"
THREAD = "troupelab-embed"
SENTENCES = [f"The {thing} costs {price} euros." for price in (7, 9) for thing in ("lamp", "ferry", "bakery", "chair")]


@pytest.fixture(scope="module")
def running():
    """A server with a key, for all tests here."""
    with Rehearsal(key=KEY) as server:
        yield server


@pytest.fixture
def server(running):
    """The server without faults and with nothing counted; settings that a test changes are set back."""
    running.reset()
    yield running
    running.configure(latency="const:0", p500=0.0, p429=0.0, phang=0.0, pmalformed=0.0, pdrop=0.0)


def embedder_of(server, **options):
    """An embedder that asks this server."""
    return EndpointEmbedder(ChatModel("chat", base_url=server.base_url, key=KEY), "small", **options)


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """What `work(place)` returns on so many threads that begin together."""
    found: list[object] = [None] * count
    start = threading.Barrier(count)

    def run(place: int) -> None:
        start.wait()
        try:
            found[place] = work(place)
        except ModelError as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def embed_threads() -> set[threading.Thread]:
    """The threads of embedders that are alive."""
    return {thread for thread in threading.enumerate() if thread.name == THREAD}


# ---------------------------------------------------------------------- vectors


def test_vectors_are_the_endpoints_at_length_one(server):
    """Each row is what the server's own embedder says of the text, in the texts' order; what is blank has zeros and is not sent."""
    with embedder_of(server) as embedder:
        found = embedder.embed([*SENTENCES, "", " \n", SENTENCES[0]])
        assert embedder.name == f"small@{server.base_url}"
        assert embedder.dims == found.shape[1]
        expected = HashingEmbedder(embedder.dims).embed([*SENTENCES, "", "", SENTENCES[0]])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert embedder.stats()["texts_sent"] == len(SENTENCES)
    assert KEY not in repr(embedder)


def test_dims_are_asked_for_once_where_they_are_needed_first(server):
    """One tiny text tells the length of a vector, and no texts have vectors of that length."""
    with embedder_of(server) as embedder:
        dims = embedder.dims
        assert embedder.embed([]).shape == (0, dims)
        assert embedder.embed([" "]).tolist() == [[0.0] * dims]
        assert embedder.stats()["requests"] == 1


@pytest.fixture(scope="module")
def shared(running):
    """One embedder for all examples of a property."""
    with embedder_of(running, window_ms=0) as embedder:
        yield embedder


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.sampled_from([*SENTENCES, "", "  "]), max_size=30))
def test_order_and_repetitions_are_kept(shared, texts):
    """Whatever is asked for in whichever order and how often, row by row it is the text's vector."""
    found = shared.embed(texts)
    np.testing.assert_allclose(found, HashingEmbedder(shared.dims).embed(texts), atol=1e-6)
    assert shared.stats()["texts_sent"] <= len(SENTENCES) + 1


def test_a_long_text_is_cut(server):
    """Only the beginning of a text is sent, and two texts with one beginning are one."""
    with embedder_of(server) as embedder:
        long = "lamp " * MAX_TEXT_CHARS
        found = embedder.embed([long, long[:MAX_TEXT_CHARS] + "ferry"])
        assert found[0].tolist() == found[1].tolist()
        assert embedder.stats()["texts_sent"] == 1


# ---------------------------------------------------------------------- gathering


def test_a_windows_texts_go_out_together(server):
    """Twenty who ask at the same time on one loop cost one request."""
    with embedder_of(server, dims=256, window_ms=500) as embedder:

        async def main():
            await asyncio.gather(*(embedder.prepare([f"lamp {n}", f"ferry {n}"]) for n in range(20)))

        asyncio.run(main())
        assert (embedder.stats()["texts_sent"], embedder.stats()["requests"]) == (40, 1)
        assert server.stats()["embedding_texts"] == 40


def test_threads_share_requests(server):
    """Twenty threads with different texts get their own vectors, with fewer requests than threads."""
    with embedder_of(server, window_ms=500) as embedder:
        found = in_threads(20, lambda place: embedder.embed([f"lamp {place}", f"ferry {place}"]))
        expected = HashingEmbedder(embedder.dims)
        for place, rows in enumerate(found):
            np.testing.assert_allclose(rows, expected.embed([f"lamp {place}", f"ferry {place}"]), atol=1e-6)
        assert embedder.stats()["texts_sent"] == 40
        assert embedder.stats()["requests"] < 10


def test_the_same_text_is_sent_once(server):
    """Twenty threads that ask for one text at once, while it is fetched too, cost one request."""
    server.configure(latency="const:0.1")
    with embedder_of(server, window_ms=0) as embedder:
        found = in_threads(20, lambda _: embedder.embed(["The lamp costs 7 euros."]))
        assert len({rows.tobytes() for rows in found}) == 1
        assert (embedder.stats()["texts_sent"], embedder.stats()["requests"]) == (1, 1)


@pytest.mark.parametrize(("most", "requests"), [(3, 4), (256, 1)])
def test_no_request_holds_more_than_it_may(server, most, requests):
    """Ten texts go out in as many requests as `max_batch` asks for."""
    with embedder_of(server, dims=256, window_ms=50, max_batch=most) as embedder:
        embedder.embed([f"lamp {n}" for n in range(10)])
        assert embedder.stats()["requests"] == server.stats()["requests"] == requests


def test_vectors_that_would_not_fit_into_a_reply_are_asked_for_in_several(server):
    """Before the length of a vector is known, as few texts go out as fit at the greatest length; then more."""
    with embedder_of(server, window_ms=50) as embedder:
        embedder.embed([f"lamp {n}" for n in range(60)])
        assert embedder.stats()["requests"] == 2
        embedder.embed([f"ferry {n}" for n in range(60)])
        assert embedder.stats()["requests"] == 3


# ---------------------------------------------------------------------- the cache


def test_prepare_leaves_nothing_to_fetch(server):
    """After `prepare`, `embed` on the loop's own thread asks the endpoint for nothing."""
    with embedder_of(server) as embedder:

        async def main():
            await embedder.prepare([*SENTENCES, ""])
            before = embedder.stats()
            found = embedder.embed(SENTENCES)
            await embedder.prepare(SENTENCES)
            return before, found

        before, found = asyncio.run(main())
        assert found.shape == (len(SENTENCES), embedder.dims)
        after = embedder.stats()
        assert after["requests"] == before["requests"]
        assert after["cache_hits"] == before["cache_hits"] + 2 * len(SENTENCES)


def test_embed_works_on_a_thread_with_a_running_loop(server):
    """It blocks the loop, and does not break it; two loops one after the other share vectors."""
    with embedder_of(server) as embedder:

        async def main():
            return embedder.embed(SENTENCES)

        assert asyncio.run(main()).tolist() == asyncio.run(main()).tolist()
        assert embedder.stats()["texts_sent"] == len(SENTENCES)


def test_the_cache_keeps_what_was_used_last(server):
    """Its count is never exceeded, and what was not asked for the longest goes first."""
    with embedder_of(server, cached_texts=3) as embedder:
        embedder.embed(SENTENCES[:3])
        embedder.embed(SENTENCES[:1])
        embedder.embed(SENTENCES[3:4])
        assert embedder.stats()["cached_texts"] == 3
        sent = embedder.stats()["texts_sent"]
        embedder.embed([SENTENCES[0], SENTENCES[2], SENTENCES[3]])
        assert embedder.stats()["texts_sent"] == sent
        embedder.embed(SENTENCES[1:2])
        assert embedder.stats()["texts_sent"] == sent + 1


def test_more_texts_than_the_cache_has_room_for_are_embedded_all_the_same(server):
    """The vectors of one call need not be in the cache together."""
    with embedder_of(server, cached_texts=2, cached_bytes=3_000) as embedder:
        assert len(np.unique(embedder.embed(SENTENCES), axis=0)) == len(SENTENCES)
        assert embedder.stats()["cached_texts"] == 2
        embedder.embed(["word " * 2_000])
        assert embedder.stats()["cached_bytes"] <= 3_000


@pytest.mark.parametrize("wrong", [{"dims": 0}, {"max_batch": 0}, {"window_ms": -1}, {"timeout_s": float("inf")}])
def test_a_number_out_of_its_range_is_refused(wrong):
    """Before any thread is started."""
    with pytest.raises(ValueError, match="expected"):
        EndpointEmbedder(ChatModel("any", base_url="http://127.0.0.1:9/v1"), "small", **wrong)


# ---------------------------------------------------------------------- failures


def test_a_failing_endpoint_is_asked_so_often_and_then_said(server):
    """The last attempt's error comes out, for `prepare` as well; once the endpoint works again, so does the embedder."""
    with embedder_of(server, dims=256, max_attempts=2) as embedder:
        server.configure(p500=1.0)
        with pytest.raises(ModelServerError, match="500"):
            embedder.embed(["lamp"])
        assert embedder.stats()["requests"] == 2
        with pytest.raises(ModelServerError):
            asyncio.run(embedder.prepare(["lamp"]))
        server.configure(p500=0.0)
        assert embedder.embed(["lamp"]).any()


def test_faults_that_pass_are_got_over(server):
    """Busy, failing, dropping and spoilt replies are asked for again."""
    server.configure(p429=0.2, p500=0.2, pdrop=0.2, pmalformed=0.2)
    with embedder_of(server, dims=256, max_attempts=20, max_batch=2, window_ms=0) as embedder:
        found = embedder.embed(SENTENCES)
        np.testing.assert_allclose(found, HashingEmbedder(256).embed(SENTENCES), atol=1e-6)
        assert embedder.stats()["requests"] > 4


def test_an_endpoint_that_hangs_has_a_deadline(server):
    """Half of the deadline is the first attempt's, so that a second one can be made."""
    server.configure(phang=1.0)
    with embedder_of(server, timeout_s=0.8) as embedder:
        with pytest.raises(ModelTimeoutError, match="no vectors of 1 texts"):
            embedder.embed(["lamp"])
        assert embedder.stats()["requests"] >= 1


def test_a_wrong_key_or_address_is_said_at_once(server):
    """No second request, one sentence, and no key in it."""
    wrong = "sk-wrong-0815"
    with EndpointEmbedder(ChatModel("chat", base_url=server.base_url, key=wrong), "small") as embedder:
        with pytest.raises(ModelSetupError, match="refused the key") as told:
            _ = embedder.dims
        assert wrong not in str(told.value)
        assert embedder.stats()["requests"] == 1
    with (
        EndpointEmbedder(ChatModel("chat", base_url="http://127.0.0.1:9/v1", key=KEY), "small") as embedder,
        pytest.raises(ModelSetupError, match="nothing answers"),
    ):
        embedder.embed(["lamp"])


class _Odd(http.server.BaseHTTPRequestHandler):
    """Answers each text with the vector that it spells out as JSON, and refuses requests with a word in them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one request."""
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        refused = any("forbidden" in text for text in texts)
        rows = [{"index": n, "embedding": json.loads(text)} for n, text in enumerate(texts)] if not refused else []
        body = json.dumps({"error": {"message": "no"}} if refused else {"data": rows}).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def odd_url():
    """An endpoint that gives odd vectors."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Odd) as found:
        found.daemon_threads = True
        serving = threading.Thread(target=found.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{found.server_port}/v1"
        found.shutdown()
        serving.join()


def test_a_refused_text_fails_alone_and_is_not_sent_again(odd_url):
    """The others of its request have their vectors; `prepare` passes over it, `embed` says so without a request."""
    with EndpointEmbedder(ChatModel("chat", base_url=odd_url), "odd", window_ms=50) as embedder:
        texts = [f"[{n}, 1]" for n in range(9)]
        asyncio.run(embedder.prepare([*texts[:4], "forbidden", *texts[4:]]))
        requests = embedder.stats()["requests"]
        assert embedder.embed(texts).shape == (9, 2)
        for _ in range(2):
            with pytest.raises(ModelRequestError, match="does not take"):
                embedder.embed([texts[0], "forbidden"])
        assert embedder.stats()["requests"] == requests


@pytest.mark.parametrize("text", ['["NaN", 1]', '["inf", 1]', "[0, 0.0]"])
def test_a_vector_without_a_direction_fails_its_text_alone(odd_url, text):
    """What is no number, infinite, or zero for a text with words, is an error that names the model."""
    with EndpointEmbedder(ChatModel("chat", base_url=odd_url), "odd") as embedder:
        good = "[3, 4]"
        asyncio.run(embedder.prepare([good, text]))
        assert embedder.embed([good])[0].tolist() == pytest.approx([0.6, 0.8])
        with pytest.raises(ModelServerError, match="odd gave a text a vector without a direction"):
            embedder.embed([good, text])


def test_very_large_and_small_numbers_are_normalised(odd_url):
    """Their squares would be infinite or nothing."""
    with EndpointEmbedder(ChatModel("chat", base_url=odd_url), "odd") as embedder:
        found = embedder.embed(["[3e300, 4e300]", "[3e-200, -4e-200]"])
        np.testing.assert_allclose(found, [[0.6, 0.8], [0.6, -0.8]], rtol=1e-6)


def test_vectors_of_another_length_are_refused(odd_url):
    """Against the length that was given, and against the one that was learned."""
    with (
        EndpointEmbedder(ChatModel("chat", base_url=odd_url), "odd", dims=3) as embedder,
        pytest.raises(ModelServerError, match="odd gives vectors of 2 numbers, not of 3"),
    ):
        embedder.embed(["[1, 2]"])
    with EndpointEmbedder(ChatModel("chat", base_url=odd_url), "odd") as embedder:
        embedder.embed(["[1, 2]"])
        with pytest.raises(ModelServerError, match="odd gives vectors of 3 numbers, not of 2"):
            embedder.embed(["[1, 2, 3]"])


# ---------------------------------------------------------------------- ends


def test_one_who_is_cancelled_leaves_the_request_to_the_others(server):
    """The other asker and whoever comes later have the vector, of one request."""
    server.configure(latency="const:0.2")
    with embedder_of(server, dims=256) as embedder:

        async def main():
            first = asyncio.create_task(embedder.prepare(["lamp"]))
            second = asyncio.create_task(embedder.prepare(["lamp"]))
            await asyncio.sleep(0.05)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await second

        asyncio.run(main())
        assert embedder.embed(["lamp"]).any()
        assert embedder.stats()["requests"] == 1


def test_close_ends_the_thread_and_fails_who_waits(server):
    """A text that is under way or waits has an error, the cache stays, and the embedder can be used again."""
    server.configure(latency="const:30")
    before = embed_threads()
    embedder = embedder_of(server, dims=256, max_batch=1)
    waiting = threading.Thread(target=lambda: found.append(in_threads(12, lambda n: embedder.embed([f"lamp {n}"]))))
    found = []
    waiting.start()
    eventually("requests are under way", lambda: embedder.stats()["requests"] >= 8)
    embedder.close()
    waiting.join()
    assert {type(each) for each in found[0]} == {ModelConnectionError}
    assert embed_threads() == before
    server.configure(latency="const:0")
    assert embedder.embed(["lamp"]).any()
    embedder.close()
    embedder.close()
    assert embedder.embed(["lamp"]).any()
    assert embed_threads() == before


def test_an_embedder_that_is_let_go_ends_its_thread(server):
    """Nothing of ours holds on to it."""
    before = embed_threads()
    embedder = embedder_of(server)
    embedder.embed(["lamp"])
    assert len(embed_threads()) == len(before) + 1
    del embedder
    gc.collect()
    eventually("its thread has ended", lambda: embed_threads() == before)


def test_memories_of_several_threads_share_it(server):
    """Memories find by its vectors, and what all of them heard was sent once."""
    with embedder_of(server) as embedder:

        def remember(agent):
            memory = Memory(agent, Limits(recent_max_records=4), Pool(embedder=embedder))
            memory.store(Record(make_id(0, n, 0), "CONVERSATION", "Elif", text, 0) for n, text in enumerate(SENTENCES))
            memory.settle()
            return [found.item.text for found in memory.relevant("How much is the ferry?", 2)]

        found = in_threads(4, remember)
        assert all("ferry" in text for texts in found for text in texts[:1])
        assert embedder.stats()["texts_sent"] == len(SENTENCES) + 2
