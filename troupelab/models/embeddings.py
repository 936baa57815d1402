"""EndpointEmbedder: vectors of texts from an OpenAI-compatible /embeddings endpoint, gathered into one request a window.

An embedder owns a daemon thread with an event loop of its own, and a bounded cache. The thread is started by the first text that
has to be fetched, whoever asks for it: different threads and the loops of several runs share requests and vectors. Any thread may
call what is here; `embed` blocks it while a text is fetched, `prepare` does not.
"""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from troupelab.errors import (
    ModelBusyError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelServerError,
    ModelTimeoutError,
)
from troupelab.models.chat import MAX_BODY_BYTES, ChatModel
from troupelab.models.retry import wait_before_retry
from troupelab.text.embed import Vectors
from troupelab.text.words import content_words

__all__ = ["EndpointEmbedder"]

MAX_TEXT_CHARS = 30_000
"""Of a longer text, the beginning is embedded: usual models take some 8,000 tokens."""

_REQUESTS_AT_ONCE = 8
_VALUE_BYTES = 32  # a number in a reply, where it stands on a line of its own
_DIMS_AT_MOST = 4_096  # as long as it is not known
_ENTRY_BYTES = 300  # a text's place in the cache, and the array's head
_END_S = 10.0
_ANY_TEXT = "dimensions"


class _Lack(NamedTuple):
    """Why a text has no vector, however often it is asked for."""

    kind: type[ModelError]
    sentence: str


_Row: TypeAlias = NDArray[np.float32]
_Outcome: TypeAlias = _Row | _Lack | ModelError
"""What asking for a text brought: a vector, a failure that is the text's own, or one that may pass."""


