"""A block of code as a unit of work."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from .collector import CollectorLike
from .scopes import Scopes, leave

P = ParamSpec("P")
R = TypeVar("R")


class HasScopes(Protocol):
    """What a block needs from the extension."""

    def scopes(self) -> Scopes:
        """The scopes of the current app.

        :raises RuntimeError: there is no current app.
        """


class AutoPublishingEventCollector:
    """A context manager and decorator that makes a block one unit of work.

    Each run of the block has a new collector, which is also the value of ``with``. When
    the block ends, its events are published, which blocks as
    :meth:`EventCollector.publish` without a timeout does: as a rule at most
    ``EVENTCOLLECTOR_CONFIRM_TIMEOUT`` seconds. When the block raises, its events are
    discarded and the exception propagates. ::

        with AutoPublishingEventCollector(events):
            events.enqueue_event({"sku": "A1"}, "stock.counted")


        @events.auto_publish()
        def restock() -> None: ...

    As a decorator, it wraps functions and coroutine functions.

    :param events: the :class:`EventCollector`.
    :type events: EventCollector
    :raises RuntimeError: at the begin of the block, there is no current app.
    :raises TypeError: it decorates a generator function, whose body runs after the call
        has returned, a class, or an object that is not callable.
    """

    def __init__(self, events: HasScopes) -> None:
        self._events = events

    def __enter__(self) -> CollectorLike:
        scopes = self._events.scopes()
        return scopes.collector(scopes.enter(self))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave(self).end(exc)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Make each call of *function* a unit of work.

        :raises TypeError: *function* can't be wrapped.
        """
        _check_wrappable(function)
        if inspect.iscoroutinefunction(function):
            return cast(Callable[P, R], self._wrap_coroutine(function))

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with AutoPublishingEventCollector(self._events):
                return function(*args, **kwargs)

        return run

    def _wrap_coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            with AutoPublishingEventCollector(self._events):
                return await function(*args, **kwargs)

        return run


def _check_wrappable(function: object) -> None:
    if inspect.isclass(function):
        problem = "a class; decorate its methods"
    elif inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        problem = (
            "a generator, whose body runs after the call has returned; use"
            " 'with events.auto_publish():' inside it"
        )
    elif isinstance(function, (staticmethod, classmethod, property)):
        problem = f"a {type(function).__name__}; put auto_publish() below it"
    elif not callable(function):
        problem = f"of type {type(function).__name__}; call it as 'auto_publish()'"
    else:
        return
    name = getattr(function, "__qualname__", repr(type(function).__name__))
    raise TypeError(f"auto_publish() can't wrap {name}: it is {problem}")
