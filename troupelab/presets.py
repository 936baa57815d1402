"""Presets: named sets of limits, each for one thing that one may want to see.

A preset changes the limits that it names and leaves all others as they are: `run.limits.update(**PRESETS["tight memory"].changes)`.
Pure data; any thread may read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from troupelab.limits import Limits, Number

__all__ = ["PRESETS", "Preset", "Presets"]


class Preset(NamedTuple):
    """A set of limits: its name, a sentence that says what it is for and what one will see, and the values by the limits' names."""

    name: str
    about: str
    changes: Mapping[str, Number]

    def differs(self, limits: Limits) -> dict[str, Number]:
        """What of it is otherwise in some limits: what there is to change.

        >>> PRESETS["reading along"].differs(Limits(max_concurrency=4))
        {'step_delay_ms': 2000}
        """
        return {name: value for name, value in self.changes.items() if getattr(limits, name) != value}


class Presets(Mapping[str, Preset]):
    """All presets by name; "defaults" undoes the others.

    >>> PRESETS["tight memory"].changes["recent_max_records"]
    20
    """

    def __init__(self, presets: Iterable[Preset]) -> None:
        self._by_name = {each.name: each for each in presets}

    def __getitem__(self, name: str) -> Preset:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<presets: {', '.join(self)}>"


def _preset(name: str, about: str, **changes: Number) -> Preset:
    Limits().replace(**changes)
    return Preset(name, about, MappingProxyType(changes))


PRESETS = Presets(
    (

            _preset(
                "defaults",
                "All limits as they come: what a group of eight needs for an hour of talk on an ordinary laptop.",
                **Limits().as_dict(),
            ),
            _preset(
                "tight memory",
                "A fifth of the usual room for each agent: memories fill within a few steps, and you see consolidation after "
                "consolidation, each keeping half of the text as notes.",
                recent_max_records=20, recent_max_bytes=20_000, consolidate_at=1.0, consolidate_to=0.5, retain_fraction=0.5,
                semantic_max_notes=200, total_max_bytes=4_000_000, segment_cache_max_bytes=500_000,
            ),
            _preset(
                "forgetful",
                "Agents that lose what is a few steps old: little stays word for word, few notes are kept, and the oldest are "
                "dropped, which questions about the beginning will show.",
                recent_max_records=10, consolidate_at=1.0, consolidate_to=0.3, retain_fraction=0.2, max_age_steps=4,
                semantic_max_notes=4, archive_max_bytes=100_000,
            ),
            _preset(
                "long memory",
                "Ten times the usual room: hardly anything is condensed, and memories grow through the whole run, at the cost "
                "of RAM.",
                recent_max_records=1_000, recent_max_bytes=10_000_000, consolidate_at=1.0, consolidate_to=0.8,
                retain_fraction=0.95, max_age_steps=None, max_age_hours=None, semantic_max_notes=20_000,
                total_max_bytes=512_000_000, archive_max_bytes=None,
            ),
            _preset(
                "free tier limits",
                "The pace that free keys usually allow, with patience for refusals: few calls at once, 15 a minute, and "
                "steps that take minutes; compare with your provider's own numbers.",
                max_concurrency=2, adaptive_concurrency=True, requests_per_minute=15, tokens_per_minute=250_000,
                max_attempts=8, timeout_s=120.0, deadline_s=900.0,
            ),
            _preset(
                "one small machine",
                "For two cores and little RAM, with a model on the same machine: few calls at once, small caches, and what "
                "does not fit moves to disk early.",
                max_concurrency=4, batch_max_size=4, timeout_s=300.0, deadline_s=1_200.0, total_max_bytes=16_000_000,
                segment_cache_max_bytes=2_000_000, archive_max_bytes=500_000_000, journal_max_bytes=500_000_000,
                cache_max_bytes=100_000_000,
            ),
            _preset(
                "careful spending",
                "For a first try with a key that costs: the run pauses at one dollar, at 300,000 tokens or after half an "
                "hour, whichever comes first, and goes on when you raise that.",
                max_tokens=300_000, max_cost_usd=1.0, max_wall_s=1_800.0, max_attempts=3,
            ),
            _preset(
                "reading along",
                "Slow enough to follow the transcript: two seconds between steps, and four agents at a time.",
                max_concurrency=4, step_delay_ms=2_000,
            ),
    )
)  # fmt: skip
