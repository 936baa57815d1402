"""Where the files that travel with the package lie: personas, worlds, notebooks.

In a checkout (or an editable install) they are the top-level folders; in a wheel they are inside the package. Pure; any thread.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["shared_folder"]

_PACKAGE = Path(__file__).resolve().parent


def shared_folder(name: str) -> Path:
    """The folder `data` or `notebooks` of this installation.

    >>> shared_folder("data").joinpath("personas").is_dir()
    True
    """
    inside = _PACKAGE / "_share" / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
