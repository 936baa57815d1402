"""How long it takes to read a reply: a clean one, a fenced one, a broken one, and the worst that anybody could send.

The worst are texts of up to 64 KB made to be slow (`attacks`), and replies broken at random, seeded, so that a slow one can be met again.
`clean_us` is a usual reply of an act (600 bytes); a broken reply's first repair in a process also imports json-repair, once, and
is not in the figures. `slowest_s` is by the clock, `slowest_cpu_s` what the thread itself ran. That each of a corpus of broken
replies gives what it should is tested, not measured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping

import orjson

from troupelab.bench.harness import report
from troupelab.errors import ReplyError
from troupelab.limits import Limits
from troupelab.models.parse import parse_object

__all__ = ["attacks", "mutations", "reply", "run"]

_SEED = 7
_BYTES, _DEPTH = Limits().response_max_bytes, Limits().response_max_depth
_MENDABLE = 4_096
_TIMES = (20, 45, 120, 250)
_EXPECTED = ("actions", "action")
_ROUNDS = 2_000

_PIECES = (
    *'{}[]():,"\'\\/#`“”＂：\n\t 0-.eE', "//", "/*", "*/", "```json\n", "true", "None", "NaN", "\\u", "\\ud83d", "\ud83d", "\0",
    "\ufeff", '"actions": ', "{action: ", '{"actions": [', "'", '\\"', '",', '":', "}]}", "&quot;", "<think>", "9" * 400,
)  # fmt: skip
_UNITS = (
    "{", "[", "(", '"', "'", "\\", "`", ",", ":", "}", "]", "“", " ", "\n", "9", "-", "a ", "{}", "[]", "{a: b, ", '{"a": ', '{"a": [',
    '{"a": [1, ', '{"a": "b", ', '{"actions": ', '{"actions": [', "{actions: ", "{'actions': [", '{"a":{"actions":1} ', '"a" b ', '"a" "b" ',
    '"a": 1 "b": 2 ', "'a' ", "a' ", '\\"', '\\\\"', "\\u12", "\\ud83d", '",', '":', '"}', '"]', "'}", "”", "“a” ", "//", "/*", "/* */", "/*a", "# ",
    "// a\n", "```json\n", "true", "None, ", "1e999, ", "1.", "a(", "(a, ", "“a”: ", '"a\n', "}{", "][", "x{y", '{"actions": 1} ', "a:b,",
    "...", '"..."', '"a"\'', ', "a"', "{,", "[,", '{"a"', "{a", "a}", "[{", "{[", '", "', '": "', "a: ", 'a": ', "\t", "\0", "é",
)  # fmt: skip
"""What an attack repeats. Each is tried alone, after the beginning of a reply, and inside one of its texts."""
_FRAMES = (
    ("", ""),
    ('{"actions": ', ""),
    ('{"actions": [', "]}"),
    ('{"actions": [{"type": "TALK", "content": "', '", "target": ""}]}'),
    ('{"actions": [{"type": "TALK", "content": ', "}]}"),
    ("{actions: [", "}"),
    ("{'actions': '", "'}"),
    ('{"actions": "', ""),
    ('{"a', '": {"actions": [}'),
)


def reply() -> str:
    """A usual reply of an act, of some 600 bytes."""
    actions = [
        {"type": "THINK", "content": "If the price stays below two hundred I could bring it home, and Elif would like it.", "target": ""},
        {"type": "TALK", "content": "Before I say yes: who repairs it in five years, and what does that cost?", "target": "Elif Aydın"},
        {"type": "REACH_OUT", "content": "Do you have a moment? There is something about the oven that I would ask you.", "target": "Jakub Wrona"},
        {"type": "DONE", "content": "", "target": ""},
    ]  # fmt: skip
    state = {"goals": "Find out what it costs.", "attention": "The new oven.", "emotions": "Curious, a little wary."}
    return orjson.dumps({"actions": actions, "cognitive_state": state}).decode()


def attacks() -> Iterator[str]:
    """Texts made to be slow: each unit repeated in each frame, up to what is mended and up to 64 KB, and with words between."""
    for unit in _UNITS:
        for head, tail in _FRAMES:
            for size in (_MENDABLE // 4, _MENDABLE, _BYTES):
                room = size - len((head + tail).encode())
                yield head + unit * (room // len(unit.encode("utf-8", "surrogatepass"))) + tail
            for times in _TIMES:
                words = "ab " * max(0, (_MENDABLE // times - len(unit) - 1) // 3)
                yield (head + (unit + words) * times)[: _MENDABLE - len(tail)] + tail


def mutations(seed: int) -> Iterator[str]:
    """Replies, whole and of all sizes that are mended, broken at random places; without end."""
    chance = random.Random(seed)  # noqa: S311
    whole = reply()
    while True:
        text = whole * chance.choice((1, 1, 1, 2, 5))
        for _ in range(chance.choice((1, 2, 5, 20, 100))):
            place, length = chance.randrange(len(text) + 1), chance.choice((0, 1, 1, 5, 50))
            piece = chance.choice(_PIECES) * chance.choice((0, 1, 1, 1, 3, 30))
            text = text[:place] + piece + text[place + length :]
        yield text[: chance.choice((_MENDABLE, len(text) + 1, chance.randrange(len(text) + 1)))]


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` breaks fewer replies, to try the benchmark itself."""
    count = 300 if quick else 3_000

    def measure() -> Mapping[str, float]:
        _parse("{actions: []}")  # imports json-repair
        whole = reply()
        fenced = f"Sure, here it is:\n\n```json\n{whole}\n```\nAnything else?"
        broken = whole.replace("]", ",]").replace('"type"', "type")
        fuzz = mutations(_SEED)
        texts = [*attacks(), *(next(fuzz) for _ in range(count))]
        slowest, slowest_cpu, crashes = 0.0, 0.0, 0
        for text in texts:
            seconds, cpu, crashed = _timed(text)
            if seconds > slowest:  # once more, so that what else the machine did is not taken for the parser
                seconds = min(seconds, _timed(text)[0])
            slowest, slowest_cpu, crashes = max(slowest, seconds), max(slowest_cpu, cpu), crashes + crashed
        return {
            "clean_us": _each_us(_parse, whole, _ROUNDS),
            "clean_ascii_us": _each_us(_parse, whole.encode("ascii", "replace").decode(), _ROUNDS),
            "orjson_us": _each_us(orjson.loads, whole, _ROUNDS),
            "fenced_us": _each_us(_parse, fenced, _ROUNDS),
            "repaired_us": _each_us(_parse, broken, _ROUNDS // 20),
            "slowest_s": slowest,
            "slowest_cpu_s": slowest_cpu,
            "fuzz_inputs": len(texts),
            "fuzz_crashes": crashes,
        }

    return report("parse", measure, 1 if quick else 3)


def _parse(text: str) -> object:
    return parse_object(text, _EXPECTED, max_bytes=_BYTES, max_depth=_DEPTH)


def _timed(text: str) -> tuple[float, float, int]:
    """How long a text took, how much of that this thread ran, and 1 if it raised what is not a `ReplyError`."""
    crashed = 0
    began, cpu_began = time.perf_counter(), time.thread_time()
    try:
        _parse(text)
    except ReplyError:
        pass
    except Exception:  # this is what is counted
        crashed = 1
    return time.perf_counter() - began, time.thread_time() - cpu_began, crashed


def _each_us(read: Callable[[str], object], text: str, rounds: int) -> float:
    """The best of five averages: what the code takes where nothing else is in its way.

    Each reading gets a text of its own, as from a model: one that was encoded before is read faster.
    """
    best = float("inf")
    raw = text.encode()
    for _ in range(5):
        texts = [raw.decode() for _ in range(rounds)]
        began = time.perf_counter()
        for each in texts:
            read(each)
        best = min(best, time.perf_counter() - began)
    return best / rounds * 1e6
