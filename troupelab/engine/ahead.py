"""Vectors ahead of need: what is about to be embedded on the loop is fetched beside it, where the embedder fetches from elsewhere.

It lives on the engine's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from troupelab.errors import ModelError
from troupelab.text.embed import Embedder

__all__ = ["Ahead"]


class Ahead:
    """Has vectors at hand before they are needed; an embedder without `prepare` has them always.

    Args:
        embedder: whose `embed` is called on the loop; None for none.
        halt: pauses the run, given a kind and a sentence; true where it is held then.
        go: set while the run is not held.
    """

    def __init__(self, embedder: Embedder | None, halt: Callable[[str, str], bool], go: asyncio.Event) -> None:
        self._prepare = getattr(embedder, "prepare", None)
        self._halt = halt
        self._go = go

    async def ask(self, texts: Sequence[str]) -> None:
        """Fetch what is missing, without pausing the run where it cannot be had.

        Raises:
            ModelError: it cannot be had.
        """
        if self._prepare is not None:
            await self._prepare(texts)

    async def fetch(self, texts: Sequence[str]) -> bool:
        """Fetch what is missing; where it cannot be had, the run pauses, and it is tried again when it goes on.

        Returns:
            False where the run ends before that.
        """
        while True:
            try:
                await self.ask(texts)
            except ModelError as error:
                if not self._halt("embedder", str(error)):
                    return False
                await self._go.wait()
            else:
                return True
