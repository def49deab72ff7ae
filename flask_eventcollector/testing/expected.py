"""Describes an event that a test expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict
from unittest.mock import ANY

from ..messages.wording import type_name
from ..stores.filter import matches_name
from .captured import CapturedEvent
from .matching import (
    AMQP,
    ATTRIBUTES,
    PROPERTIES,
    Check,
    Difference,
    Medium,
    differences,
    prepare,
    prepare_key,
    readable,
    show,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: A reason: the exact text, a glob, or a pattern to search for.
Reason = str | re.Pattern[str]


class ExpectedProperties(TypedDict, total=False):
    """The properties that a test expects: values, types, patterns or predicates."""

    content_type: Any
    content_encoding: Any
    type: Any
    correlation_id: Any
    reply_to: Any
    priority: Any
    expires_in: Any
    delay: Any
    key: Any
    keep: Any
    attributes: Any


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExpectedEvent:
    """The result of :func:`event`. It is equal to each captured event that matches."""

    #: A name or a glob.
    queue: str
    payload: Any
    headers: Mapping[str, Any] | None
    #: ``None``: any exchange.
    exchange: str | None
    #: ``None``: any reason.
    reason: Reason | None
    #: Whether objects in the payload may have no other keys.
    exact: bool
    #: By name.
    properties: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"event({', '.join(self._arguments())})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, CapturedEvent):
            return self.against(other.medium).fits(other)
        return self is other if isinstance(other, ExpectedEvent) else NotImplemented

    __hash__ = object.__hash__

    def _arguments(self) -> Iterator[str]:
        yield repr(self.queue)
        if self.payload is not ANY:
            yield show(readable(self.payload))
        if self.headers is not None:
            yield f"headers={show(readable(self.headers))}"
        if self.exchange is not None:
            yield f"exchange={self.exchange!r}"
        for name, value in self.properties.items():
            yield f"{name}={show(readable(value))}"
        if self.reason is not None:
            yield f"reason={self.reason!r}"
        if self.exact:
            yield "exact=True"

    def against(self, medium: Medium) -> Wanted:
        """Prepare it for comparisons with what *medium* can carry.

        :raises TypeError: no event can match it.
        """
        payload = prepare(self.payload, medium, "payload")
        headers = prepare(self.headers or {}, AMQP, "headers")
        properties = {
            name: prepare_key(value)
            if name == "key"
            else prepare(value, _MEDIA.get(name, PROPERTIES), name)
            for name, value in self.properties.items()
        }
        reason = _reason_check(self.reason)
        return Wanted(self, payload, headers, properties, reason)


#: Of properties whose values are not those of AMQP.
_MEDIA = {"attributes": ATTRIBUTES}


@dataclass(frozen=True, slots=True)
class Wanted:
    """An expected event, prepared for comparisons."""

    expected: ExpectedEvent
    payload: Any
    headers: Any
    properties: Mapping[str, Any]
    reason: Check

    @property
    def is_anything(self) -> bool:
        """Whether it only restricts the queue."""
        is_any = self.expected.payload is ANY
        return is_any and not (self.headers or self.properties)

    def is_for(self, captured: CapturedEvent) -> bool:
        """Whether the event has the expected queue and exchange."""
        exchange = self.expected.exchange
        return matches_name(captured.queue, self.expected.queue) and (
            exchange is None or exchange == captured.exchange
        )

    def differences(self, captured: CapturedEvent) -> list[Difference]:
        """The differences in content, regardless of queue and exchange."""
        exact = self.expected.exact
        return [
            *differences(self.payload, captured.payload, "payload", exact=exact),
            *differences(self.headers, dict(captured.headers), "headers"),
            *self._property_differences(captured),
            *differences(self.reason, captured.reason, "reason"),
        ]

    def _property_differences(self, captured: CapturedEvent) -> Iterator[Difference]:
        found = asdict(captured.event.properties)
        found["content_type"] = captured.event.content_type
        found["attributes"] = self._found_attributes(captured)
        for name, value in self.properties.items():
            yield from differences(value, found[name], name)

    def _found_attributes(self, captured: CapturedEvent) -> Mapping[str, Any] | None:
        """The attributes, with ``None`` for those that are only expected."""
        expected = self.properties.get("attributes")
        missing = dict.fromkeys(expected) if isinstance(expected, dict) else {}
        return {**missing, **captured.attributes} or None

    def fits(self, captured: CapturedEvent) -> bool:
        """Whether the event matches."""
        return self.is_for(captured) and not self.differences(captured)


def event(
    queue: str,
    payload: Any = ANY,
    *,
    headers: Mapping[str, Any] | None = None,
    exchange: str | None = None,
    reason: Reason | None = None,
    exact: bool = False,
    **properties: Unpack[ExpectedProperties],
) -> ExpectedEvent:
    """Describe an event that a test expects.

    :param queue: the name of the target queue, or a glob such as ``"orders.*"``.
    :param payload: what the payload must contain, as a consumer sees it. Objects may
        have additional keys, at any depth; lists may not have additional items. A value
        may be a literal, a type, a compiled regular expression (searched for), a
        predicate, or ``unittest.mock.ANY``.
    :param headers: what the headers must contain, in the same way. ``None``: any
        headers.
    :param exchange: the name of the exchange. ``None``: any exchange.
    :param reason: why the event was discarded, retained, dropped or dead-lettered: the
        exact text, a glob, or a compiled regular expression. ``None``: any reason.
    :param exact: objects in the payload may not have additional keys.
    :param properties: the event's :class:`~flask_eventcollector.Properties`, each by
        its name and in the same way, for example ``priority=5``. ``None``: it has none.
        Of ``attributes``, what those of the CloudEvent must contain, as text.
    :returns: an :class:`ExpectedEvent`, to compare with captured events.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: *queue* is empty.
    """
    _check_type("queue", queue, str)
    _check_type("headers", headers, Mapping, type(None))
    _check_type("exchange", exchange, str, type(None))
    _check_type("reason", reason, str, re.Pattern, type(None))
    if not queue:
        raise ValueError("queue is empty: pass a name, or '*' for every queue")
    for name in properties:
        if name not in ExpectedProperties.__annotations__:
            known = ", ".join(ExpectedProperties.__annotations__)
            raise TypeError(f"event() has no argument {name!r}: there are {known}")
    return ExpectedEvent(queue, payload, headers, exchange, reason, exact, properties)


def _check_type(name: str, value: object, *kinds: type) -> None:
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise TypeError(f"{name} must be a {names}, not of type {type_name(value)}")


def _reason_check(reason: Reason | None) -> Check:
    if reason is None:
        return Check(lambda _: True, "ANY")
    if isinstance(reason, str):
        return Check(lambda found: matches_name(found, reason), repr(reason))
    return Check(reason.search, repr(reason))
