"""Controls for every limit, built from what `Limits` says of itself.

A slider whose range spans decades moves along round numbers, and its last notch is "no limit" where a limit allows that.
A handler writes the limit and nothing else; whether it was accepted, and from which step it holds, is read back from the
recorder by the dashboard's UI thread, which alone calls `show`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import ipywidgets as widgets

from troupelab.dashboard.look import for_page, value_text
from troupelab.dashboard.panel import EVERYONE, News
from troupelab.errors import LimitError
from troupelab.limits import LimitField, Limits, Number

__all__ = ["Change", "Controls", "LimitControl", "close_parts", "notches"]

Change: TypeAlias = Callable[[str, Number], None]
"""Sets a limit by name; raises LimitError where it is refused."""

ROUND = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
GROUPS = {
    "memory": "memory, per agent",
    "storage": "memory, all agents",
    "model": "model calls",
    "cache": "kept replies",
    "guardrails": "pause the run at",
    "pace": "pace",
}
HEADING = "<b>limits</b>, for all agents"
HEADING_FIXED = "<b>limits</b> of that time, for all agents"
WITHOUT = {"dedup_similarity": "never", "cache_similarity": "never"}
"""What the last notch is called where "no limit" would say something else: without a similarity nothing is merged."""


def notches(field: LimitField) -> list[Number]:
    """The round numbers of a limit's range, from low to high, and None where there may be no limit.

    >>> notches(Limits.fields()["recent_max_records"])[:8]
    [4, 5, 6, 8, 10, 12, 15, 20]
    """
    found: set[float] = {field.low, field.high}
    if field.log_scale or field.whole:
        for power in range(-3, 13):
            found |= {float(f"{size * 10.0**power:.3g}") for size in ROUND}
    else:
        found |= {round(field.low + (field.high - field.low) * part / 20, 6) for part in range(21)}
    if field.default is not None:
        found.add(field.default)
    kept = sorted({round(size) if field.whole else size for size in found if field.low <= size <= field.high})
    return [*[size for size in kept if field.low <= size <= field.high], *([None] if field.optional else [])]


def _shown(value: Number) -> float:
    """A limit's value as a slider has it: no limit is infinity there, because ipywidgets takes None for no choice at all."""
    return math.inf if value is None else value


def _meant(shown: float) -> Number:
    return None if shown == math.inf else shown


class LimitControl:
    """One limit: a slider with its unit, what is in use, and what became of the last change."""

    def __init__(self, field: LimitField, value: Number, change: Change) -> None:
        self.field = field
        self._change = change
        self._in_force = value
        self._quiet = False
        self._turn = threading.RLock()
        self._in_use = ""
        self._laddered = not field.switch and (field.log_scale or field.optional or field.high - field.low > 1000)
        self.slider = self._make_slider(value)
        self.slider.observe(self._moved, names="value")
        self.note = widgets.HTML()
        self.note.add_class("troupelab-note")
        self._message = ""
        self._refused = False
        self._write_note()
        self.box = widgets.VBox([self.slider, self.note])
        self.box.add_class("troupelab-limit")

    def _make_slider(self, value: Number) -> Any:
        field = self.field
        about = {"description": field.label, "tooltip": f"{field.name}: {field.why}"}
        if field.switch:
            # A box that says what it does; a slider of two notches would look like a quantity.
            return widgets.Checkbox(value=bool(value), indent=False, **about)
        shared = {**about, "continuous_update": False}
        if self._laddered:
            return widgets.SelectionSlider(options=self._options(value), value=_shown(value), **shared)
        if field.whole:
            return widgets.IntSlider(value=value, min=int(field.low), max=int(field.high), **shared)
        return widgets.FloatSlider(
            value=value, min=field.low, max=field.high, step=0.05, readout_format=".2f", **shared
        )

    def _options(self, value: Number) -> list[tuple[str, float]]:
        ladder = sorted({_shown(size) for size in (*notches(self.field), value)})
        short = self.field.unit if self.field.unit in {"bytes", "s", "ms"} else ""
        none = WITHOUT.get(self.field.name, value_text(None))
        return [(none if size == math.inf else value_text(size, short), size) for size in ladder]

    def _moved(self, change: Mapping[str, Any]) -> None:
        if self._quiet:
            return
        with self._turn:
            moved_to = _meant(change["new"])
            try:
                self._change(self.field.name, moved_to)
            except LimitError as error:
                self._say(str(error), refused=True)
                self._set(self._in_force)
            else:
                self._in_force = moved_to
                self._say("")

    def follow(self, read: Callable[[str], Number]) -> None:
        """Show a value that was set elsewhere; it is read in here so that it is newer than any move of the slider."""
        with self._turn:
            value = read(self.field.name)
            if value != self._in_force:
                self._in_force = value
                self._set(value)
                self._say("")

    def _set(self, value: Number) -> None:
        self._quiet = True
        try:
            if self._laddered and _shown(value) not in [size for _, size in self.slider.options]:
                self.slider.options = self._options(value)
            self.slider.value = _shown(value)
        finally:
            self._quiet = False

    def begin(self, *, fixed: bool) -> None:
        """Forget what became of the last change, and take no more where they are `fixed`."""
        with self._turn:
            self.slider.disabled = fixed
            self._say("")

    def in_use(self, text: str) -> None:
        """Show what is in use now."""
        if text != self._in_use:
            self._in_use = text
            self._write_note()

    def accepted(self, text: str) -> None:
        """Show that a change was accepted, and from when on it holds; a refusal since then stays to be read."""
        with self._turn:
            if not self._refused:
                self._say(text)

    def _say(self, message: str, *, refused: bool = False) -> None:
        self._message, self._refused = message, refused
        self._write_note()

    def _write_note(self) -> None:
        unit = "" if self.field.switch or self.field.unit in {"s", "ms", "bytes"} else self.field.unit
        parts = [part for part in (unit, self._in_use) if part]
        said = for_page(self._message)
        if said:
            said = f'<br><span class="troupelab-said" role="alert">{said}</span>' if self._refused else f"<br>{said}"
        written = for_page(" · ".join(parts)) + said
        if written != self.note.value:
            self.note.value = written


