"""Compares what a consumer would see with what a test expects."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin
from unittest.mock import ANY

from ..errors import EncodingError
from ..messages.amqp_fields import copy_table
from ..messages.as_text import as_text
from ..messages.attributes import canonical, read_attributes
from ..messages.encoding import Default, EventEncoder, Ids
from ..messages.wording import type_name

#: The longest value that a message shows, in characters.
_LONGEST = 200


class Difference(NamedTuple):
    """A difference at one place in a payload."""

    #: As in Python source: ``payload['lines'][0]``.
    path: str
    words: str

    def __str__(self) -> str:
        return f"{self.path}: {self.words}"


class Medium(NamedTuple):
    """An encoding, which may change values on their way to a consumer."""

    name: str
    #: The types that a consumer may see.
    kinds: tuple[type, ...]
    #: Converts a value to what a consumer sees, or raises.
    carry: Callable[[Any], Any]


class Check(NamedTuple):
    """A condition in place of a literal value."""

    accepts: Callable[[Any], object]
    label: str

    def __repr__(self) -> str:
        return self.label

    def problem(self, found: Any) -> str:
        """Why *found* is not accepted; ``""``: it is."""
        words = f"expected {self.label}, found {show(found)}"
        try:
            return "" if self.accepts(found) else words
        except Exception as error:
            return f"{words} ({type(error).__name__}: {error})"


# Encodings of payloads and headers.


def json_medium(default: Default) -> Medium:
    """JSON as an app's collectors encode it."""
    encoder, ids = EventEncoder(max_event_bytes=sys.maxsize, default=default), Ids()

    def carry(value: Any) -> Any:
        return encoder.encode(value, "expected", ids=ids).payload

    return Medium("JSON", (dict, list, str, int, float, bool, NoneType), carry)


def _through_amqp(value: Any) -> Any:
    return copy_table({"x": value}, "headers")[0]["x"]


AMQP = Medium(
    "AMQP",
    (dict, list, str, bytes, int, bool, NoneType),
    _through_amqp,
)


