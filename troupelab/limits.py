"""The numbers that a user may change while a run runs: `Limits`, and `LiveLimits` that holds them and logs each change.

Every field carries its unit in its name, and metadata (label, group, range, why this default) from which the dashboard
builds its controls. `None` means no limit, where a field allows it.

A change takes effect in one of two ways. Memory limits take effect for every agent at one step, the first that nobody has started,
so that a transcript does not depend on who was how far; the model's and the pace's take effect at once. `Limits` is
immutable. `LiveLimits` may be read and updated from any thread.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

from troupelab.errors import InputError, LimitError

__all__ = ["LimitChange", "LimitField", "Limits", "LiveLimits", "Number"]

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
    segment_cache_max_bytes: int = _limit(
        8_000_000, "archive read cache", "bytes", 10_000, 1_000_000_000_000,
        "some thirty segments: what a question about the past opens is at hand for the next one", group="storage", log_scale=True,
    )  # fmt: skip

    max_concurrency: int = _limit(
        20, "calls in flight", "calls", 1, 5_000,
        "what most hosted endpoints take from one key without refusing", group="model", log_scale=True,
    )  # fmt: skip
    timeout_s: float | None = _limit(
        60.0, "time-out", "s", 0.05, 3_600,
        "several times a slow reply of a hosted model", group="model", optional=True, log_scale=True,
    )  # fmt: skip
    max_attempts: int = _limit(
        3, "attempts a call", "attempts", 1, 20,
        "one bad reply or lost call is common, three in a row are a fault to be shown", group="model",
    )  # fmt: skip
    response_max_bytes: int = _limit(
        65_536, "reply size", "bytes", 256, 10_000_000,
        "a reply of an act has 0.2 to 4 kB; more than 64 kB is a runaway", group="model", log_scale=True,
    )  # fmt: skip
    response_max_depth: int = _limit(
        16, "reply depth", "levels", 2, 200,
        "an act's JSON is four levels deep", group="model",
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
        lines = [
            f"{name} = {value if value is not None else chr(34) + 'none' + chr(34)}"
            for name, value in self.as_dict().items()
        ]
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
        whole="int" in str(raw.type),
        at_once=facts["group"] not in _FROM_A_STEP,
        per_agent=facts["group"] == "memory",
        **facts,
    )


FIELDS: dict[str, LimitField] = {raw.name: _field_of(raw) for raw in dataclasses.fields(Limits)}


def _check(known: LimitField, value: object) -> None:
    if value is None and known.optional:
        return
    kinds: tuple[type, ...] = (int,) if known.whole else (int, float)
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits or not known.low <= value <= known.high or math.isnan(value):  # type: ignore[operator, arg-type]
        or_none = ", or None for no limit" if known.optional else ""
        whole = "a whole number " if known.whole else ""
        raise LimitError(
            f"{known.name} must be {whole}from {known.low:g} to {known.high:g} {known.unit}{or_none}, not {value!r}"
        )


class LimitChange(NamedTuple):
    """One accepted request to change limits, as it stands in the log."""

    requested_at: float
    old: Mapping[str, Number]
    new: Mapping[str, Number]
    agents: tuple[str, ...] | None
    note: str
    by: str


class _Version(NamedTuple):
    from_step: int
    base: Limits
    overrides: Mapping[str, Mapping[str, Number]]


class LiveLimits:
    """The limits in force, and the log of how they came to be so.

    Reading an attribute gives the value that was last accepted: `run.limits.recent_max_records`. Any thread may read and update.

    >>> live = LiveLimits(Limits())
    >>> live.update(recent_max_records=50, note="smaller window").new
    {'recent_max_records': 50}
    >>> live.recent_max_records, len(live.log)
    (50, 1)
    """

    def __init__(self, limits: Limits | None = None, *, agents: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._agents = frozenset(agents)
        self._versions: tuple[_Version, ...] = (_Version(0, limits or Limits(), {}),)
        self._current = self._versions[0]
        self._log: tuple[LimitChange, ...] = ()
        self._listener: Callable[[LimitChange], None] | None = None
        self._views: dict[str, tuple[_Version, Limits]] = {}

    def __getattr__(self, name: str) -> Any:
        if name in FIELDS:
            return getattr(self._current.base, name)
        raise AttributeError(f"there is no limit {name!r}; the limits are {', '.join(FIELDS)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *FIELDS]

    def __repr__(self) -> str:
        changed = ", ".join(f"{name}={value}" for name, value in self._current.base.changed().items())
        return f"<LiveLimits {changed or 'all defaults'}; {len(self._log)} changes>"

    @property
    def current(self) -> Limits:
        """The limits that were last accepted, for agents without overrides of their own."""
        return self._current.base

    @property
    def overrides(self) -> Mapping[str, Mapping[str, Number]]:
        """Per agent, the limits that were set for it alone."""
        return self._current.overrides

    @property
    def log(self) -> tuple[LimitChange, ...]:
        """Every accepted change, oldest first."""
        return self._log

    def for_agent(self, name: str) -> Limits:
        """The limits that were last accepted for one agent."""
        return _merge(self._current, name)

    def update(
        self, *, note: str = "", by: str = "user", agents: Iterable[str] | None = None, **changes: Number
    ) -> LimitChange:
        """Change limits, for all agents or only for some; returns at once, and nothing changes where it raises.

        A change for all replaces what single agents had been given for the same limits: the last word holds.

        Args:
            note: why, in a few words: it is shown on the charts.
            by: who changed it.
            agents: names of the agents that it is for (memory limits only); None for all.
            changes: new values by the limits' names.

        Raises:
            LimitError: a name is unknown, a value is out of range, or an agent is not in the world.
        """
        requested_at = time.monotonic()
        chosen = None if agents is None else ((agents,) if isinstance(agents, str) else tuple(agents))
        if not changes:
            raise LimitError(f"no limit was named; the limits are {', '.join(FIELDS)}")
        with self._lock:
            base, overrides = self._current.base, self._current.overrides
            if chosen is None:
                old = {name: getattr(base, name, None) for name in changes}
                base = base.replace(**changes)
                overrides = {
                    agent: rest
                    for agent, own in overrides.items()
                    if (rest := {name: value for name, value in own.items() if name not in changes})
                }
            else:
                old = self._check_agents(chosen, changes)
                overrides = {**overrides, **{agent: {**overrides.get(agent, {}), **changes} for agent in chosen}}
            version = self._current._replace(base=base, overrides=overrides)
            for agent in overrides:
                _merge(version, agent)  # an override must also fit beside the new values for all
            change = LimitChange(requested_at, old, dict(changes), chosen, note, by)
            self._current = version
            self._log = (*self._log, change)
            listener = self._listener
            if listener is None:
                self._versions = (*self._versions[:-1], version._replace(from_step=self._versions[-1].from_step))
        if listener is not None:
            listener(change)
        return change

    def _check_agents(self, chosen: tuple[str, ...], changes: Mapping[str, Number]) -> dict[str, Number]:
        for agent in chosen:
            if agent not in self._agents:
                raise LimitError(f"there is no agent {agent!r} in this world")
        for name in changes:
            if name in FIELDS and not FIELDS[name].per_agent:
                raise LimitError(f"{name} is for all agents together and cannot be set for some")
        first = _merge(self._current, chosen[0]) if chosen else self._current.base
        return {name: getattr(first, name, None) for name in changes}

    def bind(self, listener: Callable[[LimitChange], None] | None) -> None:
        """Have each accepted change told to `listener`, in the updating thread; None ends it. For the engine."""
        with self._lock:
            self._listener = listener

    def settle(self, from_step: int) -> None:
        """Let all that was accepted so far take effect for every agent from a step on. For the engine."""
        with self._lock:
            earlier = tuple(version for version in self._versions if version.from_step < from_step)
            self._versions = (*earlier, self._current._replace(from_step=from_step))

    def at_step(self, step: int, agent: str) -> Limits:
        """The limits that hold for an agent in a step, whenever it gets there. For the engine."""
        versions = self._versions
        version = next((known for known in reversed(versions) if known.from_step <= step), versions[0])
        cached = self._views.get(agent)
        if cached is None or cached[0] is not version:
            cached = self._views[agent] = (version, _merge(version, agent))
        return cached[1]


def _merge(version: _Version, agent: str) -> Limits:
    own = version.overrides.get(agent)
    return version.base.replace(**own) if own else version.base
