"""Whether values that come from a file are what a class declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

Fits: TypeAlias = Callable[[Any], bool]

#: In seconds: a larger one is no date. Infinity and NaN are not below it.
_LATEST = 1e11


def is_as_declared(value: Any) -> bool:
    """Whether each field of a dataclass or named tuple has its declared type.

    A ``float`` is an amount of seconds, or a moment that a date can show.
    """
    cls: Any = type(value)
    return all(fits(getattr(value, name)) for name, fits in _checks(cls).items())


@cache
def _checks(cls: Any) -> dict[str, Fits]:
    """By field of *cls*, whether a value fits it."""
    return {name: _check(hint) for name, hint in get_type_hints(cls).items()}


def _check(hint: Any) -> Fits:
    if hint is float:
        return _is_time
    if is_dataclass(hint):
        return is_as_declared
    origin, parts = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return _any_of([_check(part) for part in parts])
    if origin in (list, tuple):
        return _all_in(origin, _check(parts[0]))
    return lambda value: isinstance(value, origin or hint)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < _LATEST


def _any_of(checks: list[Fits]) -> Fits:
    return lambda value: any(fits(value) for fits in checks)


def _all_in(container: type[Iterable[Any]], fits: Fits) -> Fits:
    return lambda value: isinstance(value, container) and all(map(fits, value))
