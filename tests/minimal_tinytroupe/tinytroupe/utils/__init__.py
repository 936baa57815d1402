"""Small things that several modules share."""

import itertools

from tinytroupe.utils.json import *  # noqa: F403
from tinytroupe.utils.json import JsonSerializableRegistry, post_init
from tinytroupe.utils.llm import LLMChat, extract_json, repeat_on_error
from tinytroupe.utils.parallel import parallel_map

__all__ = [
    "JsonSerializableRegistry",
    "LLMChat",
    "extract_json",
    "fresh_id",
    "name_or_empty",
    "parallel_map",
    "post_init",
    "repeat_on_error",
    "reset_fresh_id",
]

_ids = itertools.count(1)


def fresh_id(scope="default"):
    """A number that was not given out before."""
    return next(_ids)


def reset_fresh_id(scope=None):
    """Numbers begin at 1 again."""
    global _ids
    _ids = itertools.count(1)


def name_or_empty(named_entity):
    """Its name, or nothing."""
    return "" if named_entity is None else named_entity.name
