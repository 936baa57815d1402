"""What a TinyPerson remembers, as records, and records as what a TinyPerson remembers. TinyTroupe is not needed for it.

TinyTroupe remembers values: `{"role", "content", "type", "simulation_timestamp"}`, where the content is `{"stimuli": […]}` or
`{"action": {…}, "cognitive_state": {…}}` or, for feedback and the like, a text.

Pure functions; any thread may call them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson

from troupelab.errors import InputError
from troupelab.ids import WORLD, make_id
from troupelab.memory.record import OWN_ACTION, Record, check_text
from troupelab.people.acts import CONVERSATION, Action
from troupelab.people.agent import as_text

__all__ = [
    "MAX_STEPS",
    "MAX_VALUES",
    "Remembered",
    "action",
    "check_step",
    "read_values",
    "stimulus",
    "time_of",
    "to_records",
    "to_values",
]

MAX_VALUES = 1_000_000
"""So many memories are converted at once, at most."""

MAX_STEPS = 1 << 22
"""A step's number is below this."""

_TO = re.compile(r"\(to ([^\n]+?)\) ")
_PLAIN = {"feedback": "system", "reflection": "assistant", "consolidated": "assistant", "information": "assistant"}


class Remembered(NamedTuple):
    """One thing out of a value; `type` is `stimulus` or `action`, or TinyTroupe's word for what is remembered as a text."""

    kind: str
    role: str
    source: str
    target: str
    text: str
    timestamp: str | None
    type: str


def to_values(
    records: Iterable[Record], *, start: datetime | None = None, step: timedelta = timedelta(hours=1)
) -> list[dict[str, Any]]:
    """Turn records into what a TinyPerson's episodic memory holds, one value each.

    A record has no state of mind, so an action comes without its `cognitive_state`. Not in a value: the ids (but for the time that
    follows from the step), how often a record came (`times`; there is one value, at the last time), and the source of an action,
    which is whoever remembers it. What the agent was asked in an interview becomes a stimulus.

    Args:
        records: of one agent, in their order.
        start: simulated time of step 0; None leaves the values without time.
        step: simulated time from one step to the next.

    Returns:
        The values, in the same order.

    Raises:
        InputError: there are more than `MAX_VALUES`, `step` is no time, or a time is beyond what a calendar has.

    >>> records = [Record(make_id(0, 2, 0), "TALK", "Elif", "(to Bo) Good evening.", OWN_ACTION)]
    >>> value, = to_values(records, start=datetime(2026, 3, 2, 8), step=timedelta(minutes=30))
    >>> value["content"], value["simulation_timestamp"]
    ({'action': {'type': 'TALK', 'content': 'Good evening.', 'target': 'Bo'}}, '2026-03-02T09:00:00')
    """
    check_step(step)
    values = []
    for record in _bounded(records, "records"):
        at = time_of(start, step, record.step)
        if record.kind.lower() in _PLAIN:
            kind = record.kind.lower()
            values.append({"role": _PLAIN[kind], "content": record.text, "type": kind, "simulation_timestamp": at})
        elif record.message_id == OWN_ACTION and record.kind != CONVERSATION:
            addressed = _TO.match(record.text)
            target, text = (addressed[1], record.text[addressed.end() :]) if addressed else ("", record.text)
            values.append(action(record.kind, text, target, at))
        else:
            values.append(stimulus(record.kind, record.text, record.source, at))
    return values


def to_records(
    values: Iterable[Any],
    *,
    agent: int,
    name: str = "",
    start: datetime | None = None,
    step: timedelta = timedelta(hours=1),
) -> list[Record]:
    """Turn what a TinyPerson's episodic memory holds into records.

    `to_values` turns them back into equal values, where each holds one stimulus or one action, as TinyTroupe writes them, or a text
    of type feedback, reflection, consolidated or information, with texts for type, content, source and target. Not kept: the
    `cognitive_state`, and any other key. None becomes an empty text, what is neither becomes JSON, several stimuli in one value
    become several values, and a content that begins with `(to somebody) ` on its own becomes one with a target. Times
    come back where `start` and `step` are given and fit. A record's `message_id` tells that it was heard, not from whom.

    Args:
        values: of one person, in their order.
        agent: the agent's index, for the ids.
        name: the agent's name: the source of its actions.
        start: simulated time of step 0, as in `to_values`. None: steps are counted, a new one for each time that has
            not been before; and what has no time belongs to the step of what came before it.
        step: simulated time from one step to the next.

    Returns:
        The records, in the same order.

    Raises:
        InputError: something is no value, too long or too much, or its time is before `start` or no time.

    >>> value = {"role": "user", "content": {"stimuli": [{"type": "CONVERSATION", "content": "Hello.", "source": "Bo"}]},
    ...          "type": "stimulus", "simulation_timestamp": None}
    >>> record, = to_records([value], agent=3)
    >>> record.role, record.source, record.text, to_values([record]) == [value]
    ('stimulus', 'Bo', 'Hello.', True)
    """
    check_step(step)
    events = list(read_values(values))
    records, placed = [], Counter[int]()
    for event, at in zip(events, _steps([each.timestamp for each in events], start, step), strict=True):
        place = placed[at]
        placed[at] += 1
        try:
            own, heard = make_id(agent, at, place), make_id(WORLD, at, place)
        except OverflowError as error:
            expected = (
                f"fewer steps, or fewer values in one: give them times of their own, or convert them in parts ({error})"
            )
            raise InputError("values", "simulation_timestamp", expected) from error
        if event.type == "action":
            text = as_text(Action(event.kind, event.text, event.target))
            check_text(text)
            records.append(Record(own, event.kind, name, text, OWN_ACTION))
        else:
            records.append(Record(own, event.kind, event.source, event.text, heard))
    return records


