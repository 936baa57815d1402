"""The numbers beside the charts, and the rows below them: written as text and as escaped HTML.

Only the dashboard's UI thread calls this.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from troupelab.dashboard.acknowledged import Acknowledged
from troupelab.dashboard.look import bytes_text, count_text, for_page, seconds_text
from troupelab.dashboard.panel import News
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.search import Found, Query
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tables import nothing_yet, table, who
from troupelab.engine.standing import ENDED

__all__ = ["Readings", "alert_rows", "error_rows", "found_rows", "numbers_html", "title_text"]

SHOWN_ROWS = 200


class Readings:
    """What a run's numbers are now."""

    def __init__(self, run: Shown, panels: Panels) -> None:
        self._run = run
        self._panels = panels
        self._rss_bytes = 0
        self._slowest_s = 0.0
        self._attempts = 0
        self._tokens = 0
        self._cost_usd = 0.0
        self._calls = 0
        self._cached = 0
        self._kept = ""
        self.actions: deque[tuple[Any, ...]] = deque(maxlen=SHOWN_ROWS)
        self.errors: deque[tuple[Any, ...]] = deque(maxlen=SHOWN_ROWS)
        self.error_count = 0
        self.error_kinds: Counter[str] = Counter()
        self.acts = 0
        self.acts_lost = 0
        self.asked = 0
        self.asked_again = 0
        self.alerts: deque[tuple[Any, ...]] = deque(maxlen=SHOWN_ROWS)
        self.alert_count = 0
        self.acknowledged = Acknowledged()
        self._went_on_s = 0.0
        self._over = -1

    def take(self, news: News) -> None:
        """Take in what is new."""
        if "process" in news:
            self._rss_bytes = int(news["process"].columns["rss_bytes"][-1])
        if "calls" in news:
            rows = news["calls"].columns
            self._slowest_s = max(self._slowest_s, float(rows["latency_s"].max()))
            self._attempts = max(self._attempts, int(rows["attempts"].max()))
            self._tokens += int(rows["tokens_in"].sum() + rows["tokens_out"].sum())
            self._cost_usd += float(rows["cost_usd"].sum())
            self._calls += len(rows["cached"])
            self._cached += int(rows["cached"].sum())
        if "consolidations" in news:
            kept = news["consolidations"].columns["kept_fraction"]
            # What was only archived has no share: none of it was condensed.
            if condensed := kept[~np.isnan(kept)].tolist():
                self._kept = f"last kept: {condensed[-1]:.2f}"
        if "actions" in news:
            rows = {name: column[-2 * SHOWN_ROWS :].tolist() for name, column in news["actions"].columns.items()}
            told = zip(rows["step"], rows["agent"], rows["action"], rows["target"], rows["content"], strict=True)
            self.actions.extend(row for row in told if row[2] != "DONE")
        self._take_errors(news)
        self._take_alerts(news)

    def _take_errors(self, news: News) -> None:
        if "errors" in news:
            self.error_count += len(news["errors"])
            self.error_kinds.update(news["errors"].columns["kind"].tolist())
            rows = {name: column[-SHOWN_ROWS:].tolist() for name, column in news["errors"].columns.items()}
            self.errors.extend(
                zip(rows["at_s"], rows["step"], rows["agent"], rows["kind"], rows["message"], strict=True)
            )
        if "acts" in news:
            self.acts += len(news["acts"])
            self.acts_lost += int((news["acts"].columns["error"] != "").sum())
        if "calls" in news:
            rows = news["calls"].columns
            asked = rows["attempts"][~rows["cached"]]
            self.asked += len(asked)
            self.asked_again += int((asked > 1).sum())

    def _take_alerts(self, news: News) -> None:
        if "alerts" in news:
            # Counted, and not numbered as in the recorder: what was lost before anybody read it is nothing to acknowledge.
            first = self.alert_count + max(0, len(news["alerts"]) - SHOWN_ROWS)
            self.alert_count += len(news["alerts"])
            rows = {name: column[-SHOWN_ROWS:].tolist() for name, column in news["alerts"].columns.items()}
            numbers = range(first, self.alert_count)
            self.alerts.extend(zip(numbers, rows["at_s"], rows["step"], rows["kind"], rows["message"], strict=True))
        if "runs" in news:
            states = news["runs"].columns
            self._went_on_s = float(states["at_s"][states["state"] == "running"].max(initial=self._went_on_s))
        if "steps" in news:
            self._over = max(self._over, int(news["steps"].columns["step"].max()))

    @property
    def alert(self) -> str:
        """The newest alert that nobody has acknowledged and that holds: until the run goes on, or a stalled agent's step is over."""
        for number, at_s, step, kind, message in reversed(self.alerts):
            gone = at_s < self._went_on_s or (kind == "stalled" and step <= self._over)
            if not gone and number not in self.acknowledged:
                return str(message)
        return ""

    def _largest(self, name: str) -> float | None:
        values = self._panels.memory.latest(name)
        return None if np.isnan(values).all() else float(np.nanmax(values))

    def in_use(self) -> dict[str, str]:
        """For the limits that have such a thing: how much of them is used now."""
        told = {}
        for limit, column in (("recent_max_records", "recent_records"), ("semantic_max_notes", "notes")):
            if (largest := self._largest(column)) is not None:
                told[limit] = f"in use: {largest:,.0f} at most"
        if (largest := self._largest("recent_bytes")) is not None:
            told["recent_max_bytes"] = f"in use: {bytes_text(largest)} at most"
        if self._kept:
            told["retain_fraction"] = self._kept
        told["max_concurrency"] = f"in flight: {self._run.in_flight}, waiting: {self._run.queued}"
        if self._slowest_s:
            told["timeout_s"] = f"slowest call: {seconds_text(self._slowest_s)}"
            told["max_attempts"] = f"most needed: {self._attempts}"
        if self._tokens:
            told["max_tokens"] = f"used: {count_text(self._tokens)}"
            told["max_cost_usd"] = f"spent: {_dollars(self._cost_usd)}"
        told["max_wall_s"] = f"taken: {seconds_text(self._run.now_s())}"
        if self._rss_bytes:
            told["max_rss_bytes"] = f"in use: {bytes_text(self._rss_bytes)}"
        return told

    def numbers(self) -> dict[str, str]:
        """The line of numbers: what each is, and its value with its unit."""
        panels, run = self._panels, self._run
        ended = run.state in ENDED
        p95 = panels.latency.recent(0.95)
        total = panels.memory.latest("total_bytes")
        limits = run.limits.current
        used = float(np.nansum(total))
        told = {
            "throughput": f"{count_text(panels.throughput.recent(run.now_s(), 1e9 if ended else 2.0))} acts/s"
            + (" on average" if ended else ""),
            "p95 latency": "none yet" if np.isnan(p95) else seconds_text(p95),
            "calls in flight": f"{run.in_flight} of {limits.max_concurrency}",
            "memory, all agents": _of(bytes_text(used), limits.total_max_bytes, bytes_text),
            "consolidations": count_text(panels.consolidations.total),
            "process": _of(bytes_text(self._rss_bytes), limits.max_rss_bytes, bytes_text)
            if self._rss_bytes
            else "unknown yet",
        }
        if self._cached:
            told["kept replies"] = f"{100 * self._cached / self._calls:.0f} %"
        if self._cost_usd:
            told["cost"] = _of(_dollars(self._cost_usd), limits.max_cost_usd, _dollars)
        if limits.max_tokens is not None:
            told["tokens"] = _of(count_text(self._tokens), limits.max_tokens, count_text)
        if self.error_count:
            told["errors"] = count_text(self.error_count)
        return told


