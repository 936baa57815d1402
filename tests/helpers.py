"""Runs for tests: quick, or in the test's own hands."""

from __future__ import annotations

from typing import Any

import troupelab as tl


def quick_run(world: str | tl.World = "product_launch", *, model: Any = None, **options: Any) -> tl.Run:
    """A run whose calls take no time, not yet started."""
    options.setdefault("seed", 7)
    options.setdefault("steps", 4)
    return tl.Run(world, model or tl.ScriptedModel(7, latency_s=0.0), **options)