def _steps(timestamps: Sequence[str | None], start: datetime | None, step: timedelta) -> Iterator[int]:
    """The step of each time."""
    known: dict[str, int] = {}
    at = 0
    for timestamp in timestamps:
        if timestamp is not None:
            if timestamp not in known:
                known[timestamp] = len(known) if start is None else _step_at(timestamp, start, step)
            at = known[timestamp]
        yield at


def _step_at(timestamp: str, start: datetime, step: timedelta) -> int:
    try:
        at = round((datetime.fromisoformat(timestamp) - start) / step)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            "values",
            "simulation_timestamp",
            f"a time that compares with {start.isoformat()}",
            found=repr(timestamp)[:60],
        ) from error
    if not 0 <= at < MAX_STEPS:
        raise InputError("values", "simulation_timestamp", f"a time from {start.isoformat()} on", found=timestamp)
    return at


def read_values(values: Iterable[Any]) -> Iterator[Remembered]:
    """Read what values hold, one by one.

    Raises:
        InputError: something is no value, or too long, or there are more than `MAX_VALUES`.
    """
    for place, value in enumerate(_bounded(values, "values")):
        where = f"value {place}"
        if not isinstance(value, dict) or "content" not in value:
            raise InputError("values", where, "a TinyTroupe memory: an object with a 'content'", found=repr(value)[:60])
        content, role = value["content"], _text(value.get("role"), where)
        timestamp = value.get("simulation_timestamp")
        if timestamp is not None:
            timestamp = timestamp.isoformat() if isinstance(timestamp, datetime) else _text(timestamp, where)
        content = content if isinstance(content, dict) else {"text": content}
        if isinstance(heard := content.get("stimuli"), list):
            found = [(each, "stimulus") for each in heard]
        elif isinstance(done := content.get("action"), dict):
            found = [(done, "action")]
        else:
            kind = _text(value.get("type"), where) or "information"
            yield Remembered(kind.upper(), role, "", "", _text(value["content"], where), timestamp, kind)
            continue
        for each, type_ in found:
            if not isinstance(each, dict):
                raise InputError("values", where, f"{type_} objects", found=repr(each)[:60])
            kind, source, target, text = (
                _text(each.get(key), where) for key in ("type", "source", "target", "content")
            )
            yield Remembered(kind, role, source, target, text, timestamp, type_)


def _text(value: object, where: str) -> str:
    try:
        text = value if isinstance(value, str) else "" if value is None else orjson.dumps(value, default=str).decode()
    except TypeError as error:
        raise InputError(
            "values", where, "texts, or what can be written as JSON", found=type(value).__name__
        ) from error
    check_text(text)
    return text


def stimulus(kind: str, text: str, source: str, at: str | None) -> dict[str, Any]:
    """The value of something heard."""
    content = {"stimuli": [{"type": kind, "content": text, "source": source}]}
    return {"role": "user", "content": content, "type": "stimulus", "simulation_timestamp": at}


def action(kind: str, text: str, target: str, at: str | None) -> dict[str, Any]:
    """The value of something done."""
    content = {"action": {"type": kind, "content": text, "target": target}}
    return {"role": "assistant", "content": content, "type": "action", "simulation_timestamp": at}


def _bounded(values: Iterable[Any], what: str) -> Iterator[Any]:
    for place, value in enumerate(values):
        if place >= MAX_VALUES:
            raise InputError(what, "", f"at most {MAX_VALUES} at once: convert them in parts")
        yield value


def time_of(start: datetime | None, step: timedelta, at: int) -> str | None:
    """The simulated time of step `at`, as values have it.

    Raises:
        InputError: no calendar goes that far.
    """
    try:
        return None if start is None else (start + step * at).isoformat()
    except OverflowError as error:
        raise InputError("start", "", f"a time to which {at} steps of {step} can be added", found=str(start)) from error


def check_step(step: timedelta) -> None:
    """Refuse time that does not go on.

    Raises:
        InputError: it does not.
    """
    if step <= timedelta(0):
        raise InputError("step", "", "more than no time", found=str(step))
