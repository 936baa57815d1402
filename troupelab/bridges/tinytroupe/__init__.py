"""TinyTroupe on this engine: `accelerate` runs one's own TinyTroupe code, `adopt` makes a Run of a TinyTroupe world.

TinyTroupe itself is imported when one of these is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from troupelab.bridges.tinytroupe.accelerate import Acceleration, accelerate

_HOMES = {
    "accelerate": "accelerate",
    "Acceleration": "accelerate",
}

__all__ = ["Acceleration", "accelerate"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
