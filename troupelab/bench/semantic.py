"""What the semantic cache saves and what it gets wrong, with its guard against other numbers and names and without.

Two questions are asked of texts in their order. `saved_share_*`: of those that were not there word for word before, how
many get the answer of a like one (`saved_share_spoken_*`: agents' notes that they are done, which are alike, left out;
`saved_share_exact` is what an exact cache saves before that). `false_hits_*`: of texts in which one number, name or
negation was changed, and which therefore ask something else, how many get the answer of the unchanged text;
`harmless_hits_*`: the same of texts in which only punctuation, a capital or a polite word was changed; `word_hits_*`:
of texts in which a content word was put for another one or before it, which in short texts the guard leaves to the
cosine. `differing_*`: of the hits in the first question, how many pairs differ in their digits, capitalised words or
negations, told by plain patterns that have nothing in common with the guard.

`judge_*` is how often a shadow check calls an answer false: of the same text changed harmlessly, of one with another
number in it, and of the first text of another scene. Real recordings are used where they lie beside the checkout
(`material` says which).
"""

from __future__ import annotations

import gzip
import json
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from troupelab.bench.harness import report
from troupelab.bench.material import talk
from troupelab.models.model import Reply
from troupelab.models.semantic import SemanticCache
from troupelab.text.embed import Embedder
from troupelab.text.similar import fingerprint
from troupelab.text.wordllama import default_embedder

__all__ = ["run"]

_REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_THRESHOLDS = (0.85, 0.90, 0.93, 0.95, 0.98)
_CAPACITY = 4_096
_SCOPES = 100
_VARIED_EVERY = 4
_REPLY = Reply("kept", 1, 1, 0.0, "none")

_DIGITS = re.compile(r"\d+")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{3,}")
_VERB = re.compile(r"\b(?:is|are|was|were|would|will|can|could|should|have|do)\b(?! not)")
_WORD = re.compile(r"(?<= )[a-z]{6,}\b")
_NEGATION = re.compile(r"\b(?:not|no|never|without|cannot)\b|n['’]t\b", re.IGNORECASE)


class _Text(NamedTuple):
    """Something that was said or thought: where, what, and whether it is a note that the agent is done."""

    scene: str
    text: str
    is_done: bool


def run(*, quick: bool = False, data: Path | None = None) -> dict[str, object]:
    """Measure and report; `quick` takes fewer texts, to try the benchmark itself; `data` is the recordings' folder."""
    file = (data or _REAL_DATA) / "real_events.jsonl.gz"
    texts = list(islice(_real(file) if file.is_file() else _made_up(), 600 if quick else 6_000))
    embedder = default_embedder()
    found = {**_stream(texts, embedder), **_variants(texts, embedder), **_judged(texts, embedder)}  # the same each time
    result = report("semantic", lambda: {**found, **_seconds(texts, embedder)}, 1 if quick else 3)
    where = "real recordings" if file.is_file() else "made up: the real recordings do not lie beside this checkout"
    return {**result, "material": f"{len(texts)} texts, {where}", "embedder": embedder.name}


def _real(file: Path) -> Iterator[_Text]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            yield _Text(event["scene"], event["text"], event["kind"] == "DONE")


