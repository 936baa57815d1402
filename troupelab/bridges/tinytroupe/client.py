"""The client that TinyTroupe asks: it takes each question to the pipeline of whoever asks.

There is one for the process while any bridge is open. A question of a member goes to its troupe; any other to the troupe that was opened
last for everybody, and where there is none to the client that TinyTroupe had before. Any thread or greenlet may call it; it never returns None.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import Any

from troupelab.bridges.tinytroupe.form import form_of
from troupelab.bridges.tinytroupe.member import CALLER
from troupelab.bridges.tinytroupe.seams import TinyTroupe
from troupelab.bridges.tinytroupe.troupe import Troupe
from troupelab.models.model import ChatMessage

__all__ = ["CACHE_SUFFIX", "Client"]

CACHE_SUFFIX = ".troupelab"
"""What our file of replies has behind the name of TinyTroupe's."""

_STATISTICS = ("input_tokens", "output_tokens", "total_tokens", "model_calls", "cached_calls")
_ASIDE = ("top_p", "frequency_penalty", "presence_penalty")


class Client:
    """Answers what TinyTroupe asks of a client.

    Args:
        tt: TinyTroupe.
        before: the client that it had.
        everybodys: the troupe for questions of nobody in particular; None where there is none.
    """

    def __init__(self, tt: TinyTroupe, before: Any, everybodys: Callable[[], Troupe | None]) -> None:
        self._tt = tt
        self._before = before
        self._everybodys = everybodys

    def _troupe(self) -> Troupe | None:
        caller = CALLER.get()
        troupe = self._everybodys() if caller is None else caller.troupe
        return troupe if troupe is not None and troupe.hub.is_open else None

    def send_message(
        self,
        current_messages: list[dict[str, Any]],
        dedent_messages: bool = True,
        model: str | None = None,
        temperature: float | None = None,
        max_completion_tokens: int | None = None,
        top_p: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        stop: Any = None,
        timeout: float | None = None,
        max_attempts: float | None = None,
        waiting_time: float | None = None,
        exponential_backoff_factor: float | None = None,
        n: int = 1,
        response_format: Any = None,
        enable_pydantic_model_return: bool = False,
        echo: bool = False,
    ) -> Any:
        """Put a question to the model. How often and how long it is tried is the limits' to say; what TinyTroupe says of that is passed over.

        Raises:
            ModelError: no usable reply came.
        """
        given = {
            "dedent_messages": dedent_messages, "model": model, "temperature": temperature,
            "max_completion_tokens": max_completion_tokens, "top_p": top_p, "frequency_penalty": frequency_penalty,
            "presence_penalty": presence_penalty, "stop": stop, "timeout": timeout, "max_attempts": max_attempts,
            "waiting_time": waiting_time, "exponential_backoff_factor": exponential_backoff_factor, "n": n,
            "response_format": response_format, "enable_pydantic_model_return": enable_pydantic_model_return, "echo": echo,
        }  # fmt: skip
        troupe = self._troupe()
        if troupe is None:
            return self._before.send_message(current_messages, **given)
        messages = tuple(
            ChatMessage(str(each["role"]), _text(each.get("content"), dedent=dedent_messages))
            for each in current_messages
        )
        content, value = troupe.ask(messages, form_of(response_format), self._settings(given))
        if enable_pydantic_model_return and value is not None and not isinstance(value, dict):
            return value
        return {"role": "assistant", "content": content}

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """What the endpoint is told beside the messages: what was asked for, or else what TinyTroupe's configuration says."""
        config = self._tt.config
        settings: dict[str, Any] = {name: given[name] for name in _ASIDE if given[name] is not None}
        if given["stop"] is not None:
            settings["stop"] = given["stop"]
        if given["model"] is not None and given["model"] != config.get("model"):
            settings["model"] = given["model"]
        temperature = given["temperature"] if given["temperature"] is not None else config.get("temperature")
        if temperature is not None:
            settings["temperature"] = float(temperature)
        most = given["max_completion_tokens"] or config.get("max_completion_tokens")
        if most:
            settings["max_tokens"] = int(most)
        for name in ("frequency_penalty", "presence_penalty"):
            if name not in settings and config.get(name):
                settings[name] = config.get(name)
        return settings

    # ------------------------------------------------------------------ the rest of what TinyTroupe asks of a client

    def set_api_cache(self, cache_api_calls: bool, cache_file_name: str | None = None) -> None:
        """Keep replies in a file beside the one that is named (or that TinyTroupe's configuration names), or no longer; from now on."""
        troupe = self._troupe()
        if troupe is None:
            self._before.set_api_cache(cache_api_calls, cache_file_name)
            return
        name = cache_file_name or self._tt.config.get("cache_file_name")
        pipeline = troupe.pipeline

        def change() -> None:
            pipeline.close_cache()
            pipeline.open_cache(f"{name}{CACHE_SUFFIX}" if cache_api_calls else False)

        troupe.hub.do(change)

    def get_cost_stats(self) -> dict[str, int]:
        """What the calls of the troupe that asks have taken, in TinyTroupe's words."""
        troupe = self._troupe()
        if troupe is None:
            found: dict[str, int] = self._before.get_cost_stats()
            return found
        return {name: troupe.spent[name] for name in _STATISTICS}

    def reset_cost_stats(self) -> None:
        """Count anew."""
        troupe = self._troupe()
        if troupe is None:
            self._before.reset_cost_stats()
        else:
            troupe.spent.clear()

    def get_embedding(self, text: str, model: str | None = None) -> list[float]:
        """The vector of a text, by the bridge's embedder, or where it has none by the client that TinyTroupe had."""
        troupe = self._troupe()
        embedder = None if troupe is None or model is not None else troupe.pool.embedder
        if embedder is None:
            found: list[float] = self._before.get_embedding(text, model)
            return found
        return [float(each) for each in embedder.embed([text])[0]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)


def _text(content: Any, *, dedent: bool) -> str:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
    if dedent and "\n" in text:
        text = textwrap.dedent(text)
    return text.strip() if dedent else text
