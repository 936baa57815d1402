"""When a failed attempt is made again, and after how long: exponential backoff with full jitter, under one deadline.

Full jitter (a wait drawn evenly between nothing and the backoff) spreads those who failed together best
(aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter). What the endpoint asks for in Retry-After is honoured: the
wait begins there. A busy endpoint (429) is waited for until the deadline; all other failures also count as attempts.
Pure; any thread may call it.
"""

from __future__ import annotations

import math

from troupelab.errors import ModelBusyError, ModelError, ModelUnavailableError
from troupelab.ids import uniform

__all__ = ["BASE_S", "MOST_S", "wait_before_retry"]

BASE_S = 0.5
"""The first wait is drawn from 0 to so many seconds; each next one from twice as much."""

MOST_S = 20.0
"""No backoff is longer than this, unless the endpoint asks for more."""


def wait_before_retry(
    error: ModelError, *, attempt: int, failures: int, max_attempts: int, left_s: float, seed: int
) -> float:
    """Seconds to wait before a request is sent again; infinity where it should not be.

    Args:
        error: why the last attempt failed.
        attempt: how many attempts were made, from 1.
        failures: how many of these failed for another reason than a busy endpoint.
        max_attempts: how many may.
        left_s: what is left of the deadline.
        seed: the request's, so that the jitter is the same in every run.

    >>> wait_before_retry(ModelError("no"), attempt=1, failures=1, max_attempts=5, left_s=60.0, seed=7)
    inf
    >>> busy = ModelBusyError("later", retry_after_s=2.0)
    >>> 2.0 <= wait_before_retry(busy, attempt=1, failures=0, max_attempts=5, left_s=60.0, seed=7) <= 2.5
    True
    """
    if not isinstance(error, ModelUnavailableError):
        return math.inf
    if failures >= max_attempts and not isinstance(error, ModelBusyError):
        return math.inf
    backoff_s = min(MOST_S, BASE_S * 2.0 ** min(attempt - 1, 16))
    wait_s = (error.retry_after_s or 0.0) + backoff_s * uniform(seed, "retry", attempt=attempt)
    return wait_s if wait_s < left_s else math.inf
