"""How a run is played, as chosen when it is made; what may change while it runs is a limit."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

__all__ = ["OnError", "Options", "OrderName"]

OrderName: TypeAlias = Literal["lockstep", "free"]
OnError: TypeAlias = Literal["retry", "skip", "pause", "raise"]


class Options(NamedTuple):
    """Choices of a run.

    `notes`: what is made of old records: notes that are `extracted` or written by the `model`, or none (`off`). `pack_acts`: acts that come
    together go out as one call. `warm_up`: what all prompts begin with is sent once before the first step, so that a provider has
    it in its cache when all ask at once. `share_identical`: agents that ask the very same thing share one drawn reply. `order`: whether
    a barrier parts the steps. `on_error`: what is done about an act that failed. `ask_every`: after how many steps memories are asked about
    the facts of probes; 0 for never.
    """

    notes: Literal["extracted", "model", "off"] = "extracted"
    pack_acts: bool = False
    warm_up: bool = False
    share_identical: bool = False
    order: OrderName = "lockstep"
    on_error: OnError = "skip"
    ask_every: int = 5
