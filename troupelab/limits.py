"""The numbers that a user may change while a run runs: `Limits`, immutable; `troupelab.livelimits` has those in force.

Every field carries its unit in its name, and metadata (label, group, range, why this default) from which the dashboard
builds its controls. `None` means no limit, where a field allows it; a field that is on or off is a switch, and takes True and False. Any thread.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

from troupelab.errors import InputError, LimitError

__all__ = ["LimitField", "Limits", "Number"]

Number: TypeAlias = int | float | None
"""A limit's value; None where there is no limit."""


class LimitField(NamedTuple):
    """What is known of one limit, for checks, controls and documentation."""

    name: str
    label: str
    group: str
    unit: str
    low: float
    high: float
    default: Number
    whole: bool
    optional: bool
    log_scale: bool
    at_once: bool
    per_agent: bool
    switch: bool
    why: str


def _limit(
    default: Number,
    label: str,
    unit: str,
    low: float,
    high: float,
    why: str,
    *,
    group: str = "memory",
    optional: bool = False,
    log_scale: bool = False,
) -> Any:
    facts = {"label": label, "group": group, "unit": unit, "low": low, "high": high}
    return field(default=default, metadata={**facts, "why": why, "optional": optional, "log_scale": log_scale})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """All limits of a run, checked when made.

    Raises:
        LimitError: a value is out of its range, or `consolidate_to` is not below `consolidate_at`.

    >>> Limits(recent_max_records=50).recent_max_records
    50
    >>> Limits(retain_fraction=2)
    Traceback (most recent call last):
    ...
    troupelab.errors.LimitError: retain_fraction must be from 0.05 to 1 share, not 2
    """

    recent_max_records: int | None = _limit(
        100, "recent records", "records", 4, 100_000,
        "some 12 steps of talk in a group of eight, and about 50 kB an agent", optional=True, log_scale=True,
    )  # fmt: skip
    recent_max_bytes: int | None = _limit(
        1_000_000, "recent bytes", "bytes", 2_000, 1_000_000_000,
        "twenty times what 100 records of usual length take, so that only long texts meet it", optional=True, log_scale=True,
    )  # fmt: skip
    consolidate_at: float = _limit(
        1.0, "consolidate at", "share of the cap", 0.1, 1.0,
        "use the whole cap before anything is condensed",
    )  # fmt: skip
    consolidate_to: float = _limit(
        0.5, "consolidate down to", "share of the cap", 0.0, 0.95,
        "half the cap at a time: few consolidations, and the newer half stays word for word",
    )  # fmt: skip
    retain_fraction: float = _limit(
        0.7, "keep", "share", 0.05, 1.0,
        "keeping 0.6 of the text instead of 0.4 gained LightMem 7.3 points on LoCoMo; a little above that",
    )  # fmt: skip
    dedup_similarity: float | None = _limit(
        0.93, "merge from", "cosine", 0.8, 1.0,
        "of 85 merges of real agents' texts at 0.93, none was wrong; 1 merges identical texts only", optional=True,
    )  # fmt: skip
    max_age_steps: int | None = _limit(
        None, "word for word, steps", "steps", 1, 1_000_000,
        "none: what is old is on disk, and costs no RAM", optional=True, log_scale=True,
    )  # fmt: skip
    max_age_hours: float | None = _limit(
        None, "word for word, hours", "simulated hours", 0.01, 1_000_000,
        "none, as for max_age_steps; where both are set, the shorter holds", optional=True, log_scale=True,
    )  # fmt: skip
    semantic_max_notes: int | None = _limit(
        2_000, "notes", "notes", 1, 1_000_000,
        "an exact search through 2,000 notes takes well under a millisecond", optional=True, log_scale=True,
    )  # fmt: skip

    total_max_bytes: int | None = _limit(
        64_000_000, "all memories in RAM", "bytes", 50_000, 1_000_000_000_000,
        "a hundred agents with all they need at hand; what does not fit moves to disk and is found as before",
        group="storage", optional=True, log_scale=True,
    )  # fmt: skip
    archive_max_bytes: int | None = _limit(
        4_000_000_000, "archive on disk", "bytes", 100_000, 10_000_000_000_000,
        "some thirty million records; the oldest go when it is full", group="storage", optional=True, log_scale=True,
    )  # fmt: skip
    journal_max_bytes: int | None = _limit(
        2_000_000_000, "journal on disk", "bytes", 10_000, 10_000_000_000_000,
        "some millions of acts; what happens after it is full cannot be lived through again", group="storage", optional=True,
        log_scale=True,
    )  # fmt: skip
    segment_cache_max_bytes: int = _limit(
        8_000_000, "archive read cache", "bytes", 10_000, 1_000_000_000_000,
        "some thirty segments: what a question about the past opens is at hand for the next one", group="storage", log_scale=True,
    )  # fmt: skip

    max_concurrency: int = _limit(
        20, "calls in flight", "calls", 1, 5_000,
        "what most hosted endpoints take from one key without refusing", group="model", log_scale=True,
    )  # fmt: skip
    adaptive_concurrency: bool = _limit(
        False, "find the pace that is not refused", "on or off", 0, 1,
        "off: the first steps are as fast as max_concurrency allows; on, it starts at 20 and backs off at each 429", group="model",
    )  # fmt: skip
    requests_per_minute: int | None = _limit(
        None, "requests a minute", "requests/min", 1, 10_000_000,
        "none: a 429 is waited out; set it to what your key allows, and there are none", group="model", optional=True, log_scale=True,
    )  # fmt: skip
    tokens_per_minute: int | None = _limit(
        None, "tokens a minute", "tokens/min", 1_000, 10_000_000_000,
        "none, as for requests_per_minute", group="model", optional=True, log_scale=True,
    )  # fmt: skip
    batch_window_ms: int = _limit(
        10, "gather for", "ms", 0, 10_000,
        "a hundredth of a usual call: what is asked for at the same time goes out together, where it can", group="model",
    )  # fmt: skip
    batch_max_size: int = _limit(
        16, "gather at most", "requests", 1, 2_048,
        "as many short answers as fit into one reply of a usual length", group="model", log_scale=True,
    )  # fmt: skip
    timeout_s: float | None = _limit(
        60.0, "time-out of an attempt", "s", 0.05, 3_600,
        "several times a slow reply of a hosted model", group="model", optional=True, log_scale=True,
    )  # fmt: skip
    deadline_s: float | None = _limit(
        300.0, "time-out of a call", "s", 0.05, 86_400,
        "all attempts of a call and the waits between them: a busy endpoint is waited for, but not for an hour",
        group="model", optional=True, log_scale=True,
    )  # fmt: skip
    max_attempts: int = _limit(
        5, "attempts a call", "attempts", 1, 20,
        "with one attempt of six going wrong, fewer than one call in 8,000 is lost; five in a row are a fault to be shown", group="model",
    )  # fmt: skip
    max_hedged_fraction: float = _limit(
        0.0, "ask twice when slow", "share of calls", 0.0, 0.05,
        "none: a second request for what is slower than nineteen of twenty calls costs tokens", group="model",
    )  # fmt: skip
    response_max_bytes: int = _limit(
        65_536, "reply size", "bytes", 256, 10_000_000,
        "a reply of an act has 0.2 to 4 kB; more than 64 kB is a runaway", group="model", log_scale=True,
    )  # fmt: skip
    response_max_depth: int = _limit(
        16, "reply depth", "levels", 2, 200,
        "an act's JSON is four levels deep", group="model",
    )  # fmt: skip

    cache_max_bytes: int = _limit(
        500_000_000, "cache on disk", "bytes", 100_000, 1_000_000_000_000,
        "some hundred thousand replies; those that were not asked for longest go first", group="cache", log_scale=True,
    )  # fmt: skip
    cache_max_age_s: float | None = _limit(
        None, "cached for", "s", 1, 100_000_000,
        "none: a reply to the same request is as good as it was", group="cache", optional=True, log_scale=True,
    )  # fmt: skip
    cache_similarity: float | None = _limit(
        None, "answer the like alike from", "cosine", 0.8, 1.0,
        "none: only the same request gets a kept reply; what merely sounds alike may ask something else",
        group="cache", optional=True,
    )  # fmt: skip

    max_tokens: int | None = _limit(
        None, "tokens in all", "tokens", 1, 1_000_000_000_000,
        "none: what a run may take depends on what it is for", group="guardrails", optional=True, log_scale=True,
    )  # fmt: skip
    max_cost_usd: float | None = _limit(
        None, "cost in all", "USD", 0.0001, 1_000_000,
        "none; set it before you use a key that costs", group="guardrails", optional=True, log_scale=True,
    )  # fmt: skip
    max_wall_s: float | None = _limit(
        None, "time in all", "s", 0.1, 10_000_000,
        "none; pauses do not count", group="guardrails", optional=True, log_scale=True,
    )  # fmt: skip
    max_rss_bytes: int | None = _limit(
        None, "the process's memory", "bytes", 100_000_000, 10_000_000_000_000,
        "none: the caps on memories hold what a run can do about it", group="guardrails", optional=True, log_scale=True,
    )  # fmt: skip

    step_delay_ms: int = _limit(
        0, "pause between steps", "ms", 0, 60_000,
        "none: set it to read along", group="pace",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for known in FIELDS.values():
            _check(known, getattr(self, known.name))
        if self.consolidate_to >= self.consolidate_at:
            raise LimitError(
                f"consolidate_to must be below consolidate_at ({self.consolidate_at:g}), not {self.consolidate_to:g}"
            )

    @classmethod
    def fields(cls) -> Mapping[str, LimitField]:
        """Every limit by name, in the order of the groups: what the controls are built from."""
        return dict(FIELDS)

    def replace(self, **changes: Number) -> Limits:
        """Copy these limits with some changed.

        Raises:
            LimitError: a name is unknown or a value out of range.

        >>> Limits().replace(retain_fraction=0.5).retain_fraction
        0.5
        """
        for name in changes:
            if name not in FIELDS:
                raise LimitError(f"there is no limit {name!r}; the limits are {', '.join(FIELDS)}")
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Number]:
        """Name and value of every limit."""
        return {name: getattr(self, name) for name in FIELDS}

    def changed(self) -> dict[str, Number]:
        """The limits that differ from the defaults: what one has to write to get these limits again.

        >>> Limits(max_concurrency=5).changed()
        {'max_concurrency': 5}
        """
        return {name: value for name, value in self.as_dict().items() if value != FIELDS[name].default}

    def to_toml(self, path: str | Path) -> None:
        """Write the limits as TOML, one a line; no limit is written `"none"`, which TOML has no word for."""
        lines = [f"{name} = {_toml(value)}" for name, value in self.as_dict().items()]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def from_toml(cls, path: str | Path) -> Limits:
        """Read limits from TOML; those not named there keep their defaults.

        Raises:
            InputError: the file cannot be read as TOML.
            LimitError: a name is unknown or a value out of range.
        """
        try:
            found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(str(path), "", "a TOML file of limits", found=str(error)) from error
        return cls().replace(**{name: None if value == "none" else value for name, value in found.items()})


