"""The assertions on captured events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload
from unittest.mock import ANY

from ..messages.wording import counted, type_name
from .captured import CapturedEvent, CapturedEvents, Fate
from .expected import ExpectedEvent, ExpectedProperties, Reason, Wanted, event
from .explaining import (
    Explainer,
    Situation,
    described,
    passed_over,
    unexpected,
)
from .recording import Record
from .sequences import longest_run, longest_subsequence

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Assertions:
    """Assertions on what was captured so far. None of them blocks.

    For *queue*, *payload*, *headers*, *exchange*, *reason*, *exact* and *properties*,
    see :func:`~flask_eventcollector.testing.event`. *times* is the exact number of
    matching events; ``None``: one or more. Events that an assertion matches count as
    asserted on. Every assertion raises :exc:`AssertionError` if it fails, and
    :exc:`TypeError` or :exc:`ValueError` if an argument is invalid.
    """

    # Provided by the capture.

    @property
    def _record(self) -> Record:
        raise NotImplementedError

    def _situation(self) -> Situation:
        raise NotImplementedError

    # What must have happened.

    @overload
    def assert_enqueued(
        self,
        queue: str,
        payload: Any = ...,
        *,
        headers: Mapping[str, Any] | None = ...,
        exchange: str | None = ...,
        exact: bool = ...,
        times: None = ...,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvent: ...
    @overload
    def assert_enqueued(
        self,
        queue: str,
        payload: Any = ...,
        *,
        headers: Mapping[str, Any] | None = ...,
        exchange: str | None = ...,
        exact: bool = ...,
        times: int,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvents: ...
    def assert_enqueued(
        self,
        queue: str,
        payload: Any = ANY,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        exact: bool = False,
        times: int | None = None,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvent | CapturedEvents:
        """Assert that such an event was enqueued, whatever has become of it.

        :returns: the first match; with *times*, the list of all matches.
        """
        __tracebackhide__ = True
        expected = event(
            queue,
            payload,
            headers=headers,
            exchange=exchange,
            exact=exact,
            **properties,
        )
        return self._assert_fate(Fate.ENQUEUED, expected, times)

    @overload
    def assert_published(
        self,
        queue: str,
        payload: Any = ...,
        *,
        headers: Mapping[str, Any] | None = ...,
        exchange: str | None = ...,
        exact: bool = ...,
        times: None = ...,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvent: ...
    @overload
    def assert_published(
        self,
        queue: str,
        payload: Any = ...,
        *,
        headers: Mapping[str, Any] | None = ...,
        exchange: str | None = ...,
        exact: bool = ...,
        times: int,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvents: ...
    def assert_published(
        self,
        queue: str,
        payload: Any = ANY,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        exact: bool = False,
        times: int | None = None,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvent | CapturedEvents:
        """Assert that the broker has confirmed such an event.

        :returns: the first match; with *times*, the list of all matches.
        """
        __tracebackhide__ = True
        expected = event(
            queue,
            payload,
            headers=headers,
            exchange=exchange,
            exact=exact,
            **properties,
        )
        return self._assert_fate(Fate.PUBLISHED, expected, times)

    @overload
    def assert_discarded(
        self,
        queue: str,
        payload: Any = ...,
        *,
        headers: Mapping[str, Any] | None = ...,
        exchange: str | None = ...,
        reason: Reason | None = ...,
        exact: bool = ...,
        times: None = ...,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvent: ...
    @overload
    def assert_discarded(
        self,
        queue: str,
        payload: Any = ...,
        *,
        headers: Mapping[str, Any] | None = ...,
        exchange: str | None = ...,
        reason: Reason | None = ...,
        exact: bool = ...,
        times: int,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvents: ...
    def assert_discarded(
        self,
        queue: str,
        payload: Any = ANY,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        reason: Reason | None = None,
        exact: bool = False,
        times: int | None = None,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvent | CapturedEvents:
        """Assert that such an event was discarded with its unit of work, or cleared.

        :returns: the first match; with *times*, the list of all matches.
        """
        __tracebackhide__ = True
        expected = event(
            queue,
            payload,
            headers=headers,
            exchange=exchange,
            reason=reason,
            exact=exact,
            **properties,
        )
        return self._assert_fate(Fate.DISCARDED, expected, times)

    @overload
    def assert_retained(
        self,
        queue: str,
        payload: Any = ...,
        *,
        headers: Mapping[str, Any] | None = ...,
        exchange: str | None = ...,
        reason: Reason | None = ...,
        exact: bool = ...,
        times: None = ...,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvent: ...
    @overload
    def assert_retained(
        self,
        queue: str,
        payload: Any = ...,
        *,
        headers: Mapping[str, Any] | None = ...,
        exchange: str | None = ...,
        reason: Reason | None = ...,
        exact: bool = ...,
        times: int,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvents: ...
    def assert_retained(
        self,
        queue: str,
        payload: Any = ANY,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        reason: Reason | None = None,
        exact: bool = False,
        times: int | None = None,
        **properties: Unpack[ExpectedProperties],
    ) -> CapturedEvent | CapturedEvents:
        """Assert that such an event is retained for retry.

        :returns: the first match; with *times*, the list of all matches.
        """
        __tracebackhide__ = True
        expected = event(
            queue,
            payload,
            headers=headers,
            exchange=exchange,
            reason=reason,
            exact=exact,
            **properties,
        )
        return self._assert_fate(Fate.RETAINED, expected, times)

    def assert_sequence(
        self, expected: Sequence[ExpectedEvent | str], *, strict: bool = False
    ) -> CapturedEvents:
        """Assert that these events were published in this order.

        :param expected: a list of results of
            :func:`~flask_eventcollector.testing.event`. A str (the name of a queue, or
            a glob) matches an event with any payload.
        :param strict: allow no other events between them.
        :returns: the matching events.
        """
        __tracebackhide__ = True
        wanted = [self._prepared(item) for item in _sequence(expected)]
        search = longest_run if strict else longest_subsequence
        found = search(wanted, self._record.having(Fate.PUBLISHED))
        if len(found) < len(wanted):
            explainer = self._explainer()
            _fail(explainer.out_of_order(wanted, found, strict=strict))
        return self._noted(found)

    # What must not have happened.

    def assert_not_published(
        self,
        queue: str,
        payload: Any = ANY,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        exact: bool = False,
        **properties: Unpack[ExpectedProperties],
    ) -> None:
        """Assert that the broker has confirmed no such event."""
        __tracebackhide__ = True
        expected = event(
            queue,
            payload,
            headers=headers,
            exchange=exchange,
            exact=exact,
            **properties,
        )
        found = self._fitting(Fate.PUBLISHED, self._prepared(expected))
        if found:
            what = described(Fate.PUBLISHED, expected)
            _fail(unexpected(f"expected no event {what}", found))

    def assert_nothing_published(self) -> None:
        """Assert that the broker has confirmed no event."""
        __tracebackhide__ = True
        found = self._record.having(Fate.PUBLISHED)
        if found:
            _fail(unexpected("expected nothing to be published", found))

    def assert_no_others(self) -> None:
        """Assert that every published event was matched by some assertion.

        Events for queues that :meth:`ignore` names are left out.
        """
        __tracebackhide__ = True
        others = self._record.others()
        if others:
            _fail(passed_over(others, self._situation().name))

    # Inside.

    def _assert_fate(
        self, fate: Fate, expected: ExpectedEvent, times: int | None
    ) -> CapturedEvent | CapturedEvents:
        __tracebackhide__ = True
        _check_times(times)
        wanted = self._prepared(expected)
        found = self._fitting(fate, wanted)
        if len(found) < (times or 1):
            _fail(self._explainer().missing(fate, wanted, times, found))
        if times is not None and len(found) > times:
            what = f"{counted(times, 'event')} {described(fate, expected)}"
            _fail(unexpected(f"expected {what}", found))
        noted = self._noted(found)
        return noted[0] if times is None else noted

    def _prepared(self, expected: ExpectedEvent) -> Wanted:
        return expected.against(self._record.medium)

    def _fitting(self, fate: Fate, wanted: Wanted) -> list[CapturedEvent]:
        return [event for event in self._record.having(fate) if wanted.fits(event)]

    def _noted(self, found: Sequence[CapturedEvent]) -> CapturedEvents:
        self._record.note_asserted(found)
        return CapturedEvents(found, self._record.note_asserted)

    def _explainer(self) -> Explainer:
        return Explainer(self._record.everything(), self._situation())


def _check_times(times: int | None) -> None:
    if times is None:
        return
    if isinstance(times, bool) or not isinstance(times, int):
        raise TypeError(f"times must be an int, not of type {type_name(times)}")
    if times < 1:
        raise ValueError(
            f"times must be 1 or more, not {times}: to expect none, use"
            " assert_not_published()"
        )


def _sequence(expected: object) -> list[ExpectedEvent]:
    if not isinstance(expected, (list, tuple)):
        raise TypeError(
            f"assert_sequence() expects a list of events, not {type_name(expected)}"
        )
    if not expected:
        raise ValueError(
            "assert_sequence() got an empty list: to expect no event, use"
            " assert_nothing_published()"
        )
    return [event(item) if isinstance(item, str) else _event(item) for item in expected]


def _event(item: object) -> ExpectedEvent:
    if not isinstance(item, ExpectedEvent):
        raise TypeError(
            "assert_sequence() expects results of event(), or names of queues, not"
            f" {type_name(item)}"
        )
    return item


def _fail(message: str) -> None:
    __tracebackhide__ = True
    raise AssertionError(message)
