"""What is drawn, and how: the unit of the time axis, what of memory, and which agents as lines.

Handlers leave a wish for the dashboard's UI thread, which owns the panels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets as widgets

from troupelab.dashboard.agents_field import AgentsField
from troupelab.dashboard.memory_panel import FEW, MEASURES
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.shown import Shown

__all__ = ["View"]


class View:
    """The row of choices above the panels.

    Args:
        wish: has something done to the panels, on the UI thread.
    """

    def __init__(self, wish: Callable[[Callable[[Panels], None]], None]) -> None:
        self.axis = widgets.Dropdown(options=["seconds", "steps"], description="time axis", layout={"width": "190px"})
        self.axis.observe(lambda change: wish(lambda panels: setattr(panels.clock, "unit", change["new"])), "value")
        options = [(measure.label, name) for name, measure in MEASURES.items()]
        self.measure = widgets.Dropdown(options=options, description="memory as", layout={"width": "280px"})
        self.measure.observe(
            lambda change: wish(lambda panels: setattr(panels.memory, "measure", change["new"])), "value"
        )
        self._field = AgentsField(
            lambda then: wish(lambda _: then()),
            lambda names: wish(lambda panels: _choose(panels, names)),
            placeholder="agents as lines: type a name, or click a row",
            width="420px",
        )
        self.agents = self._field.tags
        self.box = widgets.HBox([self.axis, self.measure, *self._field.parts])
        self.box.add_class("troupelab-view")

    def offer(self, run: Shown) -> None:
        """Let the agents of another run be chosen, none of them yet."""
        many = len(run.agent_names) > FEW
        self._field.offer(run.agent_names)
        self.agents.layout.display = None if many else "none"

    def apply(self, panels: Panels) -> None:
        """Draw fresh panels as is chosen now."""
        panels.clock.unit = self.axis.value
        panels.memory.measure = self.measure.value
        _choose(panels, self.agents.value)

    def toggle(self, name: str) -> None:
        """Draw an agent as a line, or no longer."""
        chosen = list(self.agents.value)
        self.agents.value = [other for other in chosen if other != name] if name in chosen else [*chosen, name][-FEW:]


def _choose(panels: Panels, names: Sequence[str]) -> None:
    if panels.memory.many:
        places = {name: place for place, name in enumerate(panels.run.agent_names)}
        panels.memory.choose([places[name] for name in names if name in places])
