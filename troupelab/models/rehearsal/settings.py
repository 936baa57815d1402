"""What can be set about the rehearsal server: `Settings`, checked when made, and the latency models.

Immutable; any thread may use them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, NamedTuple

from troupelab.errors import InputError

__all__ = ["KEY_VARIABLE", "MALFORMED", "REFUSABLE", "Latency", "Settings"]

KEY_VARIABLE = "TROUPELAB_REHEARSAL_KEY"
"""Where the server's key is read from without `--key`: other users of a machine see the arguments of its processes."""

MALFORMED = ("truncate", "prose", "fence", "single", "empty", "nokey")
"""How a reply can be spoilt: cut off, an apology, wrapped in a fence, single quotes, nothing, without the expected key."""

REFUSABLE = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "response_format", "seed", "stream", "stream_options",
    "stop", "n", "user", "logprobs", "presence_penalty", "frequency_penalty", "tools", "store", "metadata", "dimensions",
    "encoding_format", "prompt_cache_key", "reasoning_effort", "parallel_tool_calls", "service_tier",
)  # fmt: skip
"""Parameters of a request that the server can be told to refuse, as some models do."""

_SOURCE = "rehearsal"
_NORMAL = NormalDist()
_LONGEST_S = 3_600.0
_KINDS = {"const": 1, "lognorm": 2, "uniform": 2, "pertoken": 2}
_LATENCIES = "const:S, lognorm:MEDIAN:SIGMA, uniform:A:B or pertoken:BASE:PER_TOKEN, in seconds from 0 to 3600"


class Latency(NamedTuple):
    """How long a call takes: a kind and its two numbers.

    >>> Latency.parse("pertoken:0.2:0.01").seconds(0.5, tokens=30)
    0.5
    """

    kind: str
    first: float
    second: float

    @classmethod
    def parse(cls, text: object) -> Latency:
        """Read a latency model as it is written.

        Args:
            text: `const:S`, `lognorm:MEDIAN:SIGMA`, `uniform:A:B` or `pertoken:BASE:PER_TOKEN`.

        Raises:
            InputError: it is none of these.
        """
        kind, *numbers = str(text).split(":")
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            values = []
        fits = len(values) == _KINDS.get(kind) and all(0 <= value <= _LONGEST_S for value in values)
        if not fits or (kind == "uniform" and values[0] > values[1]) or (kind == "lognorm" and values[1] > 10):
            raise InputError(_SOURCE, "latency", _LATENCIES, found=repr(text)[:80])
        return cls(kind, values[0], values[-1])

    def seconds(self, share: float, tokens: int) -> float:
        """The time of one call, at most an hour.

        Args:
            share: where in the distribution it lies, from 0 to 1.
            tokens: how many tokens it writes.
        """
        if self.kind == "const":
            return self.first
        if self.kind == "uniform":
            return self.first + (self.second - self.first) * share
        if self.kind == "lognorm":
            spread = self.second * _NORMAL.inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
            return min(self.first * math.exp(spread), _LONGEST_S)
        return min(self.first + self.second * tokens, _LONGEST_S)


