"""TinyTroupe's two memories on our tiers: subclasses that answer its whole interface, and are written as TinyTroupe's own.

The classes are made from TinyTroupe's when that is there. What they write (`to_json`) is what TinyTroupe itself would have written, so that it
is read with or without the bridge. Searching the semantic memory needs no index of llama-index: notes have vectors and words of their own.

Any thread may use them.
"""

from __future__ import annotations

import copy
from typing import Any

from troupelab.bridges.tinytroupe.diary import Diary
from troupelab.bridges.tinytroupe.seams import TinyTroupe

__all__ = ["make_episodic", "make_semantic"]


def make_episodic(troupe: TinyTroupe) -> Any:
    """The class of episodic memories that keep their values in a diary, as a subclass of TinyTroupe's."""
    base: Any = troupe.memory.EpisodicMemory

    class TieredEpisodicMemory(base):  # type: ignore[misc]
        """TinyTroupe's episodic memory in bounded tiers."""

        def __init__(self, diary: Diary, *, fixed_prefix_length: int, lookback_length: int) -> None:
            self.diary = diary
            self.fixed_prefix_length = fixed_prefix_length
            self.lookback_length = lookback_length

        @property
        def memory(self) -> list[Any]:
            """A copy of the values of all ended episodes."""
            return self.diary.before_episode()

        @property
        def episodic_buffer(self) -> list[Any]:
            """A copy of the values of the current episode."""
            return self.diary.episode()

        def commit_episode(self) -> None:
            self.diary.end_episode()

        def get_current_episode(self, item_types: list[str] | None = None) -> list[Any]:
            episode = self.diary.episode()
            return episode if item_types is None else self.filter_by_item_types(episode, item_types)

        def count(self) -> int:
            return self.diary.count()

        def clear(self, max_prefix_to_clear: int | None = None, max_suffix_to_clear: int | None = None) -> None:
            self.diary.clear(max_prefix_to_clear, max_suffix_to_clear)

        def _memory_with_current_buffer(self) -> list[Any]:
            return self.diary.every()

        def _store(self, value: Any) -> None:
            self.diary.store(value)

        def retrieve_recent(self, include_omission_info: bool = True, item_type: str | None = None) -> list[Any]:
            if item_type is not None:
                found: list[Any] = super().retrieve_recent(include_omission_info, item_type)
                return found
            prefix = self.diary.oldest(self.fixed_prefix_length)
            left = min(self.diary.count() - len(prefix), self.lookback_length)
            return prefix + self._omission(include_omission_info) + self.diary.newest(left)

        def retrieve_first(self, n: int, include_omission_info: bool = True, item_type: str | None = None) -> list[Any]:
            if item_type is not None or n is None or n < 0:
                found: list[Any] = super().retrieve_first(n, include_omission_info, item_type)
                return found
            return self.diary.oldest(n) + self._omission(include_omission_info)

        def retrieve_last(
            self, n: int | None = None, include_omission_info: bool = True, item_type: str | None = None
        ) -> list[Any]:
            if item_type is not None or n is None or n <= 0:
                found: list[Any] = super().retrieve_last(n, include_omission_info, item_type)
                return found
            return self._omission(include_omission_info) + self.diary.newest(n)

        def _omission(self, included: bool) -> list[Any]:
            return [base.MEMORY_BLOCK_OMISSION_INFO] if included else []

        def plain(self) -> Any:
            """The same as TinyTroupe's own class has it: all values in RAM."""
            made = base(self.fixed_prefix_length, self.lookback_length)
            made.memory, made.episodic_buffer = self.memory, self.episodic_buffer
            return made

        def to_json(self, *args: Any, **kwargs: Any) -> Any:
            return {} if self.diary.by_reference else self.plain().to_json(*args, **kwargs)

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return {} if self.diary.by_reference else copy.deepcopy(self.plain(), memo)

    return _unlisted(troupe, TieredEpisodicMemory)


def make_semantic(troupe: TinyTroupe) -> Any:
    """The class of semantic memories that keep their engrams in a diary, as a subclass of TinyTroupe's."""
    base: Any = troupe.memory.SemanticMemory

    class TieredSemanticMemory(base):  # type: ignore[misc]
        """TinyTroupe's semantic memory in bounded tiers, searched by meaning and by words."""

        def __init__(self, diary: Diary) -> None:
            self.diary = diary

        def _post_init(self) -> None:
            """There is nothing to make: no index, no list."""

        @property
        def memories(self) -> list[Any]:
            """A copy of all engrams."""
            return self.diary.known()

        @property
        def semantic_grounding_connector(self) -> Any:
            """A copy of what TinyTroupe's own would hold; what is added to it is not remembered."""
            return self.plain().semantic_grounding_connector

        def _store(self, value: Any) -> None:
            self.diary.know(value if isinstance(value, dict) else {"content": value, "type": "information"})

        def retrieve_relevant(self, relevance_target: str, top_k: int = 20) -> list[str]:
            return [
                f"SOURCE: (unknown)\nSIMILARITY SCORE:{score}\nRELEVANT CONTENT:{text}"
                for score, text in self.diary.relevant(relevance_target, top_k)
            ]

        def retrieve_all(self, item_type: str | None = None) -> list[Any]:
            found = self.diary.known()
            return found if item_type is None else self.filter_by_item_type(found, item_type)

        def plain(self) -> Any:
            """The same as TinyTroupe's own class has it, to be listed but without an index to be searched by."""
            made = base(self.diary.known())
            made.semantic_grounding_connector.documents = made._build_documents_from(made.memories)
            return made

        def to_json(self, *args: Any, **kwargs: Any) -> Any:
            """As TinyTroupe writes it: without documents, of which it would make an index when it reads them, by asking for vectors."""
            return {} if self.diary.by_reference else base(self.diary.known()).to_json(*args, **kwargs)

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return {} if self.diary.by_reference else copy.deepcopy(self.plain(), memo)

    return _unlisted(troupe, TieredSemanticMemory)


def _unlisted(troupe: TinyTroupe, made: Any) -> Any:
    """A class that TinyTroupe's registry of classes does not know: it is never read back by its name."""
    troupe.registry.JsonSerializableRegistry.class_mapping.pop(made.__name__, None)
    return made
