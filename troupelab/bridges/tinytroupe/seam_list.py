"""Every name and signature of TinyTroupe that the bridge builds on, in one list. Pure data; any thread may read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["SEAMS", "Seam", "brackets"]


@dataclass(frozen=True, slots=True)
class Seam:
    """One name of TinyTroupe that the bridge builds on.

    Attributes:
        module: The module's full name.
        name: The name inside the module, with its class where it has one.
        parameters: The parameters' names in their order, without `self` and `cls`; None for what is no function.
        purpose: What the bridge uses it for.

    Example:
        >>> print(Seam("tinytroupe.clients", "register_client", ("api_type", "client"), "our client"))
        tinytroupe.clients.register_client(api_type, client)
    """

    module: str
    name: str
    parameters: tuple[str, ...] | None
    purpose: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" + brackets(self.parameters)


def brackets(parameters: tuple[str, ...] | None) -> str:
    """A function's parameters as they are written; nothing for what is no function.

    >>> brackets(("api_type", "client"))
    '(api_type, client)'
    """
    return "" if parameters is None else f"({', '.join(parameters)})"


def _pinned(table: str) -> Iterator[Seam]:
    """The seams of a table: a line `module [class]: purpose`, then its names, functions with their parameters in brackets."""
    for group in table.strip().split("\n\n"):
        head, _, names = group.partition("\n")
        where, _, purpose = head.partition(": ")
        module, _, owner = where.partition(" ")
        for entry in names.replace("\n", ";").split(";"):
            name, bracket, inside = entry.strip().rstrip(")").partition("(")
            parameters = tuple(inside.replace(",", " ").split()) if bracket else None
            yield Seam(module, f"{owner}.{name}" if owner else name, parameters, purpose)


_TABLE = """
tinytroupe: its configuration, read and set
config_manager

tinytroupe ConfigManager: its configuration, read and set
get(key, default); update(key, value)

tinytroupe.clients: model calls go through our pipeline
register_client(api_type, client); force_api_type(api_type); client(); _api_type_to_client; _api_type_override

tinytroupe.clients OpenAIClient: what our client answers as well
send_message(current_messages, dedent_messages, model, temperature, max_completion_tokens, top_p, frequency_penalty, \
presence_penalty, stop, timeout, max_attempts, waiting_time, exponential_backoff_factor, n, response_format, \
enable_pydantic_model_return, echo)
get_cost_stats(); reset_cost_stats(); set_api_cache(cache_api_calls, cache_file_name); get_embedding(text, model)

tinytroupe.agent.tiny_person: replaced while a run lasts
EpisodicMemory; SemanticMemory; EpisodicConsolidator; concurrent_agent_action_lock

tinytroupe.agent.tiny_person TinyPerson: acts, and what is perceived
__init__(name, action_generator, episodic_memory, semantic_memory, mental_faculties, \
enable_basic_action_repetition_prevention)
act(until_done, n, return_actions, max_content_length, communication_display)
listen(speech, source, max_content_length, communication_display)
socialize(social_description, source, max_content_length); see(visual_description, source, max_content_length)
think(thought, max_content_length); internalize_goal(goal, max_content_length)
_observe(stimulus, max_content_length, communication_display)
pop_latest_actions(); reset_prompt(); iso_datetime()
action_generator; environment; _mental_faculties; _mental_state; _persona; _actions_buffer; _accessible_agents

tinytroupe.agent.tiny_person TinyPerson: remembering and consolidating
store_in_memory(value); consolidate_episode_memories(); minibio(extended, requirements)
MIN_EPISODE_LENGTH; MAX_EPISODE_LENGTH; episodic_memory; semantic_memory; _current_episode_event_count

tinytroupe.agent.tiny_person TinyPerson: the feed of what is said and done
_push_and_display_latest_communication(communication); communication_display
_display_communication(role, content, kind, simplified, max_content_length)

tinytroupe.agent.tiny_person TinyPerson: state, names and the registry of agents
encode_complete_state(); decode_complete_state(state); name; simulation_id; all_agents; add_agent(agent); clear_agents()
load_specification(path_or_dict, suppress_mental_faculties, suppress_memory, suppress_mental_state, auto_rename_agent, \
new_agent_name)
generate_agent_system_prompt(); last_remembered_action(ignore_done); clear_communications_buffer(); _post_init

