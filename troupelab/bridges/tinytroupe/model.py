"""The model that TinyTroupe's own configuration names, as one of ours. Any thread may call it."""

from __future__ import annotations

import os

from troupelab.bridges.tinytroupe.seams import TinyTroupe
from troupelab.errors import BridgeError
from troupelab.models.chat import ChatModel
from troupelab.models.limiter import Ask
from troupelab.models.model import Model, Request

__all__ = ["model_of"]

_OLLAMA_URL = "http://localhost:11434/v1"
_USUAL_REPLY_TOKENS = 4_000
"""TinyTroupe lets replies have 128,000 tokens: as much set aside for each call would hold up all others for nothing."""


class _TroupeModel(ChatModel):
    """A ChatModel that expects replies of a usual length, however long they may be."""

    def estimate(self, request: Request) -> Ask:
        expected = min(request.max_tokens, _USUAL_REPLY_TOKENS)
        ask = super().estimate(request)
        share = (ask.tokens - request.max_tokens + expected) / max(1, ask.tokens)
        return Ask(ask.tokens - request.max_tokens + expected, ask.cost_usd * share)


def model_of(tt: TinyTroupe) -> Model:
    """The model of TinyTroupe's configuration, over one pooled session.

    Raises:
        BridgeError: its `api_type` is none that this bridge knows.
        ModelSetupError: there is no key for it.
        InputError: an address or key cannot be used.
    """
    config = tt.config
    api_type = tt.clients._api_type_override or config.get("api_type")
    name, base_url = str(config.get("model")), config.get("base_url") or None
    if api_type == "openai":
        return _TroupeModel(name, base_url=base_url)
    if api_type == "ollama":
        return _TroupeModel(name, base_url=base_url or _OLLAMA_URL)
    if api_type == "azure":
        return _TroupeModel.azure(
            name, key=os.environ.get("AZURE_OPENAI_KEY"), api_version=str(config.get("azure_api_version") or "") or None
        )
    raise BridgeError(f"TinyTroupe's api_type is {api_type!r}, which is none of openai, azure and ollama: pass model=…")
