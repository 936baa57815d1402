"""What a model is: something that answers a `Request` with a `Reply`.

The sections named here are how the prompts of this package are laid out, from what never changes to what is new, so that a
provider's prefix cache serves as much as possible. A scripted model finds its way by them.

`Model.complete` is awaited on the engine's loop; requests and replies are immutable.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

__all__ = [
    "NOTES",
    "NOW",
    "PEOPLE",
    "CONDENSE",
    "PERSONA",
    "RECENTLY",
    "WORLD",
    "ChatMessage",
    "Model",
    "Reply",
    "Request",
    "sections",
]

WORLD, PERSONA, PEOPLE, NOTES, RECENTLY, NOW, CONDENSE = (
    "\n# World\n",
    "\n# Persona\n",
    "\n# People\n",
    "\n# Notes\n",
    "\n# Recently\n",
    "\n# Now\n",
    "\n# Condense\n",
)
_NEXT = "\n# "


class ChatMessage(msgspec.Struct, frozen=True, gc=False):
    """One message of a chat: a role (`system`, `user`, `assistant`) and its text."""

    role: str
    content: str


class Request(msgspec.Struct, frozen=True):
    """What is asked of a model, for whom and why; `seed` depends on the run's seed, agent, step, call and attempt alone."""

    purpose: str
    agent: int
    step: int
    call: int
    attempt: int
    seed: int
    messages: tuple[ChatMessage, ...]
    temperature: float = 1.0
    max_tokens: int = 1_000


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What a model answered, and what that took; `cost_usd` is NaN where the price is not known."""

    text: str
    tokens_in: int
    tokens_out: int
    cost_usd: float
    model: str


class Model(Protocol):
    """Answers requests; whoever has `name` and an async `complete` is one.

    >>> class Parrot:
    ...     name = "parrot"
    ...     async def complete(self, request: Request) -> Reply:
    ...         return Reply('{"actions": [{"type": "DONE", "content": "", "target": ""}]}', 1, 1, 0.0, self.name)
    >>> model: Model = Parrot()
    """

    @property
    def name(self) -> str:
        """The model's name, for frames and reports."""

    async def complete(self, request: Request) -> Reply:
        """Answer one request.

        Raises:
            ModelError: no usable reply came.
        """


def sections(text: str) -> dict[str, str]:
    """The parts of a prompt by their titles; what stands before the first title has the empty one.

    >>> sections("Rules." + PERSONA + "{}" + NOTES + "- none")[PERSONA]
    '{}'
    """
    first, *parts = text.split(_NEXT)
    found = {"": first}
    for part in parts:
        title, _, body = part.partition("\n")
        found.setdefault(f"{_NEXT}{title}\n", body)
    return found