tinytroupe.agent.memory EpisodicMemory: memory on our tiers
__init__(fixed_prefix_length, lookback_length); store(value); store_all(values); commit_episode(); count()
get_current_episode(item_types); clear(max_prefix_to_clear, max_suffix_to_clear)
retrieve(first_n, last_n, include_omission_info, item_type); retrieve_recent(include_omission_info, item_type)
retrieve_all(item_type); retrieve_relevant(relevance_target, top_k)
retrieve_first(n, include_omission_info, item_type); retrieve_last(n, include_omission_info, item_type)
summarize_relevant_via_full_scan(relevance_target, batch_size, item_type)
filter_by_item_type(memories, item_type); filter_by_item_types(memories, item_types)
_store(value); _preprocess_value_for_storage(value); _memory_with_current_buffer()
to_json(include, suppress, file_path, serialization_type_field_name)
from_json(json_dict_or_path, suppress, serialization_type_field_name, post_init_params)
MEMORY_BLOCK_OMISSION_INFO; memory; episodic_buffer; fixed_prefix_length; lookback_length

tinytroupe.agent.memory SemanticMemory: memory on our tiers
__init__(memories); _post_init(); store(value); store_all(values)
retrieve(first_n, last_n, include_omission_info, item_type); retrieve_recent(item_type); retrieve_all(item_type)
retrieve_relevant(relevance_target, top_k); _build_documents_from(memories)
summarize_relevant_via_full_scan(relevance_target, batch_size, item_type)
filter_by_item_type(memories, item_type); filter_by_item_types(memories, item_types)
_store(value); _preprocess_value_for_storage(value)
to_json(include, suppress, file_path, serialization_type_field_name)
from_json(json_dict_or_path, suppress, serialization_type_field_name, post_init_params)
serializable_attributes; memories; semantic_grounding_connector

tinytroupe.agent.memory EpisodicConsolidator: consolidations run side by side
process(memories, timestamp, context, persona, sequential)

tinytroupe.agent.mental_faculty TinyMentalFaculty: faculties run where they may block
process_action(agent, action)

tinytroupe.agent.mental_faculty TinyToolUse: tools run where they may block
process_action(agent, action); tools

tinytroupe.agent.action_generator ActionGenerator: an act's model call
generate_next_actions(agent, current_messages)

tinytroupe.environment.tiny_world: greenlets in place of threads
concurrent

tinytroupe.environment.tiny_world TinyWorld: steps, and what actions do
run(steps, timedelta_per_step, return_actions, randomize_agents_order, parallelize)
_step(timedelta_per_step, randomize_agents_order, parallelize); _step_in_parallel(timedelta_per_step)
_step_sequentially(timedelta_per_step, randomize_agents_order); _advance_datetime(timedelta)
_handle_actions(source, actions); _handle_reach_out(source_agent, content, target)
_handle_talk(source_agent, content, target); broadcast(speech, source)
agents; name_to_agent; broadcast_if_no_target; current_datetime; _interventions; _simulation_steps

tinytroupe.environment.tiny_world TinyWorld: the feed of what is said and done
_push_and_display_latest_communication(communication); _display(communication)
communication_display; console

tinytroupe.environment.tiny_world TinyWorld: state, names and the registry of worlds
encode_complete_state(); decode_complete_state(state); name; simulation_id; all_environments; clear_environments()
clear_communications_buffer()

tinytroupe.environment.tiny_social_network TinySocialNetwork: who may reach whom
_step(); add_relation(agent_1, agent_2, name); is_in_relation_with(agent_1, agent_2, relation_name)
_update_agents_contexts(); relations

tinytroupe.control Simulation: checkpoints in our store
begin(cache_path, auto_checkpoint); end(); checkpoint(); _load_cache_file(cache_path); _save_cache_file(cache_path)
_encode_simulation_state(); _decode_simulation_state(state); cached_trace; execution_trace; status
agents; environments; factories; name_to_agent; name_to_environment; name_to_factory
has_unsaved_cache_changes; auto_checkpoint; cache_hits; cache_misses; STATUS_STOPPED

tinytroupe.control Transaction: replay of parallel runs
__init__(obj_under_transaction, simulation, function, *args, **kwargs); execute(begin_parallel, parallel_id)
_encode_function_output(output); _decode_function_output(encoded_output); simulation; function; args; kwargs

tinytroupe.control: the simulation that is controlled
begin(cache_path, id, auto_checkpoint); end(id); checkpoint(id); reset(); current_simulation()
_current_simulations; _current_simulation_id

tinytroupe.factory.tiny_person_factory: greenlets in place of threads
concurrent; concurrent_agent_generataion_lock

tinytroupe.factory.tiny_person_factory TinyPersonFactory: people made side by side
generate_people(number_of_people, agent_particularities, temperature, attempts, post_processing_func, parallelize, verbose)
generate_person(agent_particularities, temperature, attempts, post_processing_func); clear_factories()

tinytroupe.utils.parallel: greenlets in place of threads
ThreadPoolExecutor; parallel_map(objects, operation, max_workers)

tinytroupe.utils.json JsonSerializableRegistry: our classes' names, for states that are read back
class_mapping; to_json(include, suppress, file_path, serialization_type_field_name)
"""

SEAMS: tuple[Seam, ...] = tuple(_pinned(_TABLE))
