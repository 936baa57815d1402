"""What a model is: something that answers a `Request` with a `Reply`.

The sections named here are how the prompts of this package are laid out, from what never changes to what is new, so that a
provider's prefix cache serves as much as possible. A scripted model finds its way by them.

`Model.complete` is awaited on the engine's loop; requests and replies are immutable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

__all__ = [
    "NOTES",
    "NOW",
    "ONE_OF",
    "PEOPLE",
    "CONDENSE",
    "QUESTION",
    "PACK",
    "PERSONA",
    "RECENTLY",
    "WORLD",
    "ChatMessage",
    "Model",
    "Part",
    "Reply",
    "Request",
    "Schema",
    "packed",
    "sections",
    "unpacked",
]

WORLD, PERSONA, PEOPLE, NOTES, RECENTLY, NOW, CONDENSE, QUESTION = (
    "\n# World\n",
    "\n# Persona\n",
    "\n# People\n",
    "\n# Notes\n",
    "\n# Recently\n",
    "\n# Now\n",
    "\n# Condense\n",
    "\n# Question\n",
)
_NEXT = "\n# "
ONE_OF = "Answer with one of these: "
"""What stands in a question before the answers that there are, with semicolons between them."""
PACK = """
# Several at once
What follows are several such tasks, each for itself: nobody in one knows of the others. Answer with one JSON object and nothing
else, which has, under the number of each task, the object that was asked for: {"1": {...}, "2": {...}, ...}
"""
_ITEM, _ITEM_END = "\n=== task ", " ===\n"


class ChatMessage(msgspec.Struct, frozen=True, gc=False):
    """One message of a chat: a role (`system`, `user`, `assistant`) and its text."""

    role: str
    content: str


class Schema(msgspec.Struct, frozen=True, gc=False):
    """The JSON that a reply should be: a name (letters and underscores) and a JSON Schema, in which every object is closed.

    An empty schema asks for a JSON object, whatever is in it.
    """

    name: str
    schema: dict[str, Any]


class Part(msgspec.Struct, frozen=True, gc=False):
    """A request in two parts: what it has in common with others that may go out with it, and what is its own."""

    common: str
    own: str


class Request(msgspec.Struct, frozen=True, gc=False):
    """What is asked of a model, for whom and why; `seed` depends on the run's seed, agent, step, call and attempt alone.

    `schema` is what the reply should be, for endpoints that can be held to one. `gist` is what a like request would say in other
    words, for the semantic cache; where it is empty, only the same request is alike. `part` is the same request as one of several
    that go out together, or None where it goes alone. `extra` are further parameters for an endpoint, as it knows them; they go
    before this package's own.
    """

    purpose: str
    agent: int
    step: int
    call: int
    attempt: int
    seed: int
    messages: tuple[ChatMessage, ...]
    temperature: float = 1.0
    max_tokens: int = 1_000
    schema: Schema | None = None
    gist: str = ""
    part: Part | None = None
    extra: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What a model answered, and what that took; `cost_usd` is NaN where the price is not known.

    `tokens_cached` is the part of `tokens_in` that the provider had cached; `first_token_s` is the time to the first token
    where the reply was streamed, otherwise NaN. `latency_s` is what it took when it was made, where that is known.
    """

    text: str
    tokens_in: int
    tokens_out: int
    cost_usd: float
    model: str
    tokens_cached: int = 0
    first_token_s: float = math.nan
    latency_s: float = math.nan


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


def packed(parts: Sequence[Part]) -> tuple[ChatMessage, ...]:
    """The messages that ask for several parts' replies at once, in one object by their numbers; all have the same `common`.

    >>> messages = packed([Part("Rules.", "Amara"), Part("Rules.", "Omar")])
    >>> unpacked("".join(message.content for message in messages))
    [('1', 'Rules.Amara'), ('2', 'Rules.Omar')]
    """
    own = "".join(f"{_ITEM}{number}{_ITEM_END}{part.own}" for number, part in enumerate(parts, 1))
    return ChatMessage("system", parts[0].common + PACK), ChatMessage("user", own)


def unpacked(prompt: str) -> list[tuple[str, str]]:
    """The parts of a packed prompt as single prompts, by their numbers; empty where it is none."""
    common, found, own = prompt.partition(PACK)
    if not found:
        return []
    items = (item.partition(_ITEM_END) for item in own.split(_ITEM)[1:])
    return [(number, common + text) for number, _, text in items]


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
