"""Writes the messages of failed assertions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from unittest.mock import ANY

from ..messages.wording import counted
from .captured import CapturedEvent, Fate
from .expected import ExpectedEvent, Wanted
from .matching import readable, show

#: The most events in a list, differences of one event, and hints.
_MOST_EVENTS = 20
_MOST_DIFFERENCES = 10
_MOST_HINTS = 3

#: The name of pytest's fixture, which has a marker too.
_FIXTURE = "captured_events"

_VERBS = {
    Fate.ENQUEUED: "enqueued for",
    Fate.PUBLISHED: "published to",
    Fate.UNROUTED: "unrouted for",
    Fate.RETAINED: "retained for",
    Fate.DISCARDED: "discarded for",
    Fate.DROPPED: "dropped for",
    Fate.DEAD: "dead-lettered for",
}

#: Explanations of the library's shortest reasons.
_REASONS = {
    "cleared": "clear_events_to_publish() was called",
    "expired": "its expires_in has passed",
    "overflow": "EVENTCOLLECTOR_MAX_EVENTS or EVENTCOLLECTOR_MAX_BYTES was reached",
    "purged": "purge() was called",
}

_WAITS_FOR = {
    "request": (
        "its request has not been torn down (leave the `with` block of the test client;"
        " wrap the test's own code in `with events.auto_publish():`)"
    ),
    "block": (
        "the auto_publish() block around it has not ended (assert after it, or call"
        " `events.publish()` in it)"
    ),
    "thread": (
        "it was enqueued outside of requests and blocks (wrap the code in"
        " `with events.auto_publish():`, or call `events.publish()`)"
    ),
}

_OR_FOR_A_COMMIT = ", or the transaction that it belongs to has not been committed"


@dataclass(frozen=True)
class Situation:
    """What hints depend on, besides the events."""

    #: The variable in which the test has its capture.
    name: str
    #: Whether an event is still in a collector.
    is_collected: Callable[[CapturedEvent], bool]
    #: Whether the capture still receives signals.
    is_listening: bool
    #: Whether a test keeps events from reaching the broker.
    is_down: bool
    #: Whether transactions hold events back.
    has_sessions: bool

    def delivering(self, *before: str) -> str:
        """The code that delivers what waits, after *before*."""
        up = [f"{self.name}.broker_up()"] if self.is_down else []
        code = "; ".join([*before, *up, f"{self.name}.flush()"])
        when = "" if self.is_listening else " before the end of the capture's block"
        return f"`{code}`{when}"


class Explainer:
    """Searches all captured events for what a test may have meant."""

    def __init__(
        self, everything: Sequence[CapturedEvent], situation: Situation
    ) -> None:
        self._everything = everything
        self._situation = situation

    def missing(
        self, fate: Fate, wanted: Wanted, times: int | None, found: list[CapturedEvent]
    ) -> str:
        """The message for fewer events than expected."""
        summary = (
            f"expected {_number(times)} {described(fate, wanted.expected)},"
            f" but found {len(found) or 'none'}"
        )
        return _joined(
            listed(summary, found),
            self._what_else(fate, wanted, found),
            "" if found else self._all_of(fate),
        )

    def out_of_order(
        self, wanted: Sequence[Wanted], found: Sequence[CapturedEvent], *, strict: bool
    ) -> str:
        """The message for a sequence of which only *found* matched."""
        missing = wanted[len(found)]
        others = " with no others between" if strict else ""
        events = counted(len(wanted), "event")
        lines = [
            f"expected {events} published in this order{others}:",
            *(f"  found      {event!r}{at(event)}" for event in found),
            f"  not found  {missing.expected!r}",
            *(f"  …          {w.expected!r}" for w in wanted[len(found) + 1 :]),
        ]
        return _joined(
            "\n".join(lines),
            self._too_early(missing, found),
            self._what_else(Fate.PUBLISHED, missing, found),
            self._all_of(Fate.PUBLISHED),
        )

    def _too_early(self, missing: Wanted, found: Sequence[CapturedEvent]) -> str:
        others = [event for event in self._everything if event not in found]
        for event in others:
            if event.fate is Fate.PUBLISHED and missing.fits(event):
                return (
                    f"Hint: such an event{at(event)} was published, but out of order."
                )
        return ""

    def _what_else(
        self, fate: Fate, wanted: Wanted, found: Sequence[CapturedEvent]
    ) -> str:
        others = [event for event in self._everything if event not in found]
        return _joined(
            self._closest(fate, wanted, others), self._hints(fate, wanted, others)
        )

    def _closest(
        self, fate: Fate, wanted: Wanted, events: Iterable[CapturedEvent]
    ) -> str:
        """The event for the same queue with the fewest differences."""
        rivals = [(e, len(wanted.differences(e))) for e in events if wanted.is_for(e)]
        rivals = [(event, count) for event, count in rivals if count]
        if not rivals:
            return ""
        closest, _ = min(rivals, key=lambda r: (not r[0].has(fate), r[1]))
        story = "" if closest.has(fate) else f", {self._story(closest)}"
        head = f"The closest is {closest!r}{at(closest)}{story}:"
        return "\n".join([head, *difference_lines(wanted, closest)])

    def _hints(
        self, fate: Fate, wanted: Wanted, events: Sequence[CapturedEvent]
    ) -> str:
        fitting = [e for e in events if wanted.fits(e)]
        hints = [
            f"Hint: such an event{at(event)} was {self._story(event)}."
            for event in fitting
            if not event.has(fate)
        ]
        if not fitting:
            hints += self._other_queues(fate, wanted, events)
        return "\n".join(list(dict.fromkeys(hints))[:_MOST_HINTS])

    def _story(self, event: CapturedEvent) -> str:
        """What happened to *event*, to follow the word *was*."""
        if event.fate is Fate.PUBLISHED:
            return "published"
        if event.fate is not Fate.ENQUEUED:
            outcome = f" ({event.outcome.value})" if event.outcome else ""
            reason = _REASONS.get(event.reason, event.reason)
            fate = "dead-lettered" if event.fate is Fate.DEAD else event.fate
            return f"{fate}{outcome} because {reason}{self._again(event.fate)}"
        if self._situation.is_collected(event):
            also = _OR_FOR_A_COMMIT if self._situation.has_sessions else ""
            return f"enqueued but never published: {_WAITS_FOR[event.unit]}{also}"
        if event.event.due_in:
            when = f"due in {event.event.due_in:.0f} s"
            name = self._situation.name
            return f"held back by its delay, {when} (call `{name}.send_delayed()`)"
        return f"handed over and is in flight (call {self._situation.delivering()})"

    def _again(self, fate: Fate) -> str:
        """How a test can have the broker take an event with *fate*."""
        if fate is Fate.RETAINED:
            return f"; to retry it, call {self._situation.delivering()}"
        if fate is Fate.DEAD:
            return f"; to retry it, call {self._situation.delivering('events.retry()')}"
        return ""

    def _other_queues(
        self, fate: Fate, wanted: Wanted, events: Sequence[CapturedEvent]
    ) -> Iterator[str]:
        alike = [e for e in events if e.has(fate) and not wanted.differences(e)]
        if wanted.is_anything:
            queues = get_close_matches(wanted.expected.queue, {e.queue for e in alike})
            alike = [event for event in alike if event.queue in queues]
        for event in alike:
            on = f" on the exchange {event.exchange!r}" if event.exchange else ""
            verb = _VERBS[fate]
            yield f"Hint: such an event{at(event)} was {verb} {event.queue!r}{on}."

    def _all_of(self, fate: Fate) -> str:
        if not self._everything:
            return "Nothing was enqueued."
        events = [event for event in self._everything if event.has(fate)]
        return listed(f"{'All that' if events else 'Nothing'} was {fate}", events)


def unexpected(summary: str, found: Sequence[CapturedEvent]) -> str:
    """The message for events that should not exist."""
    return listed(f"{summary}, but found {len(found)}", found)


def passed_over(others: Sequence[CapturedEvent], name: str) -> str:
    """The message for events without an assertion."""
    was = f"{len(others)} was" if len(others) == 1 else f"{len(others)} were"
    summary = f"expected no others to be published, but {was} not asserted on"
    first = f"{name}.assert_published({others[0].queue!r})"
    queues = ", ".join(dict.fromkeys(repr(event.queue) for event in others))
    mark = f", or `@pytest.mark.ignore_events({queues})`" if name == _FIXTURE else ""
    return _joined(
        listed(summary, others),
        f"Hint: assert on each, for example by `{first}`, or leave them out by"
        f" `{name}.ignore({queues})`{mark}.",
    )


def described(fate: Fate, expected: ExpectedEvent) -> str:
    """For example ``published to 'orders.created' with the payload {'sku': 'A1'}``."""
    words = f"{_VERBS[fate]} {expected.queue!r}"
    if expected.exchange is not None:
        words += f" on the exchange {expected.exchange!r}"
    if expected.payload is not ANY:
        words += " with exactly the payload" if expected.exact else " with the payload"
        words += f" {show(readable(expected.payload))}"
    if expected.headers:
        words += f" with the headers {show(readable(expected.headers))}"
    for name, value in expected.properties.items():
        words += f" with {name} {show(readable(value))}"
    if expected.reason is not None:
        words += f" because {expected.reason!r}"
    return words


def difference_lines(wanted: Wanted, event: CapturedEvent) -> Iterator[str]:
    """One line for each of the first differences."""
    found = wanted.differences(event)
    for difference in found[:_MOST_DIFFERENCES]:
        yield f"  {difference}"
    if len(found) > _MOST_DIFFERENCES:
        yield f"  … and {len(found) - _MOST_DIFFERENCES} more"


def at(event: CapturedEvent) -> str:
    """Where *event* was enqueued, in parentheses."""
    return f" ({event.origin})" if event.origin else ""


def listed(title: str, events: Sequence[CapturedEvent]) -> str:
    """*title*, with one line for each of the first events."""
    if not events:
        return f"{title}."
    lines = [f"  {event!r}{at(event)}" for event in events[:_MOST_EVENTS]]
    if len(events) > _MOST_EVENTS:
        lines.append(f"  … and {len(events) - _MOST_EVENTS} more")
    return "\n".join([f"{title}:", *lines])


def _number(times: int | None) -> str:
    if times is None:
        return "an event"
    return counted(times, "event")


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