def _of(used: str, limit: float | None, told: Callable[[float], str]) -> str:
    """What is used of a limit, where there is one."""
    return used if limit is None else f"{used} of {told(limit)}"


def _dollars(cost_usd: float) -> str:
    return "not known" if np.isnan(cost_usd) else f"${cost_usd:.4f}" if cost_usd < 1 else f"${cost_usd:.2f}"


def title_text(run: Shown) -> str:
    """The header as HTML: the run's name, its agents, how far it is, and how long it will take."""
    done = run.progress()
    parted = run.forked_at
    parts = [
        f"<b>{for_page(run.name, 60)}</b>" + (f", fork from step {parted}" if parted >= 0 else ""),
        f"{len(run.agent_names)} agents",
        f"step {max(0, done.step + 1)} of {done.steps}",
    ]
    parts.append(f"<b>{for_page(run.state)}</b>")
    if run.state in ENDED:
        parts.append(f"after {seconds_text(done.elapsed_s)}")
    elif run.state in {"recording", "playing"}:
        parts.append(f"at {seconds_text(done.elapsed_s)}")
    elif done.left_s is not None and run.state == "running":
        parts.append(f"{seconds_text(done.left_s)} left")
    return " · ".join(parts)


def numbers_html(numbers: Mapping[str, str]) -> str:
    """The line of numbers as HTML."""
    cells = (
        f"<span><small>{for_page(name)}</small> <b>{for_page(value)}</b></span>" for name, value in numbers.items()
    )
    return f'<div class="troupelab-numbers">{"".join(cells)}</div>'


def found_rows(run: Shown, found: Found) -> str:
    """A page of the actions that were looked for as an HTML table, the newest first."""
    numbers = found.page()
    if not len(numbers):
        return nothing_yet(
            "What the agents say, think and do will appear here."
            if found.query == Query()
            else "Nothing matches so far. What does will appear here; fewer words, or other steps, may find more."
        )
    batch = run.recorder.read("actions", int(numbers[0]))
    places = numbers[numbers >= batch.start] - batch.start
    rows = {name: batch.columns[name][places].tolist() for name in ("step", "agent", "action", "target", "content")}
    told = [
        (str(step), who(run.agent_names, agent), action, target, content)
        for step, agent, action, target, content in zip(*rows.values(), strict=True)
    ]
    return table(("step", "agent", "action", "to", "content"), told[::-1], 1, words=found.query.words)


def error_rows(names: Sequence[str], errors: Iterable[tuple[Any, ...]]) -> str:
    """The last errors as an HTML table, the newest first."""
    rows = [(f"{at_s:.1f}", str(step), who(names, agent), kind, message) for at_s, step, agent, kind, message in errors]
    if not rows:
        return nothing_yet("No errors so far. What goes wrong, and what was done about it, will appear here.")
    return table(("second", "step", "agent", "kind", "what happened"), rows[::-1], 2)


def alert_rows(alerts: Sequence[tuple[Any, ...]], acknowledged: Acknowledged) -> str:
    """Alerts as an HTML table, the newest first; those that were acknowledged are greyed."""
    newest = alerts[::-1]
    rows = [(f"{at_s:.1f}", str(max(0, step)), kind, message) for _, at_s, step, kind, message in newest]
    head = ("second", "step", "kind", "what is the matter")
    return table(head, rows, 2, greyed=lambda row: newest[row][0] in acknowledged)
