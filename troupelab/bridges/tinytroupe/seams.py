"""Where this bridge touches TinyTroupe: every name and signature that it builds on, in one list, checked when it is first used.

The only module that imports TinyTroupe, and only inside `find`. Nothing is created for the check: functions are compared by their
parameters' names, what an object gets in its constructor by the constructor's code.

Owns the list of seams and the record of what was found, once a process. Any thread may call `find`.
"""

from __future__ import annotations

import dis
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from troupelab.errors import BridgeError, MissingPackageError

__all__ = ["FOLDER_VARIABLE", "INSTALL", "SEAMS", "SUPPORTED", "Seam", "TinyTroupe", "find"]

SUPPORTED = "0.6"
FOLDER_VARIABLE = "TROUPELAB_TINYTROUPE"
INSTALL = "pip install git+https://github.com/microsoft/TinyTroupe.git@v0.6.0"
_PLACEHOLDER = "0.0.1"
_UNKNOWN = "unknown"
_MAX_PROJECT_BYTES = 1 << 20
_VARIADIC, _KEYWORDS = 0x04, 0x08  # co_flags: has *args, has **kwargs


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
        return f"{self.module}.{self.name}" + _brackets(self.parameters)


@dataclass(frozen=True, slots=True)
class TinyTroupe:
    """TinyTroupe as it was found: its version, its configuration and the modules that have seams.

    Attributes:
        version: Its version, or "unknown".
        config: `tinytroupe.config_manager`.
        clients: `tinytroupe.clients`.
        control: `tinytroupe.control`.
        agent: `tinytroupe.agent`.
        person: `tinytroupe.agent.tiny_person`.
        memory: `tinytroupe.agent.memory`.
        world: `tinytroupe.environment.tiny_world`.
        network: `tinytroupe.environment.tiny_social_network`.
        factory: `tinytroupe.factory.tiny_person_factory`.
        parallel: `tinytroupe.utils.parallel`.
        registry: `tinytroupe.utils.json`.
    """

    version: str
    config: Any
    clients: ModuleType
    control: ModuleType
    agent: ModuleType
    person: ModuleType
    memory: ModuleType
    world: ModuleType
    network: ModuleType
    factory: ModuleType
    parallel: ModuleType
    registry: ModuleType


def _brackets(parameters: tuple[str, ...] | None) -> str:
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

tinytroupe.environment.tiny_social_network TinySocialNetwork: who may reach whom
_step(); add_relation(agent_1, agent_2, name); is_in_relation_with(agent_1, agent_2, relation_name)
_update_agents_contexts(); relations

tinytroupe.control Simulation: checkpoints in our store
begin(cache_path, auto_checkpoint); end(); checkpoint(); _load_cache_file(cache_path); _save_cache_file(cache_path)
_encode_simulation_state(); _decode_simulation_state(state); cached_trace; execution_trace; status

tinytroupe.control Transaction: replay of parallel runs
__init__(obj_under_transaction, simulation, function, *args, **kwargs); execute(begin_parallel, parallel_id)
_encode_function_output(output); _decode_function_output(encoded_output)

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
class_mapping
"""

SEAMS: tuple[Seam, ...] = tuple(_pinned(_TABLE))


@functools.cache
def find() -> TinyTroupe:
    """Import TinyTroupe and make sure that it has every seam of this bridge; what was found is kept.

    The folder that TROUPELAB_TINYTROUPE names, if any, comes first on the import path. TinyTroupe itself prints a disclaimer and
    its configuration when it is first imported, and begins a log file in the working directory.

    Returns:
        TinyTroupe's modules.

    Raises:
        MissingPackageError: It is not installed, or only its placeholder, or a package that it needs is missing.
        BridgeError: It is another version, it fails while it is imported, or a seam is gone or has changed.
    """
    version = _version(_folder())
    if version != _UNKNOWN and version.split(".")[:2] != SUPPORTED.split("."):
        raise BridgeError(
            f"TinyTroupe {version} is installed and this bridge works with {SUPPORTED}: install it by `{INSTALL}`."
        )
    modules = {name: _imported(name, version) for name in dict.fromkeys(seam.module for seam in SEAMS)}
    for seam in SEAMS:
        fault = _fault(modules[seam.module], seam)
        if fault:
            raise BridgeError(
                f"TinyTroupe {version} {fault} `{seam}`, on which this bridge builds: install the version that it knows by "
                f"`{INSTALL}`."
            )
    return TinyTroupe(
        version=version,
        config=modules["tinytroupe"].config_manager,
        clients=modules["tinytroupe.clients"],
        control=modules["tinytroupe.control"],
        agent=importlib.import_module("tinytroupe.agent"),
        person=modules["tinytroupe.agent.tiny_person"],
        memory=modules["tinytroupe.agent.memory"],
        world=modules["tinytroupe.environment.tiny_world"],
        network=modules["tinytroupe.environment.tiny_social_network"],
        factory=modules["tinytroupe.factory.tiny_person_factory"],
        parallel=modules["tinytroupe.utils.parallel"],
        registry=modules["tinytroupe.utils.json"],
    )


def _folder() -> Path:
    """The package's folder, found without importing it."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named and "tinytroupe" not in sys.modules:
        if not Path(named, "tinytroupe", "__init__.py").is_file():
            raise MissingPackageError(
                f"{FOLDER_VARIABLE} names {named!r}, where there is no package `tinytroupe`: name the folder that contains it."
            )
        sys.path.insert(0, str(Path(named).resolve()))
    spec = importlib.util.find_spec("tinytroupe")
    if spec is None or spec.origin is None:
        raise MissingPackageError(f"TinyTroupe is not installed: install it from its repository by `{INSTALL}`.")
    folder = Path(spec.origin).parent
    if not (folder / "agent").is_dir():
        raise MissingPackageError(
            f"What is installed as `tinytroupe` is only a placeholder with nothing in it, as on PyPI (version {_PLACEHOLDER}): "
            f"install the real one from its repository by `{INSTALL}`."
        )
    return folder


