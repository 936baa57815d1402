"""The report's tables: what the run was made of, its numbers, its limits and what came of their changes, who was in it, what went wrong.

Each function gives escaped HTML. Any thread may call them; they read the recorder and change nothing.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import PurePath
from typing import Any

import numpy as np

from troupelab.dashboard.effects import SPAN, Effect, StepSums
from troupelab.dashboard.look import bytes_text, for_page, seconds_text, value_text
from troupelab.dashboard.panel import EVERYONE, Feed
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tables import table
from troupelab.limits import Limits

__all__ = ["alerts", "changes", "errors", "limits", "manifest", "numbers", "pairs", "people", "rows_table"]

MOST_TEXT = 2000


def rows_table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 0) -> str:
    """A table that scrolls where it is too wide, and says to a screen reader what it is."""
    # Every cell is escaped by `table`, so that only its own tags are found here.
    shown = table(head, rows, numeric, limit=MOST_TEXT).replace("<th>", '<th scope="col">')
    return f'<div class="rows" role="region" tabindex="0" aria-label="{for_page(name)}">{shown}</div>'


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values."""
    cells = (f'<tr><th scope="row">{for_page(name)}</th><td>{for_page(value)}</td></tr>' for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def manifest(run: Any) -> list[tuple[str, str]]:
    """What it takes to play the run again, and what it was played with."""
    from troupelab import __version__

    header, summary = getattr(run, "header", None), run.summary()
    rows = [
        ("world", run.world.name),
        ("agents", f"{len(run.agent_names):,}"),
        ("steps", f"{run.steps:,}"),
        ("seed", str(run.seed)),
    ]
    if "order" in summary:
        rows.append(("order", str(summary["order"])))
    if header is not None:
        rows += [
            ("model", header.model),
            *((f"model's {name}", f"{value:g}") for name, value in (header.scripted or {}).items()),
            ("embedder", header.embedder or "none"),
            *((name.replace("_", " "), _plainly(value)) for name, value in header.options.items() if name != "order"),
            ("interventions", ", ".join(header.interventions) or "none"),
        ]
    if run.forked_at >= 0:
        parent = PurePath(header.forked_from).name if header is not None else "another run"
        rows.append(("fork", f"of {parent}, from step {run.forked_at} on"))
    rows += [("TroupeLab", __version__), ("Python", platform.python_version())]
    rows += [(name, metadata.version(name)) for name in ("plotly", "numpy", "pandas")]
    return [*rows, ("system", f"{platform.system()} {platform.release()}, {platform.machine()}")]


def _plainly(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def numbers(run: Any) -> list[tuple[str, str]]:
    """The summary, each number with its unit."""
    return [_with_unit(name, value) for name, value in run.summary().items()]


def _with_unit(name: str, value: object) -> tuple[str, str]:
    """A number of the summary: its name without the unit, and the value with it.

    >>> _with_unit("wall_s", 12.5), _with_unit("latency_p95_s", float("nan")), _with_unit("acts", 1200)
    (('wall', '12 s'), ('latency p95', 'not known'), ('acts', '1,200'))
    """
    if isinstance(value, Mapping):
        return name.replace("_", " "), ", ".join(f"{kind}: {count}" for kind, count in value.items()) or "none"
    if isinstance(value, list):
        return name.replace("_", " "), ", ".join(str(each) for each in value) or "none"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return _stem(name), "not known"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return name.replace("_", " "), _plainly(value)
    for ending, shown in (("_s", seconds_text), ("_bytes", bytes_text), ("_usd", lambda cost: f"${cost:,.4f}")):
        if name.endswith(ending):
            return _stem(name), shown(value)
    if name.endswith("_mb"):
        return _stem(name), f"{value:,.4g} MB"
    return name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _stem(name: str) -> str:
    for ending in ("_s", "_bytes", "_usd", "_mb"):
        name = name.removesuffix(ending)
    return name.replace("_", " ")


def limits(run: Any) -> str:
    """All limits: at the beginning, at the end, and what they are by default."""
    fields, now = Limits.fields(), run.limits.current.as_dict()
    header = getattr(run, "header", None)
    first = dict(now) if header is None else {**now, **header.limits}
    if header is None:
        log = run.recorder.read("limits").columns
        for field, agents, old in reversed(list(zip(log["field"], log["agents"], log["old"], strict=True))):
            if field in first and agents in EVERYONE:
                first[field] = old
    rows = []
    for name, value in now.items():
        told = [value_text(each, fields[name].unit) for each in (first[name], value, fields[name].default)]
        rows.append(
            (
                name,
                told[0],
                told[1] if told[1] != told[0] else "the same",
                told[2] if told[2] != told[1] else "the same",
            )
        )
    for agent, own in run.limits.overrides.items():
        rows += [
            (f"{name}, {agent} alone", "", value_text(value, fields[name].unit), "") for name, value in own.items()
        ]
    return rows_table("limits", ("limit", "at the beginning", "at the end", "by default"), rows)


def changes(run: Shown) -> str:
    """Each change of a limit: when, who, why, and what was before it and after it."""
    news = Feed(run.recorder).take()
    if "limits" not in news:
        return "<p>None: all limits stayed as they were.</p>"
    log, fields = news["limits"].columns, Limits.fields()
    effects = [Effect(field, int(step)) for field, step in zip(log["field"], log["effective_step"], strict=True)]
    sums = StepSums(len(run.agent_names))
    sums.take(news, {step for effect in effects for step in effect})
    rows = []
    for place, effect in enumerate(effects):
        row = {name: column[place] for name, column in log.items()}
        unit = fields[row["field"]].unit if row["field"] in fields else ""
        old, new = (value_text(float(row[name]), unit) for name in ("old", "new"))
        effect.tell(sums)
        told = "; ".join(effect.lines[1:]) or "no step was played before and after it"
        rows.append((
            f"{row['at_s']:.2f}", str(row["effective_step"]), row["field"], "all" if row["agents"] in EVERYONE else row["agents"],
            f"{old} → {new}", row["by"], row["note"], told, f"{row['accepted_ms']:.2g} ms",
        ))  # fmt: skip
    head = (
        "second",
        "from step",
        "limit",
        "agents",
        "change",
        "by",
        "note",
        f"{SPAN} steps before → after",
        "accepted in",
    )
    return rows_table("changes of limits", head, rows, 2)


def people(run: Any) -> str:
    """Who was in it, as far as is known of them."""
    personas = getattr(run.world, "personas", ())
    if not personas:
        return rows_table("agents", ("name",), [(name,) for name in run.agent_names])
    rows = [
        (each.name, *(_one_line(each.get(key)) for key in ("age", "nationality", "occupation"))) for each in personas
    ]
    return rows_table("agents", ("name", "age", "nationality", "occupation"), rows)


def _one_line(value: Any) -> str:
    """An entry of a persona; an occupation may be a text, or an object with a title."""
    if isinstance(value, Mapping):
        value = ", ".join(str(value[key]) for key in ("title", "organization") if value.get(key))
    return "" if value is None else str(value)


def errors(run: Shown) -> str:
    """How often each kind of error came, and the last one of it."""
    log = run.recorder.read("errors").columns
    if not len(log["kind"]):
        return "<p>None.</p>"
    rows = []
    for kind in dict.fromkeys(log["kind"].tolist()):
        places = np.flatnonzero(log["kind"] == kind)
        rows.append((f"{len(places):,}", str(log["step"][places[-1]]), kind, str(log["message"][places[-1]])))
    return rows_table("errors by kind", ("times", "last in step", "kind", "the last one"), rows, 2)


def alerts(run: Shown) -> str:
    """What needed the user's eye."""
    log = run.recorder.read("alerts").columns
    if not len(log["at_s"]):
        return "<p>None.</p>"
    rows = [
        (f"{at_s:.1f}", str(max(0, step)), kind, message)
        for at_s, step, kind, message in zip(
            *(log[name].tolist() for name in ("at_s", "step", "kind", "message")), strict=True
        )
    ]
    return rows_table("alerts", ("second", "step", "kind", "what is the matter"), rows, 2)