def _number(default: Any, low: float, high: float, why: str, *, whole: bool = False, optional: bool = False) -> Any:
    return field(
        default=default, metadata={"low": low, "high": high, "whole": whole, "optional": optional, "help": why}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything that can be set about the rehearsal server.

    Raises:
        InputError: a value is out of its range; the message names the field.

    >>> Settings(p429=0.05).changed({"latency": "const:0.2"}).latency
    'const:0.2'
    >>> Settings(p500=2)
    Traceback (most recent call last):
    ...
    troupelab.errors.InputError: rehearsal: p500: expected a number from 0 to 1, found 2
    """

    latency: str = field(
        default="const:0", metadata={"help": f"how long a call takes: {_LATENCIES.partition(', in')[0]}"}
    )
    seed: int = _number(0, -(2**63), 2**63 - 1, "of replies, faults and latencies", whole=True)
    p429: float = _number(0.0, 0, 1, "share of calls that are answered 429, too many requests")
    p500: float = _number(0.0, 0, 1, "share of calls that are answered 500")
    pmalformed: float = _number(0.0, 0, 1, "share of calls whose reply is spoilt")
    pdrop: float = _number(0.0, 0, 1, "share of calls whose connection is closed without an answer")
    phang: float = _number(0.0, 0, 1, "share of calls that get no answer for hang_s")
    malformed: str = field(
        default="mixed", metadata={"choices": (*MALFORMED, "mixed"), "help": "how replies are spoilt; mixed draws one"}
    )
    hang_s: float = _number(600.0, 0, _LONGEST_S, "how long a hanging call hangs")
    retry_after_s: float = _number(0.0, 0, _LONGEST_S, "what the Retry-After header of a 429 says; 0: no header")
    capacity: int | None = _number(
        None, 1, 1_000_000, "more calls than this in service are answered 429", whole=True, optional=True
    )
    requests_per_s: float | None = _number(
        None, 0.001, 1_000_000, "more calls than this are answered 429", optional=True
    )
    key: str | None = field(default=None, repr=False, metadata={"help": "the key that calls must carry; none: any"})
    models: tuple[str, ...] | None = field(
        default=None, metadata={"help": "the models that there are; another is answered 404; none: any"}
    )
    reply: str = field(
        default="scripted",
        metadata={"choices": ("scripted", "short"), "help": "as the persona would, or one short act, for benchmarks"},
    )
    repeat_rate: float = _number(0.15, 0, 1, "share of speech that repeats an earlier sentence")
    prefix_cache: bool = field(
        default=True, metadata={"help": "report the prompt's beginning as cached once it was seen"}
    )
    refuse_parameters: tuple[str, ...] = field(
        default=(), metadata={"help": f"parameters that are answered 400: {', '.join(REFUSABLE[:6])} and others"}
    )

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if "low" in each.metadata:
                _check_number(each.name, value, each.metadata)
            elif "choices" in each.metadata and value not in each.metadata["choices"]:
                _refuse(each.name, f"one of {', '.join(each.metadata['choices'])}", value)
        Latency.parse(self.latency)
        total = math.fsum((self.p429, self.p500, self.pmalformed, self.pdrop, self.phang))
        if total > 1 + 1e-9:
            _refuse("p429", "p429 + p500 + pmalformed + pdrop + phang to be at most 1", total)
        if not isinstance(self.prefix_cache, bool):
            _refuse("prefix_cache", "true or false", self.prefix_cache)
        # Whatever is wrong with a key, the message must not show it.
        if self.key is not None and not (
            isinstance(self.key, str) and self.key.isprintable() and 0 < len(self.key) <= 1_000
        ):
            raise InputError(_SOURCE, "key", "1 to 1000 printable characters, or none")
        for name in ("models", "refuse_parameters"):
            _check_names(name, getattr(self, name))
        if unknown := set(self.refuse_parameters) - set(REFUSABLE):
            _refuse("refuse_parameters", f"some of {', '.join(REFUSABLE)}", ", ".join(sorted(unknown)))

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """The same settings but for some; lists are taken for tuples, as JSON has no others.

        Args:
            values: new values by name.

        Raises:
            InputError: a name is unknown or a value out of its range.
        """
        known = {each.name for each in dataclasses.fields(self)}
        if unknown := [name for name in values if name not in known]:
            raise InputError(_SOURCE, "settings", f"some of {', '.join(sorted(known))}", found=repr(unknown[0])[:80])
        new: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return dataclasses.replace(self, **new)

    def to_dict(self) -> dict[str, Any]:
        """All settings by name; of a key it is only said that there is one."""
        return dataclasses.asdict(self) | {"key": None if self.key is None else "(set)"}


def _check_number(name: str, value: object, facts: Mapping[str, Any]) -> None:
    if value is None and facts["optional"]:
        return
    kinds = int if facts["whole"] else int | float
    # A NaN is in no range.
    if isinstance(value, kinds) and not isinstance(value, bool) and facts["low"] <= value <= facts["high"]:
        return
    what = "a whole number" if facts["whole"] else "a number"
    _refuse(
        name, f"{what} from {facts['low']:g} to {facts['high']:g}" + (", or none" if facts["optional"] else ""), value
    )


def _check_names(name: str, value: object) -> None:
    if value is None and name == "models":
        return
    if (
        not isinstance(value, tuple)
        or len(value) > 100
        or any(not isinstance(each, str) or not 0 < len(each) <= 200 for each in value)
    ):
        _refuse(name, "at most 100 names of 1 to 200 characters", value)


def _refuse(name: str, expected: str, value: object) -> None:
    raise InputError(_SOURCE, name, expected, found=repr(value)[:80])
