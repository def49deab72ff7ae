"""Handles events that an app context leaves unpublished in its thread's collector."""

from __future__ import annotations

from ..config.settings import AtContextEnd
from ..delivery.records import Kind, log_failure
from .collector import Collector, CollectorLike


class Use:
    """The use of its thread's collector by one app context.

    :param collector: the thread's collector, before the use.
    """

    def __init__(self, collector: CollectorLike) -> None:
        self._collector = collector
        self._before = collector.newest if isinstance(collector, Collector) else None

    def end(self, at_end: AtContextEnd, error: BaseException | None) -> None:
        """The app context ends, because of *error* if it is given.

        Never raises an :exc:`Exception`.
        """
        try:
            self._end(at_end, error)
        except Exception as failure:
            log_failure(Kind.CONTEXT_TEARDOWN_FAILED, failure)

    def _end(self, at_end: AtContextEnd, error: BaseException | None) -> None:
        collector = self._collector
        if at_end is AtContextEnd.WARN and isinstance(collector, Collector):
            collector.warn_of_unpublished(self._before, _how(error))
        elif at_end is not AtContextEnd.PUBLISH:
            return
        elif not isinstance(collector, Collector):
            self._end_double(error)
        elif _is_success(error):
            collector.publish_since(self._before)
        else:
            reason = f"{type(error).__name__} was raised"
            collector.discard_since(self._before, reason)

    def _end_double(self, error: BaseException | None) -> None:
        if _is_success(error):
            self._collector.publish()
        else:
            self._collector.clear_events_to_publish()


def _is_success(error: BaseException | None) -> bool:
    """Whether work that ended with *error* succeeded, as with ``sys.exit(0)``."""
    if isinstance(error, SystemExit):
        return error.code in (None, 0)
    return error is None


def _how(error: BaseException | None) -> str:
    if _is_success(error):
        return "the app context ended without a publish()"
    return f"the app context ended with {type(error).__name__}"