def _made_up() -> Iterator[_Text]:
    for place, text in enumerate(islice(talk(7), 2_000)):
        yield _Text(str(place // 100), text, False)


def _key(threshold: float) -> str:
    return f"{round(100 * threshold):03d}"


def _share(hits: Iterable[bool]) -> float:
    """How many of some are true; 0 where there are none."""
    all_hits = list(hits)
    return sum(all_hits) / len(all_hits) if all_hits else 0.0


# ---------------------------------------------------------------------- what is saved


def _stream(texts: list[_Text], embedder: Embedder) -> Mapping[str, float]:
    seen: dict[int, _Text] = {}
    for each in texts:
        seen.setdefault(fingerprint(each.text), each)
    fresh = list(seen.values())
    figures = {"saved_share_exact": 1 - len(fresh) / len(texts)}
    for threshold in _THRESHOLDS:
        cache = SemanticCache(embedder, capacity=len(fresh), max_bytes=1_000_000_000)
        rows = np.zeros((len(fresh), embedder.dims), dtype=np.float32)
        kept: list[str] = []
        guarded: list[tuple[_Text, str]] = []
        unguarded: list[tuple[_Text, str]] = []
        for each in fresh:
            if hit := cache.find(0, each.text, threshold):
                guarded.append((each, hit.gist))
            else:
                cache.put(0, each.text, _REPLY)
            rows[len(kept)] = embedder.embed([each.text])[0]
            cosines = np.vecdot(rows[: len(kept)], rows[len(kept)])
            if kept and cosines.max() >= threshold:
                unguarded.append((each, kept[int(cosines.argmax())]))
            else:
                kept.append(each.text)
        spoken = sum(not each.is_done for each in fresh)
        key = _key(threshold)
        figures |= {
            f"saved_share_{key}": len(guarded) / len(fresh),
            f"saved_share_unguarded_{key}": len(unguarded) / len(fresh),
            f"saved_share_spoken_{key}": sum(not each.is_done for each, _ in guarded) / max(1, spoken),
            f"differing_guarded_{key}": _share(_differ(each.text, other) for each, other in guarded),
            f"differing_unguarded_{key}": _share(_differ(each.text, other) for each, other in unguarded),
        }
    return figures


def _differ(one: str, other: str) -> bool:
    return any(
        found(one) != found(other)
        for found in (
            lambda text: sorted(_DIGITS.findall(text)),
            lambda text: set(_NAME.findall(text)),
            lambda text: len(_NEGATION.findall(text)),
        )
    )


# ---------------------------------------------------------------------- what is wrong


def _changed(text: str) -> Iterator[str]:
    """The text with another number, another name and one negation more, where it has a place for that."""
    if found := _DIGITS.search(text):
        yield text[: found.start()] + str(int(found[0][:9]) + 1) + text[found.end() :]
    if found := _NAME.search(text):
        yield text[: found.start()] + ("Marta" if found[0] != "Marta" else "Pedro") + text[found.end() :]
    if found := _VERB.search(text):
        yield text[: found.end()] + " not" + text[found.end() :]


def _harmless(text: str) -> Iterator[str]:
    """The text with other punctuation, with another first letter's case, and with a polite word before it."""
    yield text.rstrip(".!") + ("!" if text.endswith(".") else ".")
    yield text.replace(",", "")
    yield text[:1].swapcase() + text[1:]
    yield "Thanks. " + text
    yield "Well, " + text


def _reworded(text: str) -> Iterator[str]:
    """The text with a content word in the place of another, and with one more."""
    words = sorted(set(_WORD.findall(text)))
    if len(words) > 1:
        yield text.replace(f" {words[0]}", f" {words[-1]}", 1)
        yield text.replace(f" {words[0]}", f" {words[-1]} {words[0]}", 1)


def _variants(texts: list[_Text], embedder: Embedder) -> Mapping[str, float]:
    """Each text in a scope of its own, so that whatever is found for a variant of it is the answer to the text."""
    some = [each.text for each in texts[::_VARIED_EVERY]]
    cache = SemanticCache(embedder, capacity=len(some), max_bytes=1_000_000_000)
    for scope, text in enumerate(some):
        cache.put(scope, text, _REPLY)
    pairs = {
        kind: [(scope, text, variant) for scope, text in enumerate(some) for variant in vary(text) if variant != text]
        for kind, vary in (("false", _changed), ("harmless", _harmless), ("word", _reworded))
    }
    cosines = {
        kind: [float(np.vecdot(*embedder.embed([text, variant]))) for _, text, variant in found]
        for kind, found in pairs.items()
    }
    figures = {f"{kind}_variants": float(len(found)) for kind, found in pairs.items()}
    for threshold in _THRESHOLDS:
        for kind, found in pairs.items():
            figures[f"{kind}_hits_guarded_{_key(threshold)}"] = _share(
                cache.find(scope, variant, threshold) is not None for scope, _, variant in found
            )
            figures[f"{kind}_hits_unguarded_{_key(threshold)}"] = _share(near >= threshold for near in cosines[kind])
    return figures


def _judged(texts: list[_Text], embedder: Embedder) -> Mapping[str, float]:
    judge = SemanticCache(embedder).judge
    some = texts[::_VARIED_EVERY]
    elsewhere = {
        scene: next((each.text for each in texts if each.scene != scene), "") for scene in {t.scene for t in some}
    }
    return {
        "judge_harmless": _share(judge(each.text, variant) for each in some for variant in _harmless(each.text)),
        "judge_other_number": _share(
            judge(each.text, next(_changed(each.text))) for each in some if _DIGITS.search(each.text)
        ),
        "judge_other_scene": _share(judge(each.text, elsewhere[each.scene]) for each in some if not each.is_done),
    }


# ---------------------------------------------------------------------- what it takes


def _seconds(texts: list[_Text], embedder: Embedder) -> Mapping[str, float]:
    """Lookups that find nothing among 4,096 answers: in one scope, where all are compared, and in one of a hundred."""
    gists = [f"{each.text} ({place})" for place, each in enumerate((texts * (_CAPACITY // len(texts) + 1))[:_CAPACITY])]
    one, many = SemanticCache(embedder), SemanticCache(embedder)
    put_us = _median_us(lambda place: one.put(0, gists[place], _REPLY), len(gists))
    for place, gist in enumerate(gists):
        many.put(place % _SCOPES, gist, _REPLY)
    asked = [each.text[::-1] for each in texts[:200]]
    new_us = _median_us(lambda place: one.find(0, asked[place], 0.93), len(asked))
    return {
        "put_us": put_us,
        "lookup_with_embedding_us": new_us,
        "lookup_us": _median_us(lambda place: one.find(0, asked[place], 0.93), len(asked)),
        "lookup_100_scopes_us": _median_us(lambda place: many.find(place % _SCOPES, asked[place], 0.93), len(asked)),
        "hit_us": _median_us(lambda place: one.find(0, gists[-1 - place], 0.93), len(asked)),
        "kept_mb": one.ram_bytes / 1e6,
    }


def _median_us(call: Callable[[int], object], times: int) -> float:
    taken = []
    for place in range(times):
        began = time.perf_counter()
        call(place)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6
