"""One line that says what a run would take, while it is ready to begin. Only the dashboard's UI thread calls it."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from troupelab.dashboard.look import for_page
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, sentence
from troupelab.estimate import Estimate

__all__ = ["EstimateLine"]


class EstimateLine:
    """The estimate of the run that is shown, for its choices and limits as they are.

    Args:
        errands: on one of which it is made.
    """

    def __init__(self, errands: Errands) -> None:
        self.box = widgets.HTML('<p class="troupelab-about">&nbsp;</p>')
        self._errands = errands
        self._made: tuple[Any, ...] = ()

    def follow(self, run: Shown) -> None:
        """Make it anew where choices or limits have changed; once the run has begun, what was estimated stays to be compared."""
        if run.state != "ready" or not hasattr(run, "estimate"):
            return
        stands = (id(run), run.limits.current)
        if stands != self._made:
            self._made = stands
            self._errands.send(
                run.estimate, lambda found: self._show(stands, found), lambda error: self._say(stands, sentence(error))
            )

    def _show(self, stands: tuple[Any, ...], found: Estimate) -> None:
        self._say(stands, str(found), "\n".join(found.assumptions))

    def _say(self, stands: tuple[Any, ...], text: str, why: str = "") -> None:
        if stands == self._made:
            told = f"estimate: {for_page(text)}"
            self.box.value = f'<p class="troupelab-about troupelab-estimate" title="{for_page(why, 1_000)}">{told}</p>'
