"""A stand-in for tests with the seams of TinyTroupe 0.6: its names, signatures and the behaviour that a bridge relies on.

It is not TinyTroupe and holds none of its code or prompts. The suite uses it where the real package is not installed. It has the same
faults where the bridge mends them: an act that fails in a step is logged and forgotten, a consolidated memory cannot be found again,
and a social network cannot run a step. Its prompts have the headings by which a stand-in for a model tells what is asked for.
"""

import functools
import inspect
import logging

logger = logging.getLogger("tinytroupe")
logger.addHandler(logging.NullHandler())

_DEFAULTS = {
    "api_type": "openai",
    "model": "gpt-minimal",
    "embedding_model": "embedding-minimal",
    "max_completion_tokens": 1024,
    "temperature": None,
    "frequency_penalty": None,
    "presence_penalty": None,
    "timeout": 60.0,
    "max_attempts": 3,
    "waiting_time": 0.0,
    "exponential_backoff_factor": 2.0,
    "max_concurrent_model_calls": 4,
    "cache_api_calls": False,
    "cache_file_name": "minimal_api_cache",
    "max_content_display_length": 4000,
    "parallel_agent_actions": True,
    "parallel_agent_generation": True,
    "enable_memory_consolidation": True,
    "enable_continuous_contextual_semantic_memory_retrieval": True,
    "min_episode_length": 10,
    "max_episode_length": 15,
    "episodic_memory_fixed_prefix_length": 10,
    "episodic_memory_lookback_length": 20,
    "loglevel": "ERROR",
}


class ConfigManager:
    """Values by name, and a decorator that reads them where an argument is None."""

    def __init__(self):
        self.reset()

    def reset(self):
        self._config = dict(_DEFAULTS)

    def get(self, key, default=None):
        return self._config.get(key.lower(), default)

    def __getitem__(self, key):
        return self.get(key)

    def update(self, key, value):
        if key.lower() in self._config:
            self._config[key.lower()] = value
        else:
            logger.warning("There is no value %s.", key)

    def config_defaults(self, **keys):
        """Where the argument `name` is None, the value of `keys[name]` is passed."""

        def decorator(func):
            signature = inspect.signature(func)

            @functools.wraps(func)
            def wrapper(*args, **kwargs):
                bound = signature.bind_partial(*args, **kwargs)
                bound.apply_defaults()
                kwargs |= {
                    name: self.get(key)
                    for name, key in keys.items()
                    if key is not None and name in bound.arguments and bound.arguments[name] is None
                }
                return func(*args, **kwargs)

            return wrapper

        return decorator


config_manager = ConfigManager()
