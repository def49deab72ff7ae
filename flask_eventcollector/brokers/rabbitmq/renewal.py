"""Renews the credentials of one connection before they expire."""

from __future__ import annotations

import time
from collections.abc import Callable

import pika

from ...errors import ConfigurationError
from .logins import Call, Login, Logins


class Renewal:
    """Sends new credentials on a connection that is open.

    Only OAuth 2 tokens can be replaced on it. Credentials with another user need
    another connection. https://www.rabbitmq.com/docs/oauth2#token-expiration
    """

    def __init__(
        self,
        connection: pika.SelectConnection,
        logins: Logins,
        login: Login,
        *,
        delay: Callable[[int], float],
        report: Callable[[str], None],
    ) -> None:
        """Pass *report* what keeps it from renewing them; ``""``: nothing does."""
        self._connection = connection
        self._logins = logins
        self._login = login
        self._delay = delay
        self._report = report
        self._next_at = login.renew_at
        self._failures = 0
        self._problem = ""
        self._call: Call | None = None
        self._is_unanswered = False

    def look_after(self) -> str:
        """Do what is due; returns why the connection has to end, or ``""``."""
        now = time.monotonic()
        if now >= self._login.leave_at:
            return f"the credentials have expired: {self._problem or 'no new ones yet'}"
        if self._call is not None:
            return self._take(self._call, now) if self._call.is_over else ""
        if now >= self._next_at and not self._is_unanswered:
            self._ask(now)
        return ""

    def _ask(self, now: float) -> None:
        try:
            self._call = self._logins.begin()
        except RuntimeError as error:
            self._failed(f"no thread can be started: {error}", now)

    def _take(self, call: Call, now: float) -> str:
        self._call = None
        try:
            login = call.result()
        except ConfigurationError as error:
            self._failed(str(error), now)
            return ""
        if login.username != self._login.username:
            return "the credentials have another user now"
        self._send(login)
        return ""

    def _failed(self, problem: str, now: float) -> None:
        self._failures += 1
        self._next_at = now + self._delay(self._failures)
        self._problem = problem
        self._report(f"the credentials can't be renewed: {problem}")

    def _send(self, login: Login) -> None:
        if login.credentials is None:
            return
        login.was_used = self._is_unanswered = True
        self._problem = "the broker has not answered to connection.update-secret"
        self._connection.update_secret(
            login.credentials.password, "renewed", lambda _: self._renewed(login)
        )

    def _renewed(self, login: Login) -> None:
        self._is_unanswered = False
        self._login, self._next_at = login, login.renew_at
        self._failures, self._problem = 0, ""
        self._report("")
