"""An agent: a persona with a memory, an inbox and a state of mind.

It belongs to the engine's loop thread. Nothing of an agent changes between the beginning of an act and its end but here, in
`commit`, so that an act that was cancelled or failed leaves no half of itself behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from troupelab.ids import make_id, split_id
from troupelab.memory.memory import Memory
from troupelab.memory.record import OWN_ACTION, Record
from troupelab.models.model import ChatMessage
from troupelab.people.acts import DONE, SOCIAL, Action, Message
from troupelab.people.persona import Persona

__all__ = ["Agent", "as_text"]


class Agent:
    """Who acts: agent `index` of its world."""

    def __init__(self, index: int, persona: Persona, memory: Memory) -> None:
        self.index = index
        self.name = persona.name
        self.persona = persona
        self.memory = memory
        self.state: dict[str, str] = {}
        self.opened: set[int] = set()
        self.last_prompt: tuple[ChatMessage, ...] = ()
        self.asides: list[tuple[str, str, str]] = []
        self._inbox: defaultdict[int, list[Message]] = defaultdict(list)

    def receive(self, step: int, message: Message) -> None:
        """Put a message into the inbox of a step."""
        self._inbox[step].append(message)

    def hear(self, step: int) -> list[Message]:
        """The messages of a step: the world's first, then by the sender's index and their order; ids sort like that.

        Whoever reached out to this agent can be talked to from now on.
        """
        heard = sorted(self._inbox.get(step, ()), key=lambda message: message.id)
        self.opened.update(
            sender for message in heard if message.kind == SOCIAL and (sender := split_id(message.id).agent) >= 0
        )
        return heard

    def take(self, step: int) -> list[Message]:
        """The messages of a step, as `hear` gives them, which are then no longer in the inbox."""
        heard = self.hear(step)
        self._inbox.pop(step, None)
        return heard

    def remember_aside(self, kind: str, source: str, text: str) -> None:
        """Have something remembered with the next act that was no part of the scene, such as an interview."""
        self.asides.append((kind, source, text))

    def commit(self, step: int, heard: Sequence[Message], actions: Sequence[Action]) -> list[Record]:
        """End the act of a step: remember what was heard and then what was done, which it returns. DONE says nothing and is not remembered."""
        for past in [each for each in self._inbox if each <= step]:
            del self._inbox[past]
        records = self.to_remember(step, heard, actions)
        self.asides.clear()
        self.memory.store(records)
        return records

    def to_remember(self, step: int, heard: Sequence[Message], actions: Sequence[Action]) -> list[Record]:
        """The records that an act leaves: what was heard, then what was done, then what was asked aside."""
        done = [(action.type, self.name, as_text(action), OWN_ACTION) for action in actions if action.type != DONE]
        told = [(message.kind, message.source, message.text, message.id) for message in heard]
        asides = [(*aside, OWN_ACTION) for aside in self.asides]
        return [
            Record(make_id(self.index, step, place), kind, source, text, message_id)
            for place, (kind, source, text, message_id) in enumerate([*told, *done, *asides])
        ]


def as_text(action: Action) -> str:
    """An action as it is remembered by whoever took it."""
    return f"(to {action.target}) {action.content}" if action.target else action.content
