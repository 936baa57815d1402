"""A pytest plugin for TinyTroupe's own tests: without any network, as TinyTroupe is (`TROUPE_SIDE=stock`) or under `accelerate` with the scripted model.

Given to a pytest of its own by `-p tinytroupe_plugin`; see test_tinytroupe_own.py.
"""

from __future__ import annotations

import os
import time
from typing import Any

_sleep = time.sleep


def pytest_sessionstart(session: Any) -> None:
    """Cut the network off, or put our bridge in its place."""
    time.sleep = lambda seconds: _sleep(min(seconds, 0.01))  # TinyTroupe waits seconds before it gives up
    if os.environ["TROUPE_SIDE"] == "stock":
        from tinytroupe import clients
        from tinytroupe.clients.openai_client import OpenAIClient

        def refused(*args: Any, **kwargs: Any) -> None:
            raise clients.InvalidRequestError("there is no network here")

        OpenAIClient._raw_model_call = refused
        return
    import troupelab as tl

    model = tl.ScriptedModel(7, latency_s=0.0)
    session.acceleration = tl.bridges.tinytroupe.accelerate(model=model, max_attempts=1).start()


def pytest_sessionfinish(session: Any) -> None:
    """Close the bridge again."""
    if hasattr(session, "acceleration"):
        session.acceleration.stop()
