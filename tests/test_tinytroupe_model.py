"""The model that TinyTroupe's configuration names, as one of ours."""

from __future__ import annotations

import pytest

import troupelab as tl
from troupelab.bridges.tinytroupe.model import model_of
from troupelab.models.model import ChatMessage, Request


@pytest.mark.parametrize(
    ("api_type", "address"),
    [
        ("openai", "http://127.0.0.1:9/v1"),
        ("ollama", "http://localhost:11434/v1"),
        ("azure", "https://somewhere.example/openai/deployments/small"),
    ],
)
def test_it_is_at_the_address_that_is_configured(tinytroupe, monkeypatch, api_type, address):
    """OpenAI's own variables, Ollama's usual address, or a deployment on Azure."""
    for name, value in (
        ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"),
        ("AZURE_OPENAI_ENDPOINT", "https://somewhere.example"),
        ("AZURE_OPENAI_KEY", "secret"),
    ):
        monkeypatch.setenv(name, value)
    tinytroupe.config.update("model", "small")
    tinytroupe.config.update("api_type", api_type)
    tinytroupe.config.update("base_url", None)
    model = model_of(tinytroupe)
    assert isinstance(model, tl.ChatModel)
    assert (model.name, model.base_url) == ("small", address)
    assert "secret" not in repr(model)


def test_a_client_of_the_users_own_has_no_model(tinytroupe):
    """For another api_type, a sentence says to pass a model."""
    tinytroupe.config.update("api_type", "mine")
    with pytest.raises(tl.BridgeError, match="pass model="):
        model_of(tinytroupe)


def test_replies_of_128_000_tokens_are_not_set_aside_for(tinytroupe, monkeypatch):
    """What a call may take is counted as a usual reply's length, or a few calls would use up any budget."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    model = model_of(tinytroupe)
    request = Request("act", 0, 0, 0, 0, 0, (ChatMessage("user", "Hello."),), max_tokens=128_000)
    assert model.estimate(request).tokens < 5_000
    assert request.max_tokens == 128_000
