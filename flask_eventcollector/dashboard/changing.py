"""Does what an operator asks for: retries, purges or redirects events."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..app_state import AppState
from ..backlog.wording import events as counted
from ..backlog.wording import printable
from ..delivery.records import Kind, log_record
from ..messages.amqp_fields import check_name
from ..stores.spool.admin.reading import Gone, Unreadable
from ..stores.spool.control import ControlRequest
from .listing import Asked, matching
from .places import Places, Shown

ACTIONS = ("retry", "redirect", "purge")
#: The most events that one action changes.
MOST_CHANGED = 1_000
#: How many ids a log record has, as all others.
_IDS = 10


class Selected(NamedTuple):
    """The events that an action is about."""

    #: The ids that were meant.
    ids: Sequence[str]
    #: Their events, as far as they are still there. One may be in several places.
    found: Sequence[Shown]
    #: Whether they are all that meet some conditions, or the first of them.
    is_every: bool

    @property
    def by_target(self) -> list[tuple[str, int]]:
        """How many each target has."""
        events = {one.event.id: one.event for one in self.found}
        targets = Counter(str(event.target) for event in events.values())
        return targets.most_common()

    @property
    def newest(self) -> int:
        """When the last of them was enqueued, in microseconds since 1970; 0: none."""
        return max((one.event.microseconds for one in self.found), default=0)


class Done(NamedTuple):
    """What an action has changed, in numbers of events."""

    changed: int
    #: As before: to retry one that is not dead changes nothing, and a process may not
    #: have responded.
    left: int
    #: Not there any more, since they have been delivered.
    gone: int
    #: What could not be changed.
    problems: Sequence[Unreadable] = ()


def request_for(action: str, queue: str) -> ControlRequest:
    """The request that a form makes.

    :raises ValueError: the action is unknown, or the queue's name is invalid.
    """
    if action not in ACTIONS:
        raise ValueError("choose an action")
    if action != "redirect":
        return ControlRequest(action, [])
    if not queue:
        raise ValueError("give the name of the queue to send them to")
    return ControlRequest(action, [], check_name(queue, "queue"))


def select_ids(places: Places, ids: Sequence[str]) -> Selected:
    """The events with *ids*, at most :data:`MOST_CHANGED`."""
    ids = [*dict.fromkeys(ids)][:MOST_CHANGED]
    return Selected(ids, places.with_ids(ids), False)


def select_matching(
    places: Places, request: ControlRequest, asked: Asked, until: int | None = None
) -> Selected:
    """The first :data:`MOST_CHANGED` of the events that are *asked* for.

    :param until: only those that were enqueued by then, in microseconds since 1970.
    """
    if request.action == "retry":
        asked = asked._replace(state="dead")
    meant = matching(places, asked)
    if until is not None:
        meant = (one for one in meant if one.event.microseconds <= until)
    found = [*itertools.islice(meant, MOST_CHANGED)]
    return Selected([*dict.fromkeys(one.event.id for one in found)], found, True)


def carry_out(
    state: AppState,
    places: Places,
    request: ControlRequest,
    selected: Selected,
    user: str,
) -> Done:
    """Apply *request* to the *selected* events, one place after the other; log it.

    A place whose process does not respond takes five seconds.

    :param user: who asks for it.
    """
    log(request.action, selected.ids, user, request.queue)
    found = [one for one in selected.found if _is_meant(one, request)]
    done: set[str] = set()
    left = {one.event.id for one in selected.found} - {one.event.id for one in found}
    problems: list[Unreadable] = []
    for place in dict.fromkeys(one.place for one in found):
        there = [one for one in found if one.place == place]
        try:
            changed = places.change(request, there, state.notify)
            done.update(changed.done)
            left.update(changed.left)
        except Gone:
            """Its events have been delivered."""
        except Unreadable as error:
            problems.append(error)
            left.update(one.event.id for one in there)
    left -= done
    gone = len(selected.ids) - len(done) - len(left)
    return Done(len(done), len(left), max(0, gone), problems)


def _is_meant(found: Shown, request: ControlRequest) -> bool:
    """Whether *request* would change it: what waits is being sent anyway."""
    return request.action != "retry" or found.state == "dead"


def log(action: str, ids: Sequence[str], user: str, queue: str = "") -> None:
    """Log that *user* asks for something."""
    to = f" to {printable(queue)}" if queue else ""
    log_record(
        Kind.DASHBOARD_ACTION,
        user=printable(user),
        action=action,
        events=counted(len(ids)) + to,
        queue=queue,
        ids=" ".join(printable(id) for id in ids[:_IDS]),
        count=len(ids),
    )
