"""How a run is played, as chosen when it is made; what may change while it runs is a limit."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Options"]


class Options(NamedTuple):
    """Choices of a run.

    `notes_by_model`: the model writes the notes of consolidations, instead of having them extracted. `pack_acts`: acts that come
    together go out as one call. `warm_up`: what all prompts begin with is sent once before the first step, so that a provider has
    it in its cache when all ask at once.
    """

    notes_by_model: bool = False
    pack_acts: bool = False
    warm_up: bool = False
