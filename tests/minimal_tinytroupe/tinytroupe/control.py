"""Simulations that can be replayed: every transaction's output and the state after it, in a file."""

import json
import threading
from pathlib import Path

from tinytroupe import logger, utils

concurrent_execution_lock = threading.Lock()


class Simulation:
    """A trace of transactions (previous, event, output, state), and the cached one that it follows while they are alike."""

    STATUS_STOPPED = "stopped"
    STATUS_STARTED = "started"

    def __init__(self, id="default", cached_trace=None):
        self.id = id
        self.agents, self.environments, self.factories = [], [], []
        self.name_to_agent, self.name_to_environment, self.name_to_factory = {}, {}, {}
        self.status = Simulation.STATUS_STOPPED
        self.cache_path = f"./tinytroupe-{id}.cache.json"
        self.auto_checkpoint = False
        self.has_unsaved_cache_changes = False
        self.cached_trace = cached_trace or []
        self.execution_trace = []
        self.cache_hits = self.cache_misses = 0
        self._under_transaction = {}
        self._under_parallel_transactions = False

    def begin(self, cache_path=None, auto_checkpoint=False):
        from tinytroupe.agent import TinyPerson
        from tinytroupe.environment import TinyWorld
        from tinytroupe.factory import TinyPersonFactory

        if self.status == Simulation.STATUS_STARTED:
            raise ValueError("The simulation has begun already.")
        self.status = Simulation.STATUS_STARTED
        self.cache_path = cache_path or self.cache_path
        self.auto_checkpoint = auto_checkpoint
        TinyPerson.clear_agents()
        TinyWorld.clear_environments()
        TinyPersonFactory.clear_factories()
        utils.reset_fresh_id()
        self._load_cache_file(self.cache_path)

    def end(self):
        if self.status == Simulation.STATUS_STOPPED:
            raise ValueError("The simulation has ended already.")
        self.status = Simulation.STATUS_STOPPED
        self.checkpoint()

    def checkpoint(self):
        if self.has_unsaved_cache_changes:
            self._save_cache_file(self.cache_path)

    def add_agent(self, agent):
        self._add(agent, self.agents, self.name_to_agent)

    def add_environment(self, environment):
        self._add(environment, self.environments, self.name_to_environment)

    def add_factory(self, factory):
        self._add(factory, self.factories, self.name_to_factory)

    def _add(self, one, everyone, by_name):
        if one.name in by_name:
            raise ValueError(f"The name {one.name} is taken.")
        one.simulation_id = self.id
        everyone.append(one)
        by_name[one.name] = one

    def _load_cache_file(self, cache_path):
        try:
            self.cached_trace = json.loads(Path(cache_path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.cached_trace = []

    def _save_cache_file(self, cache_path):
        try:
            Path(cache_path).write_text(json.dumps(self.cached_trace, indent=4), encoding="utf-8")
        except Exception as error:
            logger.error("The cache was not saved: %s", error)
        self.has_unsaved_cache_changes = False

    def _encode_simulation_state(self):
        kinds = {"agents": self.agents, "environments": self.environments, "factories": self.factories}
        return {kind: [one.encode_complete_state() for one in them] for kind, them in kinds.items()}

    def _decode_simulation_state(self, state):
        for kind, by_name in (
            ("factories", self.name_to_factory),
            ("environments", self.name_to_environment),
            ("agents", self.name_to_agent),
        ):
            for one in state[kind]:
                if one["name"] not in by_name:
                    raise ValueError(f"{one['name']} is not in the simulation.")
                by_name[one["name"]].decode_complete_state(one)

    def _cached(self, event):
        """The cached entry of this event at this place, if there is one."""
        here = len(self.execution_trace)
        if self._under_parallel_transactions:
            segment = self.cached_trace[here - 1] if len(self.cached_trace) >= here else {}
            return segment.get(event) if isinstance(segment, dict) else None
        entry = self.cached_trace[here] if len(self.cached_trace) > here else None
        return entry if isinstance(entry, (list, tuple)) and entry[1] == event else None

    def _keep(self, event, output):
        with concurrent_execution_lock:
            self.has_unsaved_cache_changes = True
            self.cached_trace = self.cached_trace[: len(self.execution_trace)]
            for trace in (self.cached_trace, self.execution_trace):
                if self._under_parallel_transactions:
                    trace[-1][event] = {"prev_node_hash": None, "encoded_output": output}
                else:
                    trace.append((None, event, output, self._encode_simulation_state()))

    def begin_parallel_transactions(self):
        with concurrent_execution_lock:
            self._under_parallel_transactions = True
            self.execution_trace.append({})
            self.cached_trace.append({})

    def end_parallel_transactions(self):
        self._under_parallel_transactions = False


class Transaction:
    """One call of a transactional method, replayed where it is cached."""

    def __init__(self, obj_under_transaction, simulation, function, *args, **kwargs):
        self.obj_under_transaction = obj_under_transaction
        self.simulation = simulation
        self.function = function
        self.args = args
        self.kwargs = kwargs
        if simulation is not None and getattr(obj_under_transaction, "simulation_id", None) is None:
            kind = {"TinyPersonRef": "agent", "TinyWorldRef": "environment", "TinyFactoryRef": "factory"}
            reference = self._encode_function_output(obj_under_transaction)["type"]
            getattr(simulation, f"add_{kind[reference]}")(obj_under_transaction)

    def execute(self, begin_parallel=False, parallel_id=None):
        simulation = self.simulation
        if simulation is None or simulation.status == Simulation.STATUS_STOPPED:
            return self.function(*self.args, **self.kwargs)
        if begin_parallel:
            simulation.begin_parallel_transactions()
        event = str((self.function.__name__, [str(each) for each in self.args], str(self.kwargs)))
        if (cached := simulation._cached(event)) is not None:
            simulation.cache_hits += 1
            if isinstance(cached, dict):
                output = self._decode_function_output(cached["encoded_output"])
            else:
                simulation.execution_trace.append(cached)
                simulation._decode_simulation_state(cached[3])
                output = self._decode_function_output(cached[2])
        elif begin_parallel or simulation._under_transaction.get(parallel_id):
            output = self.function(*self.args, **self.kwargs)
        else:
            simulation.cache_misses += 1
            simulation._under_transaction[parallel_id] = True
            output = self.function(*self.args, **self.kwargs)
            simulation._keep(event, self._encode_function_output(output))
            simulation._under_transaction[parallel_id] = False
        if begin_parallel:
            simulation.end_parallel_transactions()
            Transaction(self.obj_under_transaction, simulation, lambda: True).execute(parallel_id=parallel_id)
        if simulation.auto_checkpoint:
            simulation.checkpoint()
        return output

    def _encode_function_output(self, output):
        from tinytroupe.agent import TinyPerson
        from tinytroupe.environment import TinyWorld
        from tinytroupe.factory.tiny_factory import TinyFactory

        if output is None:
            return None
        for kind in (TinyPerson, TinyWorld, TinyFactory):
            if isinstance(output, kind):
                return {"type": f"{kind.__name__}Ref", "name": output.name}
        if isinstance(output, list):
            return {"type": "List", "value": [self._encode_function_output(each) for each in output]}
        if isinstance(output, (int, float, str, bool, dict, tuple)):
            return {"type": "JSON", "value": output}
        raise ValueError(f"An output of type {type(output)} cannot be kept.")

    def _decode_function_output(self, encoded_output):
        from tinytroupe.agent import TinyPerson
        from tinytroupe.environment import TinyWorld

        if encoded_output is None:
            return None
        kind = encoded_output["type"]
        if kind == "TinyPersonRef":
            return TinyPerson.get_agent_by_name(encoded_output["name"])
        if kind == "TinyWorldRef":
            return TinyWorld.get_environment_by_name(encoded_output["name"])
        if kind == "TinyFactoryRef":
            return self.simulation.name_to_factory[encoded_output["name"]]
        value = encoded_output["value"]
        return [self._decode_function_output(each) for each in value] if kind == "List" else value


def transactional(parallel=False):
    """Makes a method one transaction of the current simulation."""

    def decorator(func):
        def wrapper(*args, **kwargs):
            transaction = Transaction(args[0], current_simulation(), func, *args, **kwargs)
            return transaction.execute(begin_parallel=parallel, parallel_id=str(threading.current_thread()))

        return wrapper

    return decorator


_current_simulations = {"default": None}
_current_simulation_id = None


def reset():
    """Forget all simulations."""
    global _current_simulations, _current_simulation_id
    _current_simulations = {"default": None}
    _current_simulation_id = None


def _simulation(id="default"):
    if _current_simulations[id] is None:
        _current_simulations[id] = Simulation()
    return _current_simulations[id]


def begin(cache_path=None, id="default", auto_checkpoint=False):
    """Begin a simulation that is kept in a file."""
    global _current_simulation_id
    if _current_simulation_id is not None:
        raise ValueError(f"The simulation {_current_simulation_id} has begun already.")
    _simulation(id).begin(cache_path, auto_checkpoint)
    _current_simulation_id = id


def end(id="default"):
    """End it, and save it."""
    global _current_simulation_id
    _simulation(id).end()
    _current_simulation_id = None


def checkpoint(id="default"):
    """Save it."""
    _simulation(id).checkpoint()


def current_simulation():
    """The simulation that has begun, if any."""
    return None if _current_simulation_id is None else _simulation(_current_simulation_id)


def cache_hits(id="default"):
    """How many transactions were replayed."""
    return _simulation(id).cache_hits


def cache_misses(id="default"):
    """How many were not."""
    return _simulation(id).cache_misses
