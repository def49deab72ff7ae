"""What an app's own functions see of an event before it is encoded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from .amqp_fields import check_table
from .wording import type_name

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class EventDraft:
    """An event before it is checked and encoded.

    ``EVENTCOLLECTOR_BEFORE_ENQUEUE`` may change each attribute.
    """

    #: The caller's own object: put another in its place rather than change it.
    payload: Any
    target_queue: str
    #: ``None``: ``EVENTCOLLECTOR_EXCHANGE``.
    exchange: str | None
    #: A copy of the caller's headers.
    headers: dict[str, Any]
    #: The further arguments of ``enqueue_event``, an :class:`EventOptions`. One that is
    #: missing was not given.
    options: dict[str, Any]

    def parts(self) -> tuple[Any, str, str | None, dict[str, Any], dict[str, Any]]:
        """The attributes, in their order.

        :meta private:
        """
        return (
            self.payload,
            self.target_queue,
            self.exchange,
            self.headers,
            self.options,
        )


#: Changes an event before it is encoded.
BeforeEnqueue = Callable[[EventDraft], None]
#: Makes the body and its content type from a payload, for a target queue.
Encoder = Callable[[Any, str], tuple[bytes, str]]

#: What is no option.
_ATTRIBUTES = {"payload", "target_queue", "exchange", "headers"}

_BEFORE_ENQUEUE = "EVENTCOLLECTOR_BEFORE_ENQUEUE"
_ENCODER = "EVENTCOLLECTOR_ENCODER"


def prepare(draft: EventDraft, before_enqueue: BeforeEnqueue) -> None:
    """Let *before_enqueue* change *draft*."""
    result: object = _call(_BEFORE_ENQUEUE, before_enqueue, draft)
    if result is not None:
        raise TypeError(
            f"{_BEFORE_ENQUEUE} returned a value of type {type_name(result)}: change"
            " the draft that it gets, and return None"
        )
    check_table(draft.options, "draft.options")
    for name in _ATTRIBUTES & draft.options.keys():
        raise TypeError(f"draft.options has {name!r}: set draft.{name} instead")


def encode_by(encoder: Encoder, payload: Any, queue: str) -> tuple[bytes, str]:
    """The body and its content type, as *encoder* makes them."""
    result: Any = _call(_ENCODER, encoder, payload, queue)
    is_pair = isinstance(result, tuple) and len(result) == 2
    if not (is_pair and isinstance(result[0], bytes)):
        kind = type_name(result[0] if is_pair else result)
        where = " first" if is_pair else ""
        raise TypeError(
            f"{_ENCODER} returned a value of type {kind}{where}: return the body as"
            " bytes and its content type, for example (body, 'application/json')"
        )
    return result[0], result[1]


def _call(
    setting: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Call an app's own function. What it raises goes on as itself, with a note."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        note = f"raised by {setting}, so the event was not enqueued"
        # Once, even if the function enqueues events itself, and so without end.
        if note not in getattr(error, "__notes__", ()):
            with suppress(AttributeError):  # Python 3.10
                error.add_note(note)
        raise
