"""Magics for notebooks: `%%troupe` runs a cell's TinyTroupe code on this engine, `%troupe on` all cells until `%troupe off`.

```
%load_ext troupelab

%%troupe recent_max_records=100 max_concurrency=50
world.run(10)
```

Limits stand behind the magic as NAME=VALUE. The acceleration is in the variable `troupe`, with its frames and limits. Cells run in IPython's main thread.
"""

from __future__ import annotations

from typing import Any

from troupelab.bridges.tinytroupe.accelerate import Acceleration, accelerate
from troupelab.errors import BridgeError, LimitError
from troupelab.limits import FIELDS, Number

__all__ = ["read_limits", "register"]

VARIABLE = "troupe"


def read_limits(line: str) -> dict[str, Number]:
    """Limits out of a line of NAME=VALUE, a number, none, on or off each.

    Raises:
        LimitError: a part is none, or there is no such limit.

    >>> read_limits("recent_max_records=100 adaptive_concurrency=on max_tokens=none")
    {'recent_max_records': 100, 'adaptive_concurrency': True, 'max_tokens': None}
    """
    found: dict[str, Number] = {}
    for part in line.split():
        name, sign, text = part.partition("=")
        if not sign or name not in FIELDS:
            raise LimitError(f"%%troupe takes limits as NAME=VALUE, not {part!r}; the limits are {', '.join(FIELDS)}")
        words: dict[str, Number] = {"none": None, "on": True, "off": False, "true": True, "false": False}
        try:
            found[name] = words[text.lower()] if text.lower() in words else float(text) if "." in text else int(text)
        except ValueError:
            raise LimitError(f"{name} takes a number, none, on or off, not {text!r}") from None
    return found


class _Magics:
    def __init__(self, ipython: Any) -> None:
        self._ipython = ipython
        self._on: Acceleration | None = None

    def line(self, line: str) -> Acceleration | None:
        """`%troupe on [NAME=VALUE …]`, `%troupe off`, or `%troupe` for how it stands."""
        word, _, rest = line.strip().partition(" ")
        if word == "on":
            self._off()
            self._on = accelerate(**dict[str, Any](read_limits(rest))).start()
            self._ipython.user_ns[VARIABLE] = self._on
        elif word == "off":
            self._off()
        elif word:
            raise BridgeError(f"%troupe takes on, off or nothing, not {word!r}; limits stand behind on")
        return self._on

    def _off(self) -> None:
        acceleration, self._on = self._on, None
        if acceleration is not None:
            acceleration.stop()

    def cell(self, line: str, cell: str) -> None:
        """Run a cell within an acceleration of its own."""
        with accelerate(**dict[str, Any](read_limits(line))) as acceleration:
            self._ipython.user_ns[VARIABLE] = acceleration
            self._ipython.run_cell(cell).raise_error()


def register(ipython: Any) -> None:
    """Let an IPython have the magics."""
    magics = _Magics(ipython)
    ipython.register_magic_function(magics.line, "line", "troupe")
    ipython.register_magic_function(magics.cell, "cell", "troupe")
