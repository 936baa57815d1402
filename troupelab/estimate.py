"""Estimates: what a run will take, before it begins or for what is left of it, and what that rests on.

An agent's prompts are played through in numbers: what one hears, what its memory holds of that under the limits, and what a prompt shows
of it. Before the start that rests on the first real prompts, later on what the run has recorded. Nothing of a run that has begun is
touched; any thread may call it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean
from typing import Any, NamedTuple, Protocol

import numpy as np

from troupelab.engine.engine import Engine
from troupelab.engine.options import Options
from troupelab.limits import Limits
from troupelab.livelimits import LiveLimits
from troupelab.memory import policy
from troupelab.models.model import Model
from troupelab.models.prices import Price, cost_usd, price_of
from troupelab.models.scripted import ScriptedModel
from troupelab.people.prompt import MAX_NOTES, MAX_RECENT, act_prompt
from troupelab.people.world import World
from troupelab.results import Progress
from troupelab.telemetry.recorder import Recorder

__all__ = ["Estimate", "Range", "estimate"]

CHARS_A_TOKEN = 4.0
SPEECH_CHARS, LINE_CHARS, STIMULUS_CHARS, STATE_CHARS = 137, 160, 200, 190
"""What agents usually say, the same as a remembered line and as a stimulus in a prompt, and a state of mind."""
TALKS, OWN_ACTIONS, ASIDE = 0.94, 1.45, 0.11
"""Of each act: how often something is said, how many things are done, and the share of speech that is for one person only."""
TOKENS_OUT = 113
RECORD_BYTES, NOTE_BYTES, ARCHIVE_BYTES, HELD = 860, 1_300, 50_000, 1.3
"""RAM: of a record and of a note beside its text, of what an agent's archive keeps at hand, and the allocator's share."""
DISK_BYTES, ACT_BYTES, ENTRY_BYTES, REPLY_BYTES = 60_000, 200, 85, 450
ACT_S = 0.002
"""What an act takes of one core beside the call."""
UNKNOWN_LATENCY_S = 2.0
RECORDS_A_NOTE = 8
_SAMPLED_AGENTS = 8
_PLAYED_STEPS = 2_000
_NORMAL = NormalDist()


class Range(NamedTuple):
    """What is likely, and between what it should lie."""

    low: float
    likely: float
    high: float

    @classmethod
    def around(cls, likely: float, less: float, more: float) -> Range:
        """From `likely * less` to `likely * more`."""
        return cls(likely * less, likely, likely * more)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, or what is left of it: calls, tokens, US dollars (None where no price is known), seconds, bytes in RAM and on disk.

    `first_limit` says which guardrail would pause it before its end, if any; `assumptions` are what the numbers rest on.
    """

    calls: Range
    tokens_in: Range
    tokens_out: Range
    cost_usd: Range | None
    wall_s: Range
    ram_bytes: Range
    disk_bytes: Range
    first_limit: str
    assumptions: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it in plain values: a range is a dictionary of low, likely and high."""
        plain = asdict(self)
        ranges = {name: value._asdict() for name in plain if isinstance(value := getattr(self, name), Range)}
        return {**plain, **ranges, "assumptions": list(self.assumptions)}

    def rows(self) -> list[tuple[str, str]]:
        """What each number is, and its range with its unit."""
        tokens = Range(*(a + b for a, b in zip(self.tokens_in, self.tokens_out, strict=True)))
        cost = "price not known" if self.cost_usd is None else _span(self.cost_usd, _dollars)
        return [
            ("model calls", _span(self.calls, _count)),
            ("tokens, in and out", _span(tokens, _count)),
            ("cost", cost),
            ("time", _span(self.wall_s, _seconds)),
            ("memories in RAM, at most", _span(self.ram_bytes, _bytes)),
            ("disk", _span(self.disk_bytes, _bytes)),
        ]

    def __str__(self) -> str:
        calls, tokens, cost, wall, ram, _ = (value for _, value in self.rows())
        warning = f" {self.first_limit}" if self.first_limit else ""
        return f"about {calls} calls, {tokens} tokens, {cost}, {wall}, {ram} of memories.{warning}"

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in self.rows())
        warning = f"<p><b>{html.escape(self.first_limit)}</b></p>" if self.first_limit else ""
        rests = "".join(f"<li>{html.escape(each)}</li>" for each in self.assumptions)
        return f"<table><tbody>{body}</tbody></table>{warning}<p>It rests on this:</p><ul>{rests}</ul>"


class Estimable(Protocol):
    """A run, as far as an estimate needs it."""

    world: World
    model: Model
    limits: LiveLimits
    steps: int
    recorder: Recorder
    _engine: Engine
    _options: Options
    _cache: Any

    @property
    def state(self) -> str:
        """Where it stands."""
        ...

    def progress(self) -> Progress:
        """How far it is."""
        ...

    def now_s(self) -> float:
        """Seconds since its start."""
        ...


class _Played(NamedTuple):
    """A usual agent's life in numbers: the tokens of its prompt in each step, its records and notes at the end, notes written."""

    tokens: list[float]
    most_records: float
    notes: float
    note_chars: float
    records_a_step: float
    condensed: float