def _version(folder: Path) -> str:
    """The version of the package in this very folder: as it was installed, or as its source tree says."""
    try:
        distribution = importlib.metadata.distribution("tinytroupe")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        if Path(str(distribution.locate_file("tinytroupe"))).resolve() == folder.resolve():
            return distribution.version or _UNKNOWN
    project = folder.parent / "pyproject.toml"
    try:
        with project.open("rb") as file:
            about = tomllib.loads(file.read(_MAX_PROJECT_BYTES).decode()).get("project")
    except (OSError, ValueError):
        return _UNKNOWN
    if not isinstance(about, dict) or about.get("name") != "tinytroupe":
        return _UNKNOWN
    version = about.get("version")
    return version if isinstance(version, str) else _UNKNOWN


def _imported(name: str, version: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "tinytroupe":
            raise BridgeError(
                f"TinyTroupe {version} has not all that this bridge builds on ({error}): install the version that it knows by "
                f"`{INSTALL}`."
            ) from error
        raise MissingPackageError(
            f"TinyTroupe needs {f'the package `{missing}`' if missing else 'a package'}, which cannot be imported ({error}): "
            f"install TinyTroupe with all that it needs by `{INSTALL}`."
        ) from error
    except Exception as error:
        raise BridgeError(
            f"TinyTroupe {version} fails while it is imported ({type(error).__name__}: {error}): see whether `import tinytroupe` "
            "works, and whether a config.ini in the working directory is at fault."
        ) from error


def _fault(module: ModuleType, seam: Seam) -> str:
    """What is wrong with a seam, as a verb; empty when it is as pinned."""
    owner: Any = module
    *classes, name = seam.name.split(".")
    for one in classes:
        owner = getattr(owner, one, None)
    if not hasattr(owner, name):
        made = seam.parameters is None and isinstance(owner, type) and name in _set_by_constructor(owner)
        return "" if made else "has no"
    if seam.parameters is None:
        return ""
    function = _innermost(getattr(owner, name))
    if not isinstance(function, FunctionType):
        return "has something else than a function as"
    found = _names(function.__code__)
    return "" if found == seam.parameters else f"takes {_brackets(found)} in"


def _names(code: CodeType) -> tuple[str, ...]:
    """A function's parameters in their order, without `self` and `cls`."""
    count = code.co_argcount + code.co_kwonlyargcount
    names = list(code.co_varnames[:count])
    for flag, stars in ((_VARIADIC, "*"), (_KEYWORDS, "**")):
        if code.co_flags & flag:
            names.append(stars + code.co_varnames[count])
            count += 1
    return tuple(names[1:] if names[:1] in (["self"], ["cls"]) else names)


def _innermost(function: Any) -> Any:
    """The function under its decorators: what it wraps, or the one function that a pass-through has in its closure."""
    while True:
        function = getattr(function, "__func__", function)
        if hasattr(function, "__wrapped__"):
            function = function.__wrapped__
            continue
        if not isinstance(function, FunctionType) or _names(function.__code__) != ("*args", "**kwargs"):
            return function
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        inner = [one for one in held if isinstance(one, FunctionType)]
        if len(inner) != 1:
            return function
        function = inner[0]


@functools.cache
def _set_by_constructor(owner: type) -> frozenset[str]:
    """The attributes that a class's constructors set, its own and inherited ones."""
    makers = (_innermost(vars(one).get(name)) for one in owner.__mro__ for name in ("__init__", "_post_init"))
    codes = (maker.__code__ for maker in makers if isinstance(maker, FunctionType))
    return frozenset(
        step.argval for code in codes for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"
    )