class Controls:
    """All limits in groups that fold.

    Args:
        values: what each limit is now.
        change: what a moved slider calls.
        above: what stands between the heading and the groups.
    """

    def __init__(self, values: Mapping[str, Number], change: Change, *, above: Sequence[Any] = ()) -> None:
        self._fields = Limits.fields()
        self.by_name = {name: LimitControl(field, values[name], change) for name, field in self._fields.items()}
        groups: dict[str, list[Any]] = {}
        for name, control in self.by_name.items():
            groups.setdefault(self._fields[name].group, []).append(control.box)
        folds = []
        for number, (group, boxes) in enumerate(groups.items()):
            fold = widgets.Accordion([widgets.VBox(boxes)], titles=[GROUPS.get(group, group)])
            fold.selected_index = 0 if number == 0 else None
            folds.append(fold)
        self._heading = widgets.HTML(HEADING)
        self.box = widgets.VBox([self._heading, *above, *folds])
        self.box.add_class("troupelab-limits")

    def models(self) -> list[str]:
        """The widgets that a user can move, by model id."""
        return [str(control.slider.model_id) for control in self.by_name.values()]

    def begin(self, *, fixed: bool) -> None:
        """Another run is shown; where its limits are `fixed`, they are only shown."""
        self._heading.value = HEADING_FIXED if fixed else HEADING
        for control in self.by_name.values():
            control.begin(fixed=fixed)

    def values(self) -> dict[str, Number]:
        """What the sliders show."""
        return {name: _meant(control.slider.value) for name, control in self.by_name.items()}

    def show(self, read: Callable[[str], Number], news: News, in_use: Mapping[str, str]) -> None:
        """Bring the controls up to date: values set elsewhere, accepted changes, what is in use."""
        for control in self.by_name.values():
            control.follow(read)
        for name, text in in_use.items():
            self.by_name[name].in_use(text)
        for name, text in _accepted(news):
            self.by_name[name].accepted(text)

    def close(self) -> None:
        """Close all widgets."""
        close_parts(self.box)
        self.box.close()


def _accepted(news: News) -> Iterable[tuple[str, str]]:
    if "limits" not in news:
        return
    rows = news["limits"].columns
    fields = Limits.fields()
    for place, name in enumerate(rows["field"].tolist()):
        if name in fields:
            when = "effective at once" if fields[name].at_once else f"effective at step {rows['effective_step'][place]}"
            whom = "" if rows["agents"][place] in EVERYONE else f" for {rows['agents'][place]}"
            yield name, f"accepted{whom} in {rows['accepted_ms'][place]:.2g} ms, {when}"


def close_parts(widget: Any) -> None:
    """Close everything inside a widget, so that nothing of it stays in the kernel once it is closed itself."""
    for child in getattr(widget, "children", ()):
        close_parts(child)
        child.close()
    for part in ("layout", "style"):
        if getattr(widget, part, None) is not None:
            getattr(widget, part).close()
