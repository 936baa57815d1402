"""The table of list prices: which names it knows, what a call costs, and what a bad table says."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

import troupelab as tl
from troupelab._share import shared_folder
from troupelab.models.prices import Price, cost_usd, price_of, read_prices

TABLE = shared_folder("data") / "prices.json"
SHIPPED = json.loads(TABLE.read_text(encoding="utf-8"))
TOKENS = st.integers(0, 10**9)
PRICES = st.builds(Price, *[st.floats(0, 1_000)] * 3)
CALLS = st.tuples(TOKENS, TOKENS, TOKENS).map(lambda call: (max(call[:2]), min(call[:2]), call[2]))


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai/gpt-4o-mini", "gpt-4o-mini"),
        ("azure/gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("Anthropic/claude-sonnet-5", "claude-sonnet-5"),
        ("gemini/gemini-2.5-flash", "gemini-2.5-flash"),
        (" GPT-4o ", "gpt-4o"),
    ],
)
def test_a_name_with_a_date_or_its_provider_has_the_same_price(name, same):
    """The stated rule, and no other, makes two names one."""
    assert price_of(name) == price_of(same) is not None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpt",
        "gpt-4",
        "gpt-4o-",
        "gpt-4o-mini-0718",
        "gpt-4o-mini-2024-13-18",
        "gpt-4o-mini-2024-0718",
        "gpt-4o-mini-search",
        "gpt-4o-mini-2024-07-18-2024-07-18",
        "openai/openai/gpt-4o",
        "anthropic/gpt-4o",
        "somebody/gpt-4o",
        "ft:gpt-4o-mini",
        "2024-07-18",
        "llama3.2",
    ],
)
def test_a_price_is_never_guessed(name):
    """What merely resembles a name in the table has no price."""
    assert price_of(name) is None
    assert math.isnan(cost_usd(price_of(name), 10, 0, 10))


def test_the_longer_name_is_its_own_model():
    """A mini model does not cost what its larger sibling costs."""
    assert price_of("gpt-4o-mini").input_usd < price_of("gpt-4o").input_usd


def test_a_dated_name_in_the_table_keeps_its_own_price():
    """A version that is listed with its date is not priced as the newest one."""
    assert price_of("gpt-4o-2024-05-13").input_usd > price_of("gpt-4o-2024-08-06").input_usd


def test_the_table_says_where_and_when_its_prices_were_found():
    """Every provider has a public page as its source and a day; cached input costs no more than fresh."""
    for facts in SHIPPED["providers"].values():
        assert facts["source"].startswith("https://")
        assert date.fromisoformat(facts["as_of"]) >= date(2026, 1, 1)
    assert all(price.cached_usd <= price.input_usd for price in read_prices(TABLE).values())
    assert sum(len(facts["models"]) for facts in SHIPPED["providers"].values()) * 2 <= len(read_prices(TABLE))


def test_many_threads_may_ask_first():
    """Twenty threads at once get the same price."""
    with ThreadPoolExecutor(20) as pool:
        assert len(set(pool.map(price_of, ["gpt-4o"] * 100))) == 1


@given(PRICES, CALLS, CALLS)
def test_cost_adds_up_and_is_never_negative(price, one, other):
    """Two calls cost what one with both their tokens costs, and none costs less than nothing."""
    both = cost_usd(price, *(left + right for left, right in zip(one, other, strict=True)))
    assert both == pytest.approx(cost_usd(price, *one) + cost_usd(price, *other))
    assert both >= 0


@given(PRICES, TOKENS, TOKENS)
def test_more_cached_than_sent_costs_nothing_extra(price, tokens, more):
    """An endpoint that reports more cached tokens than went in does not make the cost negative."""
    assert cost_usd(price, tokens, tokens + more, 0) == pytest.approx(tokens * price.cached_usd / 1e6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "valid JSON"),
        (b"\xff{}", "valid JSON"),
        (b"[]", "providers: expected an object"),
        (b'{"providers": {"x": []}}', "providers.x.models: expected an object"),
        (b'{"providers": {"x": {"prefixes": "x", "models": {}}}}', "providers.x.prefixes: expected a list of texts"),
        (b'{"providers": {"x": {"models": {"m": [1, 2]}}}}', r"providers.x.models.m: expected three prices"),
        (b'{"providers": {"x": {"models": {"m": [1, 2, -3]}}}}', r"models.m: .*at least 0"),
        (b'{"providers": {"x": {"models": {"m": [1, 2, true]}}}}', r"models.m: .*at least 0"),
        (b'{"providers": {"x": {"models": {"m": [1, 1, 1], "M": [2, 2, 2]}}}}', "one price for each name"),
        (b" " * 1_000_001, "at most 1000000 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_table_says_what_is_wrong(tmp_path, content, message):
    """The error names the file and the field."""
    path = tmp_path / "prices.json"
    path.write_bytes(content)
    with pytest.raises(tl.InputError, match=message) as caught:
        read_prices(path)
    assert str(path) in str(caught.value)


def test_a_missing_table_is_an_input_error(tmp_path):
    """No such file: said as of any other input."""
    with pytest.raises(tl.InputError, match="a readable file"):
        read_prices(tmp_path / "none.json")
