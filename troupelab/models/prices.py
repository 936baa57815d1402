"""What models cost: list prices per million tokens, from `data/prices.json`.

A price is only given for a name that is in the table, or that differs from one by a rule stated at `price_of`; any other model's is
unknown (None, and its cost NaN), never guessed. The table is read once, when first asked for; any thread.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from troupelab._share import shared_folder
from troupelab.errors import InputError

__all__ = ["Price", "cost_usd", "price_of", "read_prices"]

_MAX_BYTES = 1_000_000
_MILLION = 1_000_000
_NUMBERS = 3
# A version's date, as providers append it: 2024-07-18 or 20251001. Shorter numbers (-0613) are versions with prices of their own.
_DATE = re.compile(r"-20\d\d(-?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])\Z")


class Price(NamedTuple):
    """US dollars per million tokens: what goes in, what of it the provider had cached, and what comes out."""

    input_usd: float
    cached_usd: float
    output_usd: float


def price_of(model: str) -> Price | None:
    """Look up a model's list price.

    A name counts as in the table if it is there exactly, capitals aside; otherwise without a date at its end (`gpt-4o-mini-2024-07-18`,
    `claude-haiku-4-5-20251001`); or without its provider's name before a slash (`openai/gpt-4o-mini`, `azure/gpt-4o-mini`).

    Returns:
        The price, or None for a model that is not known.

    Raises:
        InputError: the table that came with the package cannot be read.

    >>> price_of("openai/gpt-4o-mini-2024-07-18") == price_of("gpt-4o-mini") != price_of("gpt-4o")
    True
    >>> price_of("gpt-4o-mini-but-better") is None
    True
    """
    known = _known()
    name = model.strip().lower()
    return known.get(name) or known.get(_DATE.sub("", name))


def cost_usd(price: Price | None, tokens_in: int, tokens_cached: int, tokens_out: int) -> float:
    """What a call costs; NaN where the price is not known.

    Args:
        price: what `price_of` said.
        tokens_in: all tokens that went in, those cached included.
        tokens_cached: those of them that the provider had cached.
        tokens_out: the tokens that came out.

    >>> cost_usd(Price(1.0, 0.1, 5.0), 1_000_000, 500_000, 100_000)
    1.05
    >>> cost_usd(None, 1, 0, 1)
    nan
    """
    if price is None:
        return math.nan
    cached = min(tokens_cached, tokens_in)  # some endpoints count what they cached apart from what went in
    fresh = tokens_in - cached
    return (fresh * price.input_usd + cached * price.cached_usd + tokens_out * price.output_usd) / _MILLION


def read_prices(path: Path) -> dict[str, Price]:
    """Read a table of prices: every name that it knows, with and without the provider before a slash.

    Raises:
        InputError: too big, unreadable, or not such a table; the message names the file and the field.
    """
    source = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise InputError(source, "", f"at most {_MAX_BYTES} bytes")
        found = orjson.loads(raw)
    except OSError as problem:
        raise InputError(source, "", "a readable file", found=str(problem.strerror)) from problem
    except orjson.JSONDecodeError as problem:
        raise InputError(source, "", "valid JSON in UTF-8", found=str(problem)) from problem
    prices: dict[str, Price] = {}
    for provider, facts in _object(found, "providers", source).items():
        prefixes = facts.get("prefixes", []) if isinstance(facts, dict) else []
        if not isinstance(prefixes, list) or not all(isinstance(prefix, str) for prefix in prefixes):
            raise InputError(source, f"providers.{provider}.prefixes", "a list of texts")
        for model, numbers in _object(facts, "models", source, f"providers.{provider}.").items():
            price = _price(numbers, source, f"providers.{provider}.models.{model}")
            for name in (model, *(f"{prefix}/{model}" for prefix in prefixes)):
                if prices.setdefault(name.lower(), price) != price:
                    raise InputError(source, f"providers.{provider}.models.{model}", "one price for each name")
    return prices


def _object(found: Any, key: str, source: str, within: str = "") -> dict[str, Any]:
    inner = found.get(key) if isinstance(found, dict) else None
    if not isinstance(inner, dict):
        raise InputError(source, f"{within}{key}", "an object")
    return inner


def _price(numbers: Any, source: str, field: str) -> Price:
    fits = isinstance(numbers, list) and len(numbers) == _NUMBERS
    if not fits or not all(type(number) in (int, float) and number >= 0 for number in numbers):
        raise InputError(
            source, field, "three prices of at least 0: input, cached input, output", found=repr(numbers)[:80]
        )
    return Price(*map(float, numbers))


# Two threads that ask first at the same time both read the table, to the same effect.
@functools.cache
def _known() -> dict[str, Price]:
    return read_prices(shared_folder("data") / "prices.json")
