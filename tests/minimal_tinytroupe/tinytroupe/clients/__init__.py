"""Who sends the model calls: clients by name, one of them in use."""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from contextlib import nullcontext

from tinytroupe import config_manager, logger

_api_type_to_client = {}
_api_type_override = None


class OpenAIClient:
    """Speaks to an OpenAI-compatible endpoint, over a new connection for each call."""

    @config_manager.config_defaults(max_concurrent_model_calls="max_concurrent_model_calls")
    def __init__(self, cache_api_calls=None, cache_file_name=None, max_concurrent_model_calls=None):
        limit = max_concurrent_model_calls
        self._concurrency_semaphore = threading.BoundedSemaphore(limit) if limit else nullcontext()
        self._lock = threading.Lock()
        self.set_api_cache(cache_api_calls, cache_file_name)
        self.reset_cost_stats()

    def set_api_cache(self, cache_api_calls, cache_file_name=None):
        self.cache_api_calls = cache_api_calls
        self.cache_file_name = cache_file_name

    def reset_cost_stats(self):
        names = ("input_tokens", "output_tokens", "total_tokens", "model_calls", "cached_calls")
        self._stats = dict.fromkeys(names, 0)

    def get_cost_stats(self):
        with self._lock:
            return dict(self._stats)

    @config_manager.config_defaults(
        model="model",
        temperature="temperature",
        max_completion_tokens="max_completion_tokens",
        timeout="timeout",
        max_attempts="max_attempts",
        waiting_time="waiting_time",
        exponential_backoff_factor="exponential_backoff_factor",
    )
    def send_message(
        self,
        current_messages,
        dedent_messages=True,
        model=None,
        temperature=None,
        max_completion_tokens=None,
        top_p=None,
        frequency_penalty=None,
        presence_penalty=None,
        stop=None,
        timeout=None,
        max_attempts=None,
        waiting_time=None,
        exponential_backoff_factor=None,
        n=1,
        response_format=None,
        enable_pydantic_model_return=False,
        echo=False,
    ):
        if isinstance(response_format, type):
            schema = {"name": response_format.__name__, "schema": response_format.model_json_schema()}
            response_format = {"type": "json_schema", "json_schema": schema}
        body = {
            "model": model,
            "messages": current_messages,
            "temperature": temperature,
            "max_completion_tokens": max_completion_tokens,
            "top_p": top_p,
            "stop": stop,
            "response_format": response_format,
        }
        body = {name: value for name, value in body.items() if value is not None}
        for attempt in range(int(max_attempts)):
            time.sleep(waiting_time * exponential_backoff_factor**attempt)
            try:
                with self._concurrency_semaphore:
                    answer = self._post("/chat/completions", body, timeout)
            except (urllib.error.URLError, OSError, ValueError) as error:
                logger.error("Attempt %d failed: %s", attempt + 1, error)
            else:
                self._count(answer.get("usage") or {})
                return dict(answer["choices"][0]["message"])
        return None

    @config_manager.config_defaults(model="embedding_model")
    def get_embedding(self, text, model=None):
        return self._post("/embeddings", {"input": [text], "model": model}, 60.0)["data"][0]["embedding"]

    def _post(self, path, body, timeout):
        address = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:9/v1").rstrip("/") + path
        key = os.environ.get("OPENAI_API_KEY", "")
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.load(answer)

    def _count(self, usage):
        with self._lock:
            self._stats["model_calls"] += 1
            self._stats["input_tokens"] += usage.get("prompt_tokens", 0)
            self._stats["output_tokens"] += usage.get("completion_tokens", 0)
            self._stats["total_tokens"] += usage.get("total_tokens", 0)


def register_client(api_type, client):
    """Know a client by a name."""
    _api_type_to_client[api_type] = client


def force_api_type(api_type):
    """Use the client of this name; None goes back to the configured one."""
    global _api_type_override
    _api_type_override = api_type


def client():
    """The client in use."""
    name = config_manager.get("api_type") if _api_type_override is None else _api_type_override
    if name not in _api_type_to_client:
        raise ValueError(f"There is no client named {name}.")
    return _api_type_to_client[name]


register_client("openai", OpenAIClient())
