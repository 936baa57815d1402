"""What happened, what was learnt of it, and how the one becomes the other."""

import copy
import json

from tinytroupe.agent import logger
from tinytroupe.agent.mental_faculty import TinyMentalFaculty
from tinytroupe.utils import JsonSerializableRegistry, LLMChat, extract_json, post_init


class TinyMemory(TinyMentalFaculty):
    """What both memories have in common."""

    def _preprocess_value_for_storage(self, value):
        return value

    def _store(self, value):
        raise NotImplementedError

    def store(self, value):
        self._store(self._preprocess_value_for_storage(value))

    def store_all(self, values):
        for value in values:
            self.store(value)

    def retrieve(self, first_n, last_n, include_omission_info=True, item_type=None):
        raise NotImplementedError

    def retrieve_recent(self, item_type=None):
        raise NotImplementedError

    def retrieve_all(self, item_type=None):
        raise NotImplementedError

    def retrieve_relevant(self, relevance_target, top_k=20):
        raise NotImplementedError

    def summarize_relevant_via_full_scan(self, relevance_target, batch_size=20, item_type=None):
        memories, summary = self.retrieve_all(item_type=item_type), ""
        for start in range(0, len(memories), batch_size):
            batch = "\n".join(str(each) for each in memories[start : start + batch_size])
            asked = f"What is known of this: {relevance_target}\nSo far: {summary}\nMemories:\n{batch}"
            summary = LLMChat("Sum up what a person remembers.", asked).call() or summary
        return summary

    def filter_by_item_type(self, memories, item_type):
        return self.filter_by_item_types(memories, [item_type])

    def filter_by_item_types(self, memories, item_types):
        return [memory for memory in memories if memory["type"] in item_types]


class EpisodicMemory(TinyMemory):
    """All that happened, in its order; the current episode lies in a buffer until it is committed."""

    MEMORY_BLOCK_OMISSION_INFO = {"role": "assistant", "content": "(left out)", "simulation_timestamp": None}

    def __init__(self, fixed_prefix_length=20, lookback_length=100):
        self.fixed_prefix_length = fixed_prefix_length
        self.lookback_length = lookback_length
        self.memory = []
        self.episodic_buffer = []

    def commit_episode(self):
        self.memory.extend(self.episodic_buffer)
        self.episodic_buffer = []

    def get_current_episode(self, item_types=None):
        episode = copy.copy(self.episodic_buffer)
        return episode if item_types is None else self.filter_by_item_types(episode, item_types)

    def count(self):
        return len(self._memory_with_current_buffer())

    def clear(self, max_prefix_to_clear=None, max_suffix_to_clear=None):
        self.episodic_buffer = []
        if max_prefix_to_clear is None and max_suffix_to_clear is None:
            self.memory = []
        if max_prefix_to_clear is not None:
            self.memory = self.memory[max_prefix_to_clear:]
        if max_suffix_to_clear is not None:
            self.memory = self.memory[:-max_suffix_to_clear]

    def _memory_with_current_buffer(self):
        return self.memory + self.episodic_buffer

    def _store(self, value):
        self.episodic_buffer.append(value)

    def _omission(self, is_told):
        return [EpisodicMemory.MEMORY_BLOCK_OMISSION_INFO] if is_told else []

    def retrieve(self, first_n, last_n, include_omission_info=True, item_type=None):
        if first_n is None and last_n is None:
            return self.retrieve_all(item_type=item_type)
        if first_n is None:
            return self.retrieve_last(last_n, include_omission_info, item_type=item_type)
        first = self.retrieve_first(first_n, include_omission_info, item_type=item_type)
        return first if last_n is None else first + self.retrieve_last(last_n, False, item_type=item_type)

    def retrieve_recent(self, include_omission_info=True, item_type=None):
        memories = self.retrieve_all(item_type=item_type)
        prefix = memories[: self.fixed_prefix_length]
        rest = memories[len(prefix) :]
        return prefix + self._omission(include_omission_info) + rest[max(0, len(rest) - self.lookback_length) :]

    def retrieve_all(self, item_type=None):
        memories = self._memory_with_current_buffer()
        return memories if item_type is None else self.filter_by_item_type(memories, item_type)

    def retrieve_relevant(self, relevance_target, top_k):
        raise NotImplementedError

    def retrieve_first(self, n, include_omission_info=True, item_type=None):
        return self.retrieve_all(item_type=item_type)[:n] + self._omission(include_omission_info)

    def retrieve_last(self, n=None, include_omission_info=True, item_type=None):
        memories = self.retrieve_all(item_type=item_type)
        return self._omission(include_omission_info) + (memories if n is None else memories[-n:])


@post_init
class Shelf(JsonSerializableRegistry):
    """Where documents should be found by their meaning; nothing can be put there."""

    serializable_attributes = ["documents", "name"]

    def __init__(self, name):
        self.name = name

    def _post_init(self):
        self.documents = getattr(self, "documents", None) or []

    def add_document(self, document):
        raise ValueError("there is no index")

    def retrieve_relevant(self, relevance_target, top_k=20):
        return self.documents[:top_k]


@post_init
class SemanticMemory(TinyMemory):
    """What was learnt. Each memory is listed, but not one reaches the shelf where it could be found: that is only logged."""

    serializable_attributes = ["memories", "semantic_grounding_connector"]

    def __init__(self, memories=None):
        self.memories = memories
        self.semantic_grounding_connector = None

    def _post_init(self):
        self.memories = getattr(self, "memories", None) or []
        if getattr(self, "semantic_grounding_connector", None) is None:
            self.semantic_grounding_connector = Shelf("memories")

    def _preprocess_value_for_storage(self, value):
        if not isinstance(value, dict):
            value = {"content": value, "type": "information"}
        time = value.get("simulation_timestamp")
        kind = value.get("type", "information")
        content = f"({kind}, at {time}) {value['content']}"
        return {"role": "assistant", "content": content, "type": kind, "simulation_timestamp": time}

    def _store(self, value):
        self.memories.append(value)
        try:
            self.semantic_grounding_connector.add_document(json.dumps(value))
        except Exception as error:
            logger.error("Not stored where it could be found: %s", error)

    def retrieve_relevant(self, relevance_target, top_k=20):
        return self.semantic_grounding_connector.retrieve_relevant(relevance_target, top_k)

    def retrieve_all(self, item_type=None):
        memories = [json.loads(document) for document in self.semantic_grounding_connector.documents]
        return memories if item_type is None else self.filter_by_item_type(memories, item_type)

    def _build_documents_from(self, memories):
        return [json.dumps(memory) for memory in memories]


class EpisodicConsolidator:
    """An episode becomes a few notes, by one model call."""

    def process(self, memories, timestamp=None, context=None, persona=None, sequential=True):
        return self._consolidate(memories, timestamp, f"State of mind: {context}", persona)

    def _consolidate(self, memories, timestamp, context, persona):
        asked = (
            f"## Unnamed parameters\n{json.dumps([memories, timestamp, context, persona])}\n\n"
            f"## Named parameters\n{json.dumps({})}\n\n"
        )
        chat = LLMChat(
            "Turn the episode into notes, each with content, type and simulation_timestamp, in a list `consolidation`.",
            asked,
            response_format={"type": "json_object"},
        )
        return extract_json(chat.call() or "")