def _as_property(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    text = as_text(value)
    if text is None and not isinstance(value, (str, int, float, NoneType)):
        raise TypeError(type_name(value))
    return value if text is None else text


PROPERTIES = Medium("a property", (str, int, float, NoneType), _as_property)


def _as_attribute(value: Any) -> Any:
    if value is None or isinstance(value, dict):
        return value
    read = read_attributes({"expected": value}, replace=True, is_short=False)
    return canonical(read["expected"])


ATTRIBUTES = Medium("an attribute", (dict, str, NoneType), _as_attribute)


# Expectations.


def prepare(expected: Any, medium: Medium, path: str) -> Any:
    """Convert *expected* to plain values and checks.

    :raises TypeError: it contains a value that no event can match.
    """
    if path == "payload" and isinstance(expected, bytes):
        # It was enqueued as bytes.
        return expected
    if dataclasses.is_dataclass(expected) and not isinstance(expected, type):
        names = [field.name for field in dataclasses.fields(expected)]
        expected = {name: getattr(expected, name) for name in names}
    if isinstance(expected, Mapping):
        return {
            _key(key, medium, path): prepare(value, medium, f"{path}[{key!r}]")
            for key, value in expected.items()
        }
    if isinstance(expected, (list, tuple)):
        items = enumerate(expected)
        return [prepare(item, medium, f"{path}[{index}]") for index, item in items]
    return _prepare_leaf(expected, medium, path)


def prepare_key(expected: Any) -> Check:
    """Convert an expected ``key``, which is compared as it is: it is not sent."""
    if isinstance(expected, type):
        return Check(lambda found: _is_of(found, (expected,)), expected.__name__)
    if isinstance(expected, re.Pattern):
        return _pattern(expected, PROPERTIES, "key")
    if callable(expected):
        return Check(expected, _name(expected))
    return Check(lambda found: expected == found, show(expected))


def _key(key: Any, medium: Medium, path: str) -> str:
    (carried,) = _carry({key: None}, medium, path)
    return str(carried)


def _prepare_leaf(expected: Any, medium: Medium, path: str) -> Any:
    if expected is ANY:
        return Check(lambda _: True, "ANY")
    if isinstance(expected, re.Pattern):
        return _pattern(expected, medium, path)
    if isinstance(expected, type) or get_origin(expected):
        return _kind(expected, medium, path)
    if callable(expected):
        return Check(expected, _name(expected))
    if _compares_itself(expected):
        return _literal_or_equal(expected, medium, path)
    return _carry(expected, medium, path)


def _pattern(pattern: re.Pattern[Any], medium: Medium, path: str) -> Check:
    kind = type(pattern.pattern)
    if kind not in medium.kinds:
        raise _misuse(path, f"a pattern for {kind.__name__}, which", medium)
    return Check(
        lambda found: isinstance(found, kind) and pattern.search(found),
        f"re.compile({pattern.pattern!r})",
    )


def _kind(expected: Any, medium: Medium, path: str) -> Check:
    union = get_origin(expected) in (Union, UnionType)
    kinds = get_args(expected) if union else (expected,)
    label = str(expected) if get_origin(expected) else expected.__name__
    possible = not any(get_origin(kind) for kind in kinds) and any(
        issubclass(kind, kinds) for kind in medium.kinds
    )
    if not possible:
        raise _misuse(path, f"the type {label}, which", medium)
    return Check(lambda found: _is_of(found, kinds), label)


def _is_of(found: Any, kinds: tuple[type, ...]) -> bool:
    # bool is a subclass of int, but JSON's true is not a number.
    if isinstance(found, bool):
        return any(issubclass(bool, kind) for kind in kinds if kind is not int)
    return isinstance(found, kinds)


def _compares_itself(expected: Any) -> bool:
    """Whether it is a matcher of another library, such as ``pytest.approx``."""
    kind = type(expected)
    own = any("__eq__" in vars(base) for base in kind.__mro__[:-1])
    return own and kind.__module__ != "builtins"


def _literal_or_equal(expected: Any, medium: Medium, path: str) -> Any:
    try:
        return _carry(expected, medium, path)
    except TypeError:
        return Check(lambda found: expected == found, show(expected))


def _carry(value: Any, medium: Medium, path: str) -> Any:
    try:
        return medium.carry(value)
    except (EncodingError, TypeError, ValueError) as error:
        kind = f"of type {type_name(value)}, which"
        raise _misuse(path, kind, medium) from error


def _misuse(path: str, what: str, medium: Medium) -> TypeError:
    kinds = ", ".join(kind.__name__ for kind in medium.kinds)
    return TypeError(
        f"the expected {path} is {what} {medium.name} can't represent, so no event can"
        f" match it: expect what a consumer sees ({kinds}), or a predicate"
    )


def _name(predicate: Callable[..., Any]) -> str:
    code = getattr(predicate, "__code__", None)
    name: str = getattr(predicate, "__name__", None) or show(predicate)
    if name == "<lambda>" and code is not None:
        return f"<lambda in {Path(code.co_filename).name}:{code.co_firstlineno}>"
    return name


# The comparison.


def differences(
    expected: Any, found: Any, path: str, *, exact: bool = False
) -> Iterator[Difference]:
    """Each place where *found* is not as the prepared *expected* wants it.

    Objects may have more keys than expected, unless *exact*.
    """
    if isinstance(expected, Check):
        problem = expected.problem(found)
        if problem:
            yield Difference(path, problem)
    elif isinstance(expected, dict) and isinstance(found, dict):
        yield from _object_differences(expected, found, path, exact=exact)
    elif isinstance(expected, list) and isinstance(found, list):
        yield from _list_differences(expected, found, path, exact=exact)
    elif not _is_same(expected, found):
        yield Difference(path, f"expected {show(expected)}, found {show(found)}")


def _object_differences(
    expected: dict[str, Any], found: dict[str, Any], path: str, *, exact: bool
) -> Iterator[Difference]:
    for key, value in expected.items():
        place = f"{path}[{key!r}]"
        if key in found:
            yield from differences(value, found[key], place, exact=exact)
        else:
            yield Difference(place, f"expected {show(value)}, but it is missing")
    for key in found:
        if exact and key not in expected:
            yield Difference(f"{path}[{key!r}]", f"not expected: {show(found[key])}")


def _list_differences(
    expected: list[Any], found: list[Any], path: str, *, exact: bool
) -> Iterator[Difference]:
    for index, (value, other) in enumerate(zip(expected, found, strict=False)):
        yield from differences(value, other, f"{path}[{index}]", exact=exact)
    for index in range(len(found), len(expected)):
        words = f"expected {show(expected[index])}, but it is missing"
        yield Difference(f"{path}[{index}]", words)
    for index in range(len(expected), len(found)):
        yield Difference(f"{path}[{index}]", f"not expected: {show(found[index])}")


def _is_same(expected: Any, found: Any) -> bool:
    # In Python, True == 1.
    return isinstance(expected, bool) == isinstance(found, bool) and expected == found


def checked_queues(queues: Sequence[object], call: str) -> list[str]:
    """*queues*, if they are names or globs; *call* is what got them."""
    if not queues:
        raise TypeError(f"{call}() expects a queue or a glob, such as {call}('auth.*')")
    for queue in queues:
        if not isinstance(queue, str):
            raise TypeError(
                f"{call}() expects queues as str, not of type {type_name(queue)}: write"
                f" {call}('auth.*', 'audit.*')"
            )
        if not queue:
            raise ValueError(
                f"{call}() got an empty queue: pass a name, or '*' for every queue"
            )
    return [str(queue) for queue in queues]


class _Words(str):
    """Its ``repr`` is itself."""

    __slots__ = ()
    __repr__ = str.__str__


def readable(expected: Any) -> Any:
    """*expected* with types and predicates replaced by their names, for messages."""
    if isinstance(expected, Mapping):
        return {key: readable(value) for key, value in expected.items()}
    if isinstance(expected, (list, tuple)):
        return [readable(value) for value in expected]
    if expected is ANY:
        return _Words("ANY")
    if isinstance(expected, type):
        return _Words(expected.__name__)
    if callable(expected) and not get_origin(expected):
        return _Words(_name(expected))
    return expected


def show(value: Any) -> str:
    """The ``repr`` of *value*, truncated if long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