def estimate(run: Estimable) -> Estimate:
    """Estimate what a run will take from now on; what `run.estimate()` does."""
    limits, agents, done = run.limits.current, len(run.world.personas), run.progress()
    acts = done.acts_total - done.acts_done
    steps_done = done.acts_done // agents
    assumptions: list[str] = []
    played = _play(run.world, limits, _first_chars(run, assumptions), run.steps)
    factor, out = _calibrated(run, played, steps_done, assumptions)
    rest = played.tokens[steps_done:]
    scripted = type(run.model) is ScriptedModel
    spread = (0.9, 1.15) if done.acts_done else (0.8, 1.25) if scripted else (0.6, 1.8)
    tokens_in = factor * (fmean(rest) if rest else 0.0) * acts
    tokens_out = out * acts
    extra = 0.0
    if run._options.notes == "model":
        extra = played.condensed * agents * (len(rest) / run.steps)
        tokens_in += extra * (factor * fmean(rest or [0.0]) + 50 * LINE_CHARS / CHARS_A_TOKEN)
        tokens_out += extra * 400
        assumptions.append(
            "Notes are written by the model: their calls are counted as often as memories are likely to fill."
        )
    if run._options.pack_acts:
        assumptions.append(
            "Acts that go out together share a request; calls and tokens are counted as if they went alone."
        )
    if run._options.warm_up and not done.acts_done:
        extra += 1
    calls = Range(
        acts + (0.7 * extra if extra > 1 else extra), acts + extra, acts + (1.5 * extra if extra > 1 else extra)
    )
    ins, outs = Range.around(tokens_in, *spread), Range.around(tokens_out, *spread)
    cost = _cost(run.model, ins, outs, assumptions)
    wall = _wall(run, limits, agents, acts, ins.likely + outs.likely, assumptions)
    assumptions.append("Calls that are sent again, and answers from a cache, are not counted.")
    return Estimate(
        calls, ins, outs, cost, wall, _ram(played, limits, agents), _disk(run, played, acts),
        _first_limit(run, limits, ins, outs, cost, wall), tuple(assumptions),
    )  # fmt: skip


# ---------------------------------------------------------------------- an agent's life in numbers