class EndpointEmbedder:
    """Vectors from the /embeddings of a ChatModel's endpoint.

    Each distinct text is sent once, however many ask for it at the same time, and all that is asked for within a window goes out
    together. A request holds at most `max_batch` texts and fewer where their vectors would not fit into one reply (about 80 with
    1,536 numbers each). Where the endpoint refuses a request, its texts are sent in halves, until the one is found that it means.
    What failed for a text alone (it was refused, or its vector has no direction) stays so while it is in the cache; what else failed
    is asked for anew the next time.

    Args:
        endpoint: whose /embeddings is asked; it may be the model of a run as well.
        model: the embedding model's name, as the endpoint knows it.
        dims: the length of a vector; None learns it from the first reply.
        window_ms: for how long texts are gathered.
        max_batch: how many texts go into one request.
        cached_texts: how many vectors are kept; those that were not asked for the longest go first.
        cached_bytes: how much RAM they and their texts may take.
        same_topic: the cosine from which on two texts share a topic: see `troupelab.text.embed.same_topic`.
        timeout_s: the deadline of a request with all its attempts; a single one gets half of what is left of it.
        max_attempts: how often a request is sent where the endpoint fails; a busy one is waited for until the deadline.

    Raises:
        ValueError: a number is out of its range.

    >>> endpoint = ChatModel("llama3.2", base_url="http://localhost:11434/v1")
    >>> with EndpointEmbedder(endpoint, "nomic-embed-text", dims=768) as embedder:
    ...     embedder.name, embedder.dims, embedder.embed([" "]).shape
    ('nomic-embed-text@http://localhost:11434/v1', 768, (1, 768))
    """

    def __init__(
        self,
        endpoint: ChatModel,
        model: str,
        *,
        dims: int | None = None,
        window_ms: int = 10,
        max_batch: int = 256,
        cached_texts: int = 8_192,
        cached_bytes: int = 64_000_000,
        same_topic: float = 0.5,
        timeout_s: float = 60.0,
        max_attempts: int = 5,
    ) -> None:
        least = min(1 if dims is None else dims, max_batch, cached_texts, cached_bytes, max_attempts)
        if least < 1 or window_ms < 0 or not 0 < timeout_s < math.inf:
            raise ValueError(
                f"expected sizes from 1, a window from 0 and a timeout above 0, not {least}, {window_ms}, {timeout_s}"
            )
        self.same_topic = same_topic
        self._name = f"{model}@{endpoint.base_url}"
        asker = _Asker(endpoint, model, dims, timeout_s, max_attempts)
        self._desk = _Desk(asker, window_ms / 1000, max_batch, cached_texts, cached_bytes)
        self._end = weakref.finalize(self, self._desk.close)

    def __repr__(self) -> str:
        return f"EndpointEmbedder({self._name!r})"

    def __enter__(self) -> EndpointEmbedder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """Names the embedder beside every figure that depends on it: the model and the address."""
        return self._name

    @property
    def dims(self) -> int:
        """The length of a vector; the endpoint is asked for one where it is not known yet.

        Raises:
            ModelError: the endpoint did not answer.
        """
        known = self._desk.asker.dims
        return self.embed([_ANY_TEXT]).shape[1] if known is None else known

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text, shape (len(texts), dims); a blank text has the zero vector and is not sent.

        A text without a word that says what it is about may have the zero vector as well. Blocks the calling thread, also where
        that runs an event loop, while a text is fetched; `prepare` before it avoids that.

        Raises:
            ModelError: a text could not be had; the subclass says whether that may pass.
        """
        asked = [_sendable(text) for text in texts]
        found, batches = self._desk.ask([text for text in asked if text])
        for batch in batches:
            found.update(batch.landed.result())
        rows = [_row_of(found[text]) if text else np.zeros(self.dims, dtype=np.float32) for text in asked]
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.dims)

    async def prepare(self, texts: Sequence[str]) -> None:
        """Fetch what is missing without blocking the loop, so that an `embed` of these texts finds all in the cache.

        That holds as long as the cache has room for them. A text that the endpoint refuses is passed over here, and `embed` says
        so at once. Whoever is cancelled in here leaves the request to the others.

        Raises:
            ModelError: the endpoint did not answer.
        """
        asked = [text for text in map(_sendable, texts) if text]
        _, batches = self._desk.ask(asked)
        for batch in batches:
            found = await asyncio.wrap_future(batch.landed)
            for text in asked:
                if isinstance(failure := found.get(text), ModelError):
                    raise copy(failure)

    def stats(self) -> dict[str, int]:
        """What was asked for (blank texts left out) and sent (each attempt counts) so far, and what the cache holds now."""
        desk, asker = self._desk, self._desk.asker
        return {
            "texts_asked": desk.texts_asked, "cache_hits": desk.hits, "requests": asker.requests,
            "texts_sent": asker.texts_sent, "cached_texts": len(desk.cache), "cached_bytes": desk.bytes,
        }  # fmt: skip

    def close(self) -> None:
        """End the thread and the connections, with an error for who waits; the cache stays, and a later text starts them again."""
        self._desk.close()


@dataclass(slots=True)
class _Asker:
    """Asks the endpoint, on the loop of the embedder's thread: attempts, halves, and a look at what came."""

    endpoint: ChatModel
    model: str
    dims: int | None
    timeout_s: float
    max_attempts: int
    requests: int = 0
    texts_sent: int = 0

    async def ask(self, texts: list[str]) -> dict[str, _Outcome]:
        """What became of each text."""
        until = asyncio.get_running_loop().time() + self.timeout_s
        found: dict[str, _Outcome] = {}
        todo = [texts]
        while todo:
            some = todo.pop()
            try:
                found.update(self._rows(some, await self._answer(some, until)))
            except ModelRequestError as error:
                if len(some) == 1:
                    found[some[0]] = _Lack(ModelRequestError, str(error))
                else:  # one text that the endpoint does not take must not fail the others
                    todo += [some[len(some) // 2 :], some[: len(some) // 2]]
            except ModelError as error:
                found.update((text, error) for text in texts if text not in found)
                break
        return found

    async def _answer(self, texts: list[str], until: float) -> NDArray[np.float64]:
        """Send a request until it is answered or given up."""
        now = asyncio.get_running_loop().time
        attempt = failures = 0
        while True:
            attempt += 1
            self.requests += 1
            self.texts_sent += len(texts)
            allowed_s = (until - now()) / 2
            try:
                async with asyncio.timeout(allowed_s):
                    vectors = await self.endpoint.embed(texts, self.model)
                return np.array(vectors, dtype=np.float64).reshape(len(texts), -1)
            except TimeoutError:
                error: ModelError = ModelTimeoutError(f"no vectors of {len(texts)} texts came within {allowed_s:.3g} s")
            except ModelError as failure:
                error = failure
            except Exception as failure:  # whatever else an endpoint raises is a failed request like any other
                error = ModelServerError(f"asking for vectors raised {type(failure).__name__}: {failure}")
            failures += not isinstance(error, ModelBusyError)
            wait_s = wait_before_retry(
                error, attempt=attempt, failures=failures, max_attempts=self.max_attempts, left_s=until - now(),
                seed=self.requests,
            )  # fmt: skip
            if wait_s == math.inf:
                raise error
            await asyncio.sleep(wait_s)

    def _rows(self, texts: list[str], raw: NDArray[np.float64]) -> dict[str, _Outcome]:
        """Unit vectors, one a text."""
        dims = raw.shape[1]
        expected = self.dims or max(1, dims)
        if dims != expected:
            told = f"{self.model} gives vectors of {dims} numbers, not of {expected}: check dims and the model's name"
            raise ModelServerError(told)
        self.dims = dims
        found: dict[str, _Outcome] = {}
        for text, vector, size in zip(texts, raw, np.abs(raw).max(axis=1).tolist(), strict=True):
            if 0 < size < math.inf:
                vector /= size  # the squares of very large and very small numbers are no numbers
                found[text] = (vector / np.sqrt(np.vecdot(vector, vector))).astype(np.float32)
            elif size == 0 and not content_words(text):
                found[text] = vector.astype(np.float32)
            else:
                found[text] = _Lack(ModelServerError, f"{self.model} gave a text a vector without a direction")
        return found


class _Batch:
    """Texts that go out together, and what became of them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.landed: Future[dict[str, _Outcome]] = Future()
        self.landed.set_running_or_notify_cancel()  # one who waits for it cannot cancel it for the others


class _Worker(threading.Thread):
    """A thread with an event loop, what waits for it, and the events that wake and end it."""

    def __init__(self, serve: Callable[[_Worker], Coroutine[Any, Any, None]]) -> None:
        super().__init__(name="troupelab-embed", daemon=True)
        self.queue: deque[_Batch] = deque()
        self.loop = asyncio.new_event_loop()
        self.asked, self.ended = asyncio.Event(), asyncio.Event()
        self._serve = serve

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve(self))


class _Desk:
    """Takes texts in, gathers them, hands out what came; it does not know the embedder, so that this one can be freed."""

    def __init__(self, asker: _Asker, window_s: float, max_batch: int, most_texts: int, most_bytes: int) -> None:
        self.asker = asker
        self._window_s, self._max_batch = window_s, max_batch
        self._most_texts, self._most_bytes = most_texts, most_bytes
        self._lock = threading.RLock()  # may be taken twice: an embedder may be freed at any line of any thread
        self.cache: OrderedDict[str, _Row | _Lack] = OrderedDict()
        self.bytes = self.texts_asked = self.hits = 0
        self._flights: dict[str, _Batch] = {}
        self._worker: _Worker | None = None

    def ask(self, texts: Sequence[str]) -> tuple[dict[str, _Outcome], list[_Batch]]:
        """What is in the cache, and the batches that will bring the rest."""
        found: dict[str, _Outcome] = {}
        batches: dict[_Batch, None] = {}
        with self._lock:
            self.texts_asked += len(texts)
            for text in texts:
                kept = self.cache.get(text)
                if kept is not None:
                    self.hits += 1
                    self.cache.move_to_end(text)
                    found[text] = kept
                else:
                    batches[self._flights.get(text) or self._enter(text)] = None
        return found, list(batches)

    def _enter(self, text: str) -> _Batch:
        if (worker := self._worker) is None:
            worker = self._worker = _Worker(self._serve)
            worker.start()
        batch = worker.queue[-1] if worker.queue else None
        fit_a_reply = MAX_BODY_BYTES // (_VALUE_BYTES * (self.asker.dims or _DIMS_AT_MOST))
        if batch is None or len(batch.texts) >= max(1, min(self._max_batch, fit_a_reply)):
            batch = _Batch()
            worker.queue.append(batch)
            worker.loop.call_soon_threadsafe(worker.asked.set)
        batch.texts.append(text)
        self._flights[text] = batch
        return batch

    def _land(self, batch: _Batch, sent: asyncio.Task[dict[str, _Outcome]] | None) -> None:
        """Keep what came, and hand it to those who wait."""
        found = {} if sent is None or sent.cancelled() else sent.result()
        with self._lock:
            for text in batch.texts:
                del self._flights[text]
                value = found.setdefault(text, ModelConnectionError("the embedder was closed before the text was sent"))
                if not isinstance(value, ModelError):
                    self.cache[text] = value
                    self.bytes += _size(text, value)
            while len(self.cache) > self._most_texts or self.bytes > self._most_bytes:
                self.bytes -= _size(*self.cache.popitem(last=False))
        batch.landed.set_result(found)

    def close(self) -> None:
        """End the thread; what waits fails."""
        with self._lock:
            worker, self._worker = self._worker, None
            if worker is not None:
                worker.loop.call_soon_threadsafe(worker.ended.set)
        if worker is not None and worker is not threading.current_thread():
            worker.join(_END_S)

    async def _serve(self, worker: _Worker) -> None:
        """What the thread does, until it is told to end."""
        gathering = asyncio.create_task(self._gather(worker))
        await worker.ended.wait()
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.wait({gathering, *under_way})
        await self.asker.endpoint.release()
        for batch in worker.queue:
            self._land(batch, None)

    async def _gather(self, worker: _Worker) -> None:
        """Send what was asked for in a window, a few requests at once; what comes meanwhile goes with the next one."""
        slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        while True:
            await worker.asked.wait()
            worker.asked.clear()
            await asyncio.sleep(self._window_s)
            while worker.queue:
                await slots.acquire()
                with self._lock:  # nobody is to enter a text in a batch that has left
                    batch = worker.queue.popleft()
                sent = asyncio.create_task(self.asker.ask(batch.texts))
                sent.add_done_callback(lambda _: slots.release())
                sent.add_done_callback(partial(self._land, batch))


def _sendable(text: str) -> str:
    text = text[:MAX_TEXT_CHARS]
    return "" if text.isspace() else text


def _row_of(outcome: _Outcome) -> _Row:
    if isinstance(outcome, _Lack):
        raise outcome.kind(outcome.sentence)
    if isinstance(outcome, ModelError):
        raise copy(outcome)  # each waiter's own, since a traceback holds on to all that its frames hold
    return outcome


def _size(text: str, value: _Row | _Lack) -> int:
    kept = len(value.sentence) if isinstance(value, _Lack) else value.nbytes
    return _ENTRY_BYTES + 2 * len(text) + kept
