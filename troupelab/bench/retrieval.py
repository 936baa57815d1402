"""How fast a memory finds things: the newest records, a range of the past, and the notes that fit a question.

The questions are as many different ones as there are repetitions, so that no cache of embeddings answers for them where the embedding
is to count; `between` asks for ranges that are not in the read cache (`between_cached_ms` for one that is).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from troupelab.bench.harness import report
from troupelab.bench.material import talk
from troupelab.ids import make_id
from troupelab.limits import Limits
from troupelab.memory.memory import Memory
from troupelab.memory.pool import Pool
from troupelab.memory.record import Note, Record
from troupelab.store import Store
from troupelab.text.wordllama import default_embedder

__all__ = ["run"]

_SEED = 7
_NOTES = 10_000
_RECORDS = 10_000
_RANGE = 500
_QUESTION_CHARS = 80


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` asks less often, to try the benchmark itself."""
    rounds = 20 if quick else 200

    def measure() -> Mapping[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            return {**_records(Path(folder), rounds), **_relevant(rounds)}

    return report("retrieval", measure, 1 if quick else 3)


def _records(folder: Path, rounds: int) -> Mapping[str, float]:
    """A memory of 10,000 records, one a step, of which the newest are recent and all others archived."""
    limits = Limits(dedup_similarity=1.0)
    store = Store.open(folder / "run.sqlite")
    memory = Memory(0, limits, Pool(store, notes=False))
    for step, text in enumerate(islice(talk(_SEED), _RECORDS)):
        memory.begin(step, limits)
        memory.store([Record(make_id(0, step, 0), "TALK" if step % 3 else "CONVERSATION", "Elif Aydın", text, step)])
        memory.settle()
    store.flush(60)
    memory.settle()
    tiny = limits.replace(segment_cache_max_bytes=10_000)  # no segment fits into it: each range is read from the store
    starts = [(place * 7_919) % (_RECORDS - 2 * _RANGE) for place in range(rounds)]
    memory.begin(_RECORDS, tiny)
    cold = [_seconds(partial(memory.between, start, start + _RANGE - 1)) for start in starts]
    memory.begin(_RECORDS, limits)
    memory.between(1_000, 1_000 + _RANGE - 1)
    figures = {
        "recent_us": _median_us(lambda: memory.recent(20), rounds),
        "last_us": _median_us(lambda: memory.last("CONVERSATION"), rounds),
        "between_ms": statistics.median(cold) * 1e3,
        "between_cached_ms": _median_us(lambda: memory.between(1_000, 1_000 + _RANGE - 1), rounds) / 1e3,
    }
    store.close()
    return figures


def _relevant(rounds: int) -> Mapping[str, float]:
    """A memory of 10,000 notes, searched whole."""
    embedder = default_embedder()
    memory = Memory(0, Limits(semantic_max_notes=None), Pool(embedder=embedder))
    texts = list(islice(talk(_SEED), _NOTES))
    notes = [Note(make_id(0, step, 0), step, step, 1, text) for step, text in enumerate(texts)]
    memory.remember(notes)
    memory.begin(_NOTES, Limits(semantic_max_notes=None))
    questions = talk(_SEED + 1, _QUESTION_CHARS)
    known = list(islice(questions, rounds))
    embedder.embed(known)  # in the embedder's cache: what is left is the search

    def ask(question: str) -> object:
        return memory.relevant(question, 5, tiers=("notes",))

    ask(known[0])
    return {
        "relevant_ms": _median_ms(ask, known),
        "relevant_with_embedding_ms": _median_ms(ask, islice(questions, rounds)),
    }


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _median_us(call: Callable[[], object], rounds: int) -> float:
    return statistics.median(_seconds(call) for _ in range(rounds)) * 1e6


def _median_ms(ask: Callable[[str], object], questions: Iterable[str] | Iterator[str]) -> float:
    return statistics.median(_seconds(partial(ask, question)) for question in questions) * 1e3