def _first_chars(run: Estimable, assumptions: list[str]) -> float:
    """How long a prompt is before anything has happened: that of a few agents, as they would be asked."""
    world, stage = run.world, run._engine.stage
    count = len(world.personas)
    chosen = sorted({place * count // _SAMPLED_AGENTS for place in range(_SAMPLED_AGENTS)})
    if run.state == "ready" and run._engine.player.steps_done == 0:
        found = [act_prompt(stage.agents[agent], stage, 0, ()) for agent in chosen]
        assumptions.append(f"Prompts begin as the first ones of {len(chosen)} agents do, at 4 characters a token.")
        return fmean(sum(len(message.content) for message in messages) for messages in found)
    # The agents are the engine's now; persona and world are the bulk of what never changes.
    assumptions.append("Prompts begin with rules, world and persona, at 4 characters a token.")
    return 1_200 + len(world.description) + fmean(len(world.personas[agent].to_json()) for agent in chosen)


def _play(world: World, limits: Limits, first_chars: float, steps: int) -> _Played:
    """Play the life of a usual agent through: what it hears, remembers, condenses, and is shown."""
    agents = len(world.personas)
    hearers = fmean(len(heard) for heard in world.audience)
    talk = TALKS * (hearers * (1 - ASIDE) + (ASIDE if hearers else 0))
    by_step: dict[int, float] = {}
    for event in world.stimuli:
        by_step[event.step] = by_step.get(event.step, 0.0) + len(event.to) / agents
    event_chars = fmean([len(event.text) for event in world.stimuli] or [0])
    most = min(limits.recent_max_records or math.inf, (limits.recent_max_bytes or math.inf) / (2.2 * LINE_CHARS))
    oldest = policy.max_age_steps(limits, world.step_minutes / 60)
    full, block = limits.consolidate_at * most, (limits.consolidate_at - limits.consolidate_to) * most + 1
    tokens: list[float] = []
    records = notes = most_records = condensed = note_chars = 0.0
    for step in range(min(steps, _PLAYED_STEPS)):
        told = by_step.get(step, 0.0)
        heard = (talk if step else 0.0) + told
        shown = min(MAX_RECENT, records) * LINE_CHARS + min(MAX_NOTES, notes) * note_chars
        now = (STIMULUS_CHARS * talk + STATE_CHARS if step else 0.0) + told * (event_chars + 60)
        tokens.append((first_chars + shown + now) / CHARS_A_TOKEN)
        records += heard + OWN_ACTIONS
        most_records = max(most_records, min(records, full + heard))
        # Each time the cap is passed, the oldest go down to the low water; what came after that comes on top.
        times = math.ceil((records - full) / block) if records > full else 0
        gone = times * block
        if (old := records - gone - oldest * (talk + OWN_ACTIONS)) >= 1:
            gone, times = gone + old, times + 1
        if times:
            condensed += times
            notes = min(notes + max(0.9 * times, gone / RECORDS_A_NOTE), limits.semantic_max_notes or math.inf)
            note_chars = min(RECORDS_A_NOTE, gone / times) * (limits.retain_fraction * 0.93 * SPEECH_CHARS + 20)
            records -= gone
    if steps > len(tokens):
        tokens += [fmean(tokens[-_PLAYED_STEPS // 4 :])] * (steps - len(tokens))
        notes = min(notes * steps / _PLAYED_STEPS, limits.semantic_max_notes or math.inf)
        condensed *= steps / _PLAYED_STEPS
    return _Played(tokens, most_records, notes, note_chars, talk + OWN_ACTIONS, condensed)


def _calibrated(run: Estimable, played: _Played, steps_done: int, assumptions: list[str]) -> tuple[float, float]:
    """By how much the prompts of the last steps were longer than was thought, and the tokens of a reply."""
    if steps_done:
        calls = run.recorder.read("calls").columns
        last = range(max(0, steps_done - 5), steps_done)
        mine = (calls["purpose"] == "act") & (calls["step"] >= last.start) & (calls["step"] < last.stop)
        mine &= (calls["attempts"] > 0) & (calls["error"] == "")
        if mine.any():
            assumptions.append(f"Prompts and replies go on as in steps {last.start} to {last.stop - 1}.")
            thought = fmean(played.tokens[last.start : last.stop])
            return float(calls["tokens_in"][mine].mean()) / thought, float(calls["tokens_out"][mine].mean())
    what = "The scripted model" if type(run.model) is ScriptedModel else "A reply"
    assumptions.append(f"{what} says about {SPEECH_CHARS} characters at a time, {TOKENS_OUT} tokens an act.")
    return 1.0, float(TOKENS_OUT)


# ---------------------------------------------------------------------- money, time, room


def _cost(model: Model, ins: Range, outs: Range, assumptions: list[str]) -> Range | None:
    price: Price | None = getattr(model, "price", None) or price_of(model.name)
    if type(model) is ScriptedModel or hasattr(model, "parallel"):  # what is played on this machine
        price = Price(0.0, 0.0, 0.0)
    if price is None:
        assumptions.append(f"The price of {model.name[:80]!r} is not known: max_cost_usd cannot hold it.")
        return None
    if price.input_usd or price.output_usd:
        assumptions.append(
            f"List price: ${price.input_usd:g} a million tokens in, ${price.output_usd:g} out; what a provider caches costs less."
        )
    return Range(*(cost_usd(price, int(a), 0, int(b)) for a, b in zip(ins, outs, strict=True)))


def _latency(run: Estimable, assumptions: list[str]) -> tuple[float, float, float, float]:
    """A call's median and spread, and by which factors it may be less or more."""
    calls = run.recorder.read("calls").columns
    sent = calls["latency_s"][(calls["attempts"] > 0) & (calls["purpose"] == "act")][-2_000:]
    if len(sent) >= 5:
        logs = np.log(np.maximum(sent, 1e-4))
        assumptions.append(f"A call takes {_seconds(math.exp(float(np.median(logs))))}, as the last ones did.")
        return math.exp(float(np.median(logs))), float(logs.std()), 0.8, 1.3
    known = getattr(run.model, "latency_s", None)
    if isinstance(known, int | float):
        assumptions.append(f"A call takes {_seconds(known)}, as the model is set.")
        return float(known), float(getattr(run.model, "latency_sigma", 0.0)), 0.9, 1.15
    assumptions.append(
        f"How long a call takes is not known yet: {UNKNOWN_LATENCY_S:g} s is taken, a third of it to three times."
    )
    return UNKNOWN_LATENCY_S, 0.5, 1 / 3, 3.0


def _wall(run: Estimable, limits: Limits, agents: int, acts: int, tokens: float, assumptions: list[str]) -> Range:
    median, sigma, less, more = _latency(run, assumptions)
    slots = min(limits.max_concurrency, getattr(run.model, "parallel", limits.max_concurrency))
    steps = acts / agents
    mean = median * math.exp(sigma * sigma / 2)
    together = min(agents, slots)
    longest = median * math.exp(sigma * _NORMAL.inv_cdf((together - 0.375) / (together + 0.25)))
    shared = agents * mean / slots
    step_s = longest if agents <= slots else shared + (longest - mean) / 2
    if not run._engine.player.lockstep:
        step_s = (max(mean, shared) + step_s) / 2
        assumptions.append("In free order nobody waits for all: about halfway between that and no waiting at all.")
    assumptions.append(f"{slots} calls at once at most; {ACT_S * 1000:g} ms of this machine for each act.")
    calling, here = steps * step_s, acts * ACT_S
    waits = steps * limits.step_delay_ms / 1000
    rates = [acts / (limits.requests_per_minute or math.inf), tokens / (limits.tokens_per_minute or math.inf)]
    paced = 60 * max(rates)
    if paced > calling:
        assumptions.append("The limits on requests and tokens a minute take longer than the calls.")
    low = max(calling * less, here / 2, paced * 0.9) + waits
    high = max(calling * more + here * 2, paced * 1.2) + waits
    return Range(low, max(calling + here / 2, here, paced) + waits, high)


def _ram(played: _Played, limits: Limits, agents: int) -> Range:
    one = RECORD_BYTES * played.most_records + played.notes * (NOTE_BYTES + 1.5 * played.note_chars)
    archive = (
        min(ARCHIVE_BYTES, 10_000 + (limits.archive_max_bytes or math.inf) / agents) if played.condensed else 5_000
    )
    likely = agents * (one + archive) * HELD
    cap = limits.total_max_bytes or math.inf
    return Range(*(min(cap, each) for each in Range.around(likely, 0.6, 1.6)))


def _disk(run: Estimable, played: _Played, acts: int) -> Range:
    one = ACT_BYTES + ENTRY_BYTES * played.records_a_step + (REPLY_BYTES if run._cache else 0)
    return Range.around(DISK_BYTES + acts * one, 0.6, 1.6)


def _first_limit(run: Estimable, limits: Limits, ins: Range, outs: Range, cost: Range | None, wall: Range) -> str:
    """Which guardrail pauses the run first, if any does."""
    budget = run._engine.pipeline.sender.budget
    tokens = Range(*(a + b for a, b in zip(ins, outs, strict=True)))
    held_s = run._engine.standing.held_s
    guards: Sequence[tuple[str, float | None, float, Range | None, Callable[[float], str]]] = (
        ("max_tokens", limits.max_tokens, budget.tokens, tokens, _count),
        ("max_cost_usd", limits.max_cost_usd, budget.cost_usd, cost, _dollars),
        ("max_wall_s", limits.max_wall_s, run.now_s() - held_s, wall, _seconds),
    )
    found: list[tuple[float, str]] = []
    for name, most, used, will, write in guards:
        if most is None or will is None or used + will.high <= most:
            continue
        sure = "would" if used + will.low > most else "may"
        share = max(0.0, most - used) / will.likely if will.likely else 1.0
        how_far = f"after about {100 * min(share, 1.0):.0f} % of what is left"
        found.append((share, f"{name} ({write(most)}) {sure} pause it first, {how_far}."))
    return min(found)[1] if found else ""


# ---------------------------------------------------------------------- numbers as one writes them


def _span(range_: Range, write: Callable[[float], str]) -> str:
    low, high = write(range_.low), write(range_.high)
    return low if low == high else f"{low} – {high}"


def _count(number: float) -> str:
    return (
        f"{number:,.0f}" if number < 10_000 else f"{number / 1000:,.0f} k" if number < 1e6 else f"{number / 1e6:,.1f} M"
    )


def _dollars(cost: float) -> str:
    return f"${cost:.2f}" if cost == 0 or cost >= 0.1 else f"${cost:.2g}"


def _seconds(seconds: float) -> str:
    return (
        f"{seconds:.2g} s"
        if seconds < 99.5
        else f"{seconds / 60:.0f} min"
        if seconds < 5_400
        else f"{seconds / 3600:.1f} h"
    )


def _bytes(size: float) -> str:
    return f"{size / 1e3:,.0f} kB" if size < 1e6 else f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
