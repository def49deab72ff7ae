"""A request as a unit of work."""

from __future__ import annotations

from ..config.settings import PublishRule
from ..delivery.records import Kind, log_failure
from .collector import discard
from .scopes import Scope, Scopes


class RequestScope(Scope):
    """The scope of one request, with its outcome."""

    kind = "request"

    def __init__(self, scopes: Scopes) -> None:
        super().__init__(scopes)
        #: The final status code; ``None``: there is no response yet.
        self.status: int | None = None
        #: The exception that the request raised, even if it was handled.
        self.error: BaseException | None = None
        #: Whether Flask tore down the request itself, not only the app context around
        #: it.
        self.torn_down = False

    def finish(self, publish_on: PublishRule) -> None:
        """Publish or discard what the request collected since the last call.

        Never raises an :exc:`Exception`.
        """
        try:
            self._finish(publish_on)
        except Exception as error:
            log_failure(Kind.REQUEST_TEARDOWN_FAILED, error)

    def _finish(self, publish_on: PublishRule) -> None:
        collector = self.scopes.collector_if_used(self)
        if collector is None or not collector.events_to_publish:
            return
        failure = self._failure(publish_on)
        if failure:
            discard(collector, failure)
        else:
            # No network I/O in a process that was asked to stop.
            is_ordinary = self.error is None or isinstance(self.error, Exception)
            collector.publish(None if is_ordinary else 0)

    def _failure(self, publish_on: PublishRule) -> str:
        """Why the events must not be published; ``""``: they must be."""
        status, error = self.status, self.error
        if not self.torn_down and status is None and error is None:
            return "the request ended without a response"
        try:
            if publish_on(status, error):
                return ""
        except Exception as failure:
            log_failure(Kind.PUBLISH_ON_FAILED, failure)
            return "EVENTCOLLECTOR_PUBLISH_ON failed"
        if error is not None:
            return f"{type(error).__name__} was raised"
        return f"the response was {status}"
