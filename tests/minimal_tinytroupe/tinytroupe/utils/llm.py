"""A conversation with the model in a few lines."""

import json


class LLMChat:
    """One system message and one user message, and what the model says to them."""

    def __init__(self, system_prompt=None, user_prompt=None, **model_params):
        self.messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": user_prompt}]
        self.model_params = model_params

    def call(self):
        from tinytroupe.clients import client

        reply = client().send_message(self.messages, **self.model_params)
        return None if reply is None else reply["content"]


def extract_json(text):
    """The object in a text, from its first brace to its last; empty when there is none."""
    try:
        return json.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError:
        return {}


def repeat_on_error(retries, exceptions):
    """Call again where one of these exceptions comes up, up to `retries` times in all."""

    def decorator(func):
        def wrapper(*args, **kwargs):
            for attempt in range(retries):
                try:
                    return func(*args, **kwargs)
                except tuple(exceptions):
                    if attempt == retries - 1:
                        raise
            return None

        return wrapper

    return decorator
