"""How long to wait before the next retry."""

from __future__ import annotations

import random
from collections.abc import Callable

#: 2 to this power times any base exceeds any cap, and still is a finite float.
_MOST_DOUBLINGS = 60


def full_jitter(
    failures: int,
    base: float,
    cap: float,
    uniform: Callable[[], float] = random.random,
) -> float:
    """Seconds to wait after *failures* consecutive failures.

    Exponential with full jitter: uniform between 0 and the doubled delay, so that
    processes that fail together don't retry together. See
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    doublings = min(max(failures - 1, 0), _MOST_DOUBLINGS)
    return uniform() * min(cap, base * 2.0**doublings)
