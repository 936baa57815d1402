"""The limits in force: `LiveLimits` holds a run's limits, takes changes while it runs, and logs each.

A change takes effect in one of two ways. Memory limits take effect for every agent at one step, the first that nobody has started,
so that a transcript does not depend on who was how far; all others take effect at once. Any thread may read and update.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from troupelab.errors import LimitError, RunError
from troupelab.events import LimitChanged
from troupelab.limits import FIELDS, Limits, Number

__all__ = ["FixedLimits", "LimitChange", "LiveLimits"]


class LimitChange(NamedTuple):
    """One accepted request to change limits, as it stands in the log."""

    requested_at: float
    old: Mapping[str, Number]
    new: Mapping[str, Number]
    agents: tuple[str, ...] | None
    note: str
    by: str

    def accepted(self, at_s: float, step: int, next_step: int) -> list[LimitChanged]:
        """The events that tell that it was accepted now, one for each limit.

        Args:
            at_s: seconds since the run's start.
            step: the highest step that anyone has started, -1 for none.
            next_step: from which memory limits hold; the others hold now.
        """
        accepted_ms = (time.monotonic() - self.requested_at) * 1000
        agents = "all" if self.agents is None else ", ".join(self.agents)
        return [
            LimitChanged(
                at_s, step, name, agents, _number(self.old[name]), _number(new), self.note, self.by, accepted_ms,
                max(0, step) if FIELDS[name].at_once else next_step,
            )
            for name, new in self.new.items()
        ]  # fmt: skip


def _number(value: Number) -> float:
    """A limit in a column of floats; no limit is infinite."""
    return float("inf") if value is None else float(value)


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


class FixedLimits(LiveLimits):
    """Limits as they were in force once: they are read as a run's are, and a change is refused.

    Args:
        live: what they were.
        why: what a change is refused with.
    """

    def __init__(self, live: LiveLimits, why: str) -> None:
        super().__init__()
        self._agents, self._versions, self._current, self._log = live._agents, live._versions, live._current, live._log
        self._why = why

    def update(
        self, *, note: str = "", by: str = "user", agents: Iterable[str] | None = None, **changes: Number
    ) -> LimitChange:
        """Refuse: they are past.

        Raises:
            RunError: always.
        """
        raise RunError(self._why)


def _merge(version: _Version, agent: str) -> Limits:
    own = version.overrides.get(agent)
    return version.base.replace(**own) if own else version.base