_FROM_A_STEP = frozenset({"memory", "storage"})
"""Groups whose limits take effect for every agent at one step."""


def _field_of(raw: dataclasses.Field[Any]) -> LimitField:
    facts = raw.metadata
    return LimitField(
        name=raw.name,
        default=cast(Number, raw.default),
        whole=str(raw.type).startswith(("int", "bool")),
        at_once=facts["group"] not in _FROM_A_STEP,
        per_agent=facts["group"] == "memory",
        switch=str(raw.type) == "bool",
        **facts,
    )


FIELDS: dict[str, LimitField] = {raw.name: _field_of(raw) for raw in dataclasses.fields(Limits)}


def _check(known: LimitField, value: object) -> None:
    if value is None and known.optional:
        return
    if known.switch:
        if not isinstance(value, bool):
            raise LimitError(f"{known.name} must be True or False, not {value!r}")
        return
    kinds: tuple[type, ...] = (int,) if known.whole else (int, float)
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits or not known.low <= value <= known.high or math.isnan(value):  # type: ignore[operator, arg-type]
        or_none = ", or None for no limit" if known.optional else ""
        whole = "a whole number " if known.whole else ""
        raise LimitError(
            f"{known.name} must be {whole}from {known.low:g} to {known.high:g} {known.unit}{or_none}, not {value!r}"
        )


def _toml(value: Number) -> str:
    """A limit's value as TOML writes it; no limit is `"none"`."""
    if value is None:
        return '"none"'
    return str(value).lower() if isinstance(value, bool) else str(value)
