"""Explains why a payload can't be encoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

from .wording import REPLACE_CURE, Cures, cure_for, quote_key, type_name

_TEACH = "convert it to plain values, or add the type to app.json's default()"

_CURES: Cures = (
    ((set, frozenset), "send a list, e.g. sorted(value)"),
    ((bytes, bytearray, memoryview), "decode it, or send it as base64"),
    ((Decimal,), "it is not a finite number, send None"),
    ((complex,), "send it as a string"),
    ((timedelta,), "send value.total_seconds()"),
    ((type,), "send an instance, or its name"),
    ((Mapping,), "send dict(value)"),
    ((Iterable,), "send list(value)"),
)

_DEEPEST = 1000
#: The stack may have been nearly full before the encoder began.
_DEEPEST_AFTER_RECURSION = 100


#: What the JSON encoder itself raises.
_ENCODER_ERRORS = (TypeError, ValueError, UnicodeEncodeError, RecursionError)


class _BadValueError(Exception):
    """Why a value can't be encoded, with the cure."""

    def __init__(
        self, reason: str, kinds: tuple[type[Exception], ...] = _ENCODER_ERRORS
    ) -> None:
        super().__init__(reason)
        #: What such a value makes the encoder raise.
        self.kinds = kinds


class _Node(NamedTuple):
    """A value in the payload, with the path to it."""

    value: Any
    step: str = "payload"
    parent: _Node | None = None
    depth: int = 0

    def child(self, value: Any, step: str = "") -> _Node:
        return _Node(value, step, self, self.depth + 1)

    def ancestors(self) -> Iterable[_Node]:
        node = self.parent
        while node:
            yield node
            node = node.parent

    def path(self) -> str:
        steps = [self.step, *(node.step for node in self.ancestors())][::-1]
        steps = [step for step in steps if step]
        if len(steps) > 20:
            steps[10:-5] = ["…"]
        return "".join(steps)


#: Converts a value that JSON does not have, or raises.
Convert = Callable[[Any], Any]


def explain(payload: Any, convert: Convert, error: Exception) -> str | None:
    """Describe the cause of *error*; ``None``: it is not the payload.

    A signal handler, for example of a time limit, may raise while the encoder runs, or
    in here. So an exception that is neither the encoder's own nor raised again by the
    payload's own code has another cause. Called only after the encoder has failed.
    """
    kind = type(error)
    found = None
    try:
        found = _search(payload, convert, kind)
    except Exception as again:
        if type(again) is not kind:
            raise
        # The payload's own code raised, for example in ``items()``. Its message may
        # contain values, so only the chained exception shows it.
    else:
        if found is None and kind not in _ENCODER_ERRORS:
            return None
    return found or (
        f"payload of type {type_name(payload)} can't be encoded"
        f" ({kind.__name__}): build it from plain dicts, lists and strings"
    )


def _search(payload: Any, convert: Convert, kind: type[Exception]) -> str | None:
    """Visit the payload in the encoder's order, up to the first bad value.

    ``None``: there is none, or not one that makes the encoder raise a *kind*.
    """
    deepest = _DEEPEST_AFTER_RECURSION if kind is RecursionError else _DEEPEST
    nodes = [_Node(payload)]
    while nodes:
        node = nodes.pop()
        try:
            nodes.extend(reversed(_children(node, convert, deepest, kind)))
        except _BadValueError as bad:
            return f"{node.path()} {bad}" if kind in bad.kinds else None
    return None


def _children(
    node: _Node, convert: Convert, deepest: int, kind: type[Exception]
) -> list[_Node]:
    value = node.value
    if value is None or isinstance(value, (str, int, float)):
        _check_scalar(value, kind)
        return []
    _check_place(node, deepest)
    if isinstance(value, (list, tuple)):
        return [node.child(item, f"[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        _check_keys(value, kind)
        return [node.child(item, f"[{quote_key(key)}]") for key, item in value.items()]
    return [node.child(_converted(value, convert, kind))]


def _check_scalar(
    value: str | int | float | None, kind: type[Exception], what: str = "is"
) -> None:
    # Otherwise, the encoder has not reached it, or it would have been replaced.
    in_question = kind is UnicodeEncodeError
    if in_question and isinstance(value, str) and not _is_unicode(value):
        raise _BadValueError(
            f"{what} a str with a lone surrogate, which UTF-8 can't encode:"
            f" {REPLACE_CURE}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise _BadValueError(
            f"{what} a float that is not a finite number, which JSON does not have:"
            " send None"
        )
    if isinstance(value, int) and not _has_digits(value):
        raise _BadValueError(
            f"{what} an int with too many digits: send it as a string, e.g. hex(value)"
        )


def _check_place(node: _Node, deepest: int) -> None:
    if any(node.value is above.value for above in node.ancestors()):
        raise _BadValueError(
            f"is a {type_name(node.value)} that contains itself:"
            " send a copy without the circular reference"
        )
    if node.depth > deepest:
        raise _BadValueError("is nested too deeply: flatten it")


def _check_keys(value: dict[Any, Any], kind: type[Exception]) -> None:
    for key in value:
        if key is not None and not isinstance(key, (str, int, float)):
            raise _BadValueError(
                f"has a key of type {type_name(key)}, which JSON does not have:"
                f" use {'key.value' if isinstance(key, Enum) else 'str(key)'}"
            )
        _check_scalar(key, kind, "has as a key")


def _converted(value: Any, convert: Convert, kind: type[Exception]) -> Any:
    try:
        return convert(value)
    except TypeError:
        raise _BadValueError(
            f"is of type {type_name(value)}, which JSON does not have:"
            f" {cure_for(value, _CURES, _TEACH)}"
        ) from None
    except Exception as again:
        if type(again) is not kind:
            raise
        raise _BadValueError(
            f"is of type {type_name(value)}, whose conversion raised"
            f" {kind.__name__}: convert it to plain values first",
            (kind,),
        ) from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_digits(value: int) -> bool:
    try:
        int.__repr__(value)
    except ValueError:  # sys.set_int_max_str_digits
        return False
    return True
