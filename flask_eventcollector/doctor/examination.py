"""Makes checks one after the other, each for a limited time."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import NamedTuple

from ..brokers.rabbitmq.inspection import BrokerUnreachable
from ..brokers.rabbitmq.questions import Unreachable
from ..delivery.threads import OwnThread
from ..errors import ConfigurationError
from .case import Case
from .findings import Finding, problem
from .outbox import Unopened

#: Their texts have no secret.
_OURS = (BrokerUnreachable, ConfigurationError, Unopened, Unreachable)


class Check(NamedTuple):
    """One check."""

    #: What it examines, for example ``broker``.
    about: str
    #: Yields at least one finding, unless the app does not use what it examines.
    look: Callable[[Case], Iterator[Finding]]
    #: Seconds that it may take.
    deadline: float = 5.0


def examine(
    case: Case, checks: Iterable[Check], progress: Callable[[int], object]
) -> list[Finding]:
    """What all *checks* find. Blocks for at most the sum of their deadlines.

    :param progress: called with 1 after each check.
    """
    found: list[Finding] = []
    for check in checks:
        found += [finding._replace(about=check.about) for finding in _of(check, case)]
        progress(1)
    return found


def _of(check: Check, case: Case) -> list[Finding]:
    """What one check finds, which may hang or fail itself."""
    found: list[Finding] = []

    def look() -> None:
        try:
            found.extend(check.look(case))
        except Exception as error:
            found.append(_failed(error))

    # A daemon thread: one that hangs does not keep the command from ending.
    thread = OwnThread(look, f"eventcollector-doctor-{check.about}")
    try:
        thread.start()
    except RuntimeError:
        # The machine has no more threads, which a check of its own tells.
        look()
    if thread.join(check.deadline):
        return found
    return [*found, _late(check)]


def _late(check: Check) -> Finding:
    return problem(
        f"no answer within {check.deadline:.0f} s",
        "see whether what is asked here responds: the network, a name server, a"
        " database, or a disk",
    )


def _failed(error: Exception) -> Finding:
    if isinstance(error, _OURS):
        return problem(
            f"this could not be examined to its end: {error}", "examine it again"
        )
    # Without its text, which may have a secret.
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{PurePath(place.filename).name}, line {place.lineno}"
    return problem(
        f"this could not be examined: {type(error).__name__} in {where}",
        "examine it yourself, and report this as a bug",
    )
