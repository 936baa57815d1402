"""What can happen in a run: the event types, their units, and their OpenTelemetry names.

An event is a small immutable struct. Each type belongs to one *family*, whose name is that of its frame
(`run.frames.calls`, `run.frames.memory`, …). Units stand in the field names (`_s` seconds, `_bytes` bytes, `_usd` US dollars,
`_ms` milliseconds, `_fraction` a share from 0 to 1); all other numbers are counts. `at_s` is the time since the run's
start on the monotonic clock. An agent is its index in the world file; -1 stands for all agents or none.

Events are made on the engine's loop thread and read anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeAlias

import msgspec

__all__ = [
    "FAMILIES",
    "ActDone",
    "ActionTaken",
    "Alerted",
    "CacheUsed",
    "CallDone",
    "Consolidated",
    "Deduped",
    "Emit",
    "Event",
    "Evicted",
    "Failed",
    "Forked",
    "LimitChanged",
    "MemorySized",
    "ProbeAsked",
    "ProcessSampled",
    "RunChanged",
    "StepDone",
    "otel_name",
    "unit_of",
]


class Event(msgspec.Struct, frozen=True, gc=False):
    """What every event has: a family (the frame that it is a row of) and the time it happened."""

    family: ClassVar[str] = ""
    otel: ClassVar[dict[str, str]] = {}

    at_s: float


class ActDone(Event, frozen=True, gc=False):
    """An agent finished its turn in a step, with `error` empty when all went well."""

    family: ClassVar[str] = "acts"

    step: int
    agent: int
    start_s: float
    end_s: float
    calls: int
    actions: int
    error: str


class ActionTaken(Event, frozen=True, gc=False):
    """One action of an agent, in the order in which it took them: a row of the transcript."""

    family: ClassVar[str] = "actions"

    step: int
    agent: int
    sequence: int
    action: str
    target: str
    content: str


class CallDone(Event, frozen=True, gc=False):
    """One question was answered or given up; `queue_s` is the wait for a free slot in it, `attempts` the requests sent to the model.

    `source` says where the answer came from: `model`, `cache` (the same request was answered before), `flight` (the same request
    was under way), `semantic` (a like one was answered before) or `pack` (several went out as one). Only the first and the
    last send requests; tokens and cost are what this question took. `tokens_cached` is the part of `tokens_in` that the provider
    had cached, `first_token_s` NaN where the reply was not streamed.
    """

    family: ClassVar[str] = "calls"
    otel: ClassVar[dict[str, str]] = {
        "latency_s": "gen_ai.client.operation.duration",
        "tokens_in": "gen_ai.client.token.usage",
        "tokens_out": "gen_ai.client.token.usage",
        "error": "error.type",
    }

    step: int
    agent: int
    purpose: str
    latency_s: float
    queue_s: float
    tokens_in: int
    tokens_out: int
    cost_usd: float
    cached: bool
    attempts: int
    error: str
    source: str
    tokens_cached: int
    first_token_s: float


class CacheUsed(Event, frozen=True, gc=False):
    """A kept or shared answer took a call's place, or was checked.

    `kind` is `exact`, `flight`, `semantic`, or `shadow`: the check of a semantic hit, whose question was put to the model all the
    same; `false_hit` tells that the kept answer was another than the model's. The tokens and seconds are what the kept
    answer had taken.
    """

    family: ClassVar[str] = "cache"

    step: int
    agent: int
    kind: str
    similarity: float
    tokens_saved: int
    seconds_saved: float
    false_hit: bool


class Alerted(Event, frozen=True, gc=False):
    """Something needs the user's eye: a guardrail that paused the run, a model that cannot be reached, a price that is not known."""

    family: ClassVar[str] = "alerts"

    step: int
    kind: str
    message: str


class MemorySized(Event, frozen=True, gc=False):
    """What one agent's memory held after its act in a step.

    `recent_bytes` and `note_bytes` are what the tiers' content takes in RAM when all of it is there (their caps speak of that);
    `archive_bytes` is on disk; `total_bytes` is what the agent's memory takes in RAM now, indexes and vectors included.
    """

    family: ClassVar[str] = "memory"

    step: int
    agent: int
    recent_records: int
    recent_bytes: int
    archive_records: int
    archive_bytes: int
    notes: int
    note_bytes: int
    total_bytes: int


class Consolidated(Event, frozen=True, gc=False):
    """The oldest records of an agent became notes; `kept_fraction` is the share of their characters that the notes keep."""

    family: ClassVar[str] = "consolidations"

    step: int
    agent: int
    reason: str
    records_in: int
    notes_out: int
    bytes_before: int
    bytes_after: int
    kept_fraction: float
    seconds: float
    tokens: int


