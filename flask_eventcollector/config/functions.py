"""Recognises the app's own functions among the settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeGuard


def is_function(value: object) -> TypeGuard[Callable[..., Any]]:
    """Whether *value* can be called, without a need to await what it returns.

    A coroutine is true, whatever it would return, and never runs.
    """
    called = (value, getattr(value, "__call__", None))  # noqa: B004
    return callable(value) and not any(map(inspect.iscoroutinefunction, called))
