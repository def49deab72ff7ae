"""Asks the app for what connections log in with, and waits only so long."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from pathlib import PurePath
from typing import TypeVar

from ...config.credentials import Credentials, CredentialsSource, checked
from ...config.tls import Passphrase, checked_passphrase
from ...delivery.signal import Signal
from ...delivery.threads import OwnThread
from ...errors import ConfigurationError

#: Seconds that an attempt to connect waits for the app's callables.
PATIENCE = 10.0
#: Seconds for which an answer that no broker has seen is used again. So an outage does
#: not request credentials with each attempt to connect.
_FRESH = 30.0
#: When new credentials are requested, as parts of the time for which they are valid.
#: Random, so that processes that were started together don't ask together.
_RENEWED_AFTER = (0.6, 0.8)
#: They are not used in the last tenth of that time, or in its last seconds if that is
#: less, since the broker's clock may differ.
_UNUSED = 10.0

_CREDENTIALS = "EVENTCOLLECTOR_CREDENTIALS"
_PASSPHRASE = "EVENTCOLLECTOR_KEYFILE_PASSWORD"

T = TypeVar("T")


class Login:
    """What a connection logs in with."""

    def __init__(
        self, credentials: Credentials | None, keyfile_password: str | None
    ) -> None:
        """Without *credentials*, the URL has them."""
        self.credentials = credentials
        self.keyfile_password = keyfile_password
        #: Whether a broker has seen it.
        self.was_used = False
        lifetime = (credentials and credentials.expires_in) or float("inf")
        self.received_at = time.monotonic()
        #: When to ask for new credentials.
        self.renew_at = self.received_at + lifetime * random.uniform(*_RENEWED_AFTER)  # noqa: S311
        #: When to stop using these.
        self.leave_at = self.received_at + lifetime - min(lifetime / 10, _UNUSED)

    @property
    def username(self) -> str | None:
        """The user; ``None``: the URL's."""
        return None if self.credentials is None else self.credentials.username

    @property
    def is_unused(self) -> bool:
        """Whether a connection may use it instead of new credentials."""
        now = time.monotonic()
        is_fresh = now < min(self.received_at + _FRESH, self.renew_at)
        return is_fresh and not self.was_used


class Call:
    """One call of the app's callables, in a thread of its own."""

    def __init__(
        self, ask: Callable[[], Login], asked: str, when_over: Signal, name: str
    ) -> None:
        self._ask = ask
        self._asked = asked
        self._when_over = when_over
        self._began_at = time.monotonic()
        self._answer: Login | None = None
        self._problem = ""
        self.is_over = False
        self.thread = OwnThread(
            self.run, f"eventcollector-credentials-{name}", calls_user_code=True
        )

    def run(self) -> None:
        """Call them now."""
        try:
            self._answer = self._ask()
        except ConfigurationError as error:
            self._problem = str(error)
        finally:
            self.is_over = True
            self._when_over.set()

    def result(self) -> Login:
        """The answer.

        :raises ConfigurationError: there is none. The message has no secret.
        """
        if self._answer is None:
            seconds = time.monotonic() - self._began_at
            raise ConfigurationError(
                self._problem or f"{self._asked} has not returned for {seconds:.0f} s"
            )
        return self._answer


class Logins:
    """What the connections of one broker log in with.

    The I/O thread calls it, except for :meth:`stop`. There is at most one call of the
    app's callables at a time: one that hangs does not bring others.
    """

    def __init__(
        self,
        credentials: CredentialsSource | None,
        keyfile_password: Passphrase | None,
        name: str,
    ) -> None:
        self._credentials = credentials
        self._keyfile_password = keyfile_password
        self._name = name
        #: The settings that are called.
        self._asked = " or ".join(
            setting
            for setting, value in (
                (_CREDENTIALS, credentials),
                (_PASSPHRASE, keyfile_password),
            )
            if callable(value)
        )
        self._call: Call | None = None
        self._signal = Signal()
        self._is_stopped = False
        self._latest: Login | None = None

    def get(self) -> Login:
        """What the next connection logs in with; waits at most ``PATIENCE`` seconds.

        :raises ConfigurationError: the app does not tell. The message has no secret.
        """
        password = self._keyfile_password
        if self._credentials is None and not callable(password):
            return Login(None, password)
        if self._latest is not None and self._latest.is_unused:
            return self._latest
        return self._wait().result()

    def stop(self) -> None:
        """End the current wait and all later ones; called by any thread."""
        self._is_stopped = True
        self._signal.set()

    def begin(self) -> Call:
        """The call that is in progress, or a new one.

        :raises RuntimeError: no thread can be started.
        """
        call = self._call
        if call is None or call.is_over:
            call = self._new_call()
            call.thread.start()
            self._call = call
        return call

    def _new_call(self) -> Call:
        return Call(self._ask, self._asked, self._signal, self._name)

    def _wait(self) -> Call:
        try:
            call = self.begin()
        except RuntimeError:
            # The process ends. Without a connection, this thread may wait.
            call = self._new_call()
            call.run()
        deadline = time.monotonic() + PATIENCE
        while not (call.is_over or self._is_stopped):
            if not self._signal.wait(deadline - time.monotonic()):
                break
        return call

    # Below: the thread of a call.

    def _ask(self) -> Login:
        credentials, password = self._credentials, self._keyfile_password
        given = None
        if credentials is not None:
            answer = _asked(_CREDENTIALS, credentials)
            given = checked(answer, f"{_CREDENTIALS} returned")
        if callable(password):
            password = checked_passphrase(
                f"what {_PASSPHRASE} returned", _asked(_PASSPHRASE, password)
            )
        # Even if nobody waits for it any more: the next connection may use it.
        self._latest = Login(given, password)
        return self._latest


def _asked(setting: str, source: Callable[[], T]) -> T:
    """What *source* returns.

    :raises ConfigurationError: it raised. The message says what and where, without the
        error's own text, which may have a secret.
    """
    try:
        return source()
    except ConfigurationError:
        # Of the library, about a file.
        raise
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigurationError(
            f"{setting} raised {type(error).__name__} ({PurePath(place.filename).name},"
            f" line {place.lineno})"
        ) from None