class Deduped(Event, frozen=True, gc=False):
    """A new record said the same as an earlier one and took it in: `merged_id` is the earlier one's id, `times` how often it came."""

    family: ClassVar[str] = "dedups"

    step: int
    agent: int
    kept_id: int
    merged_id: int
    similarity: float
    times: int
    bytes: int


class Evicted(Event, frozen=True, gc=False):
    """The limit that `rule` names took something out of an agent's memory: dropped it, or moved it from RAM to disk."""

    family: ClassVar[str] = "evictions"

    step: int
    agent: int
    rule: str
    what: str
    records: int
    bytes: int
    dropped: bool


class ProbeAsked(Event, frozen=True, gc=False):
    """One agent's memory was asked one wording of a probe's question (0 is the question, 1… its paraphrases).

    `rank` is the place of the first thing found that holds the fact (1 is the first, 0: none among the `k` best; what has the same score
    as others comes after them), `tier` where that was (`recent`, `archive` or `notes`), `held` the best tier that still holds
    the fact, found or not (empty: it is forgotten), `neighbour_rank` the place of the first thing that holds the wrong neighbour alone.
    It follows from what happened, so that the journal does not have it.
    """

    family: ClassVar[str] = "probes"

    step: int
    agent: int
    probe: str
    wording: int
    age_steps: int
    rank: int
    tier: str
    held: str
    neighbour_rank: int
    k: int
    shares_word: bool


class LimitChanged(Event, frozen=True, gc=False):
    """One limit was changed; `accepted_ms` is the time from the request to the engine's acceptance of it."""

    family: ClassVar[str] = "limits"

    step: int
    field: str
    agents: str
    old: float
    new: float
    note: str
    by: str
    accepted_ms: float
    effective_step: int


class Failed(Event, frozen=True, gc=False):
    """Something went wrong and was dealt with; `kind` is the error's class, `message` says what was done."""

    family: ClassVar[str] = "errors"

    step: int
    agent: int
    kind: str
    message: str
    attempt: int


class RunChanged(Event, frozen=True, gc=False):
    """The run entered a state; `step` is the highest step that anyone has started."""

    family: ClassVar[str] = "runs"

    step: int
    state: str
    reason: str


class Forked(Event, frozen=True, gc=False):
    """Another run took over this one's past up to before a step; `changed` says which limits it was given.

    It is told to whoever watches, and is no part of what happened in the run: the journal does not have it.
    """

    family: ClassVar[str] = "forks"

    step: int
    changed: str


class StepDone(Event, frozen=True, gc=False):
    """Everybody finished a step; `held_s` is the part of its time in which a pause let nobody begin."""

    family: ClassVar[str] = "steps"

    step: int
    start_s: float
    end_s: float
    held_s: float
    max_concurrency: int


class ProcessSampled(Event, frozen=True, gc=False):
    """What the process used at a moment, and how busy the model's slots were.

    `memory_bytes` is what all memories take in RAM, shared texts once: what `total_max_bytes` caps.
    """

    family: ClassVar[str] = "process"
    otel: ClassVar[dict[str, str]] = {"rss_bytes": "process.memory.usage", "cpu_s": "process.cpu.time"}

    rss_bytes: int
    cpu_s: float
    in_flight: int
    queued: int
    memory_bytes: int


FAMILIES: dict[str, type[Event]] = {kind.family: kind for kind in Event.__subclasses__()}
"""Every event type by the name of its family."""

Emit: TypeAlias = Callable[[Event], None]
"""The one callable through which each part tells what happened."""

_UNITS = {"_s": "s", "_ms": "ms", "_bytes": "By", "_usd": "USD", "_fraction": "1"}


def unit_of(field: str) -> str:
    """Say the unit of a field, by its name, as OpenTelemetry writes units (UCUM); `""` for names and plain counts.

    >>> unit_of("latency_s"), unit_of("recent_bytes"), unit_of("agent")
    ('s', 'By', '')
    """
    if field in {"bytes", "seconds"}:
        return {"bytes": "By", "seconds": "s"}[field]
    return next((unit for suffix, unit in _UNITS.items() if field.endswith(suffix)), "")


def otel_name(event: type[Event], field: str) -> str:
    """Say the OpenTelemetry name of an event's field.

    Model calls carry the GenAI semantic conventions' names; what they do not name is `troupelab.<family>.<field>`.

    >>> otel_name(CallDone, "latency_s"), otel_name(MemorySized, "notes")
    ('gen_ai.client.operation.duration', 'troupelab.memory.notes')
    """
    return event.otel.get(field, f"troupelab.{event.family}.{field}")
