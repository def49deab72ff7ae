"""The rows of the app's outbox, as an operator sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ..app_state import AppState
from ..config.settings import OutboxRelay, choose_spool_name
from ..delivery.entries import PURGED, Notice, NoticeKind
from ..events import Event
from ..stores.filter import Filter
from ..stores.progress import OnProgress, ignore
from ..stores.spool.admin.changes import Changed, Notify
from ..stores.spool.admin.reading import Unreadable
from ..stores.spool.control import ControlRequest
from ..stores.spool.rows import StoredEvent
from ..stores.sums import MOST_TARGETS, TargetSum

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ..stores.outbox.admin import Counts, OutboxAdmin
    from ..stores.outbox.check import Difference
    from ..stores.outbox.database import Database
    from ..stores.outbox.rows import OutboxRow
    from ..transactions.bound_sessions import BoundOutbox

#: What to do if only a relay sends the rows, and none is active.
NO_RELAY = "No relay is active: run 'flask events relay'"

#: Ids that are looked up at a time.
_PAGE = 100


class FoundRow(NamedTuple):
    """An event in the outbox, shown as :class:`.Found` is."""

    #: The name of the table.
    place: str
    row: OutboxRow

    @property
    def stored(self) -> StoredEvent:
        """As it would be in a file."""
        dead = self.row.reason if self.row.is_dead else None
        return StoredEvent(self.row.seq, self.row.event, dead)

    @property
    def event(self) -> Event:
        return self.row.event

    @property
    def state(self) -> str:
        return "dead" if self.row.is_dead else self.event.waiting_state

    @property
    def is_left(self) -> bool:
        """Never: another process takes the row over by itself."""
        return False

    @property
    def reason(self) -> str | None:
        """Why it is dead. The process that sends it knows why it was refused."""
        return self.row.reason if self.row.is_dead else None

    @property
    def attempts(self) -> int | None:
        """How many times it was sent; ``None``: not known."""
        return self.row.attempts or None

    @property
    def last_try(self) -> None:
        """Not known."""

    @property
    def next_try(self) -> float | None:
        """Seconds until it may be sent again; ``None``: not known."""
        row = self.row
        is_sent = self.state in ("delayed", "waiting")
        is_known = is_sent and not row.is_held and row.due_in > 0
        return row.due_in if is_known else None


class OutboxRows:
    """The rows of the app's outbox.

    Each method may block for as long as the database does, and raises
    :exc:`.Unreadable` if it fails or the table is missing.
    """

    def __init__(self, state: AppState, bound: BoundOutbox) -> None:
        self.app = choose_spool_name(state.config, state.app)
        #: The name of the table.
        self.name = bound.table.fullname
        self.bound = bound
        #: Whether only a relay sends them.
        self.needs_relay = state.config.outbox_relay is OutboxRelay.EXTERNAL
        self._opened: OutboxAdmin | None = None
        self._database: Database | None = None

    def counts(self, newest: int | None = None) -> Counts:
        """How many rows there are, up to the number *newest* if it is given."""
        with self._admin() as admin:
            return admin.counts(newest)

    def sums_by_target(self) -> list[TargetSum]:
        """What waits for each target."""
        with self._admin() as admin:
            return admin.sums_by_target(MOST_TARGETS)

    def newest(self) -> int:
        """The highest number of a row; 0: there is none."""
        with self._admin() as admin:
            return admin.newest()

    def leader(self) -> str | None:
        """Which relay is the active one; ``None``: none is."""
        with self._admin() as admin:
            return admin.leader()

    def engine(self) -> Engine:
        """The engine of the bound session.

        :raises Unreadable: it is not known here.
        """
        return self._engine()

    def differences(self) -> list[Difference]:
        """How the tables in the database differ from what is expected."""
        with self._admin() as admin:
            return admin.differences()

    def ddl(self) -> list[str]:
        """The statements that create the tables; does not connect."""
        from ..stores.outbox.ddl import ddl

        return [*ddl(self.bound.table, self._engine().dialect)]

    def events(self, wanted: Filter) -> Iterator[FoundRow]:
        """The *wanted* events, in the order of the rows."""
        with self._admin() as admin:
            for row in admin.rows(wanted=wanted):
                yield FoundRow(self.name, row)

    def with_ids(self, ids: Sequence[str]) -> list[FoundRow]:
        """The events with *ids*."""
        found: list[FoundRow] = []
        with self._admin() as admin:
            for start in range(0, len(ids), _PAGE):
                rows = admin.rows(ids=ids[start : start + _PAGE])
                found += [FoundRow(self.name, row) for row in rows]
        return found

    def ids_from(self, prefix: str) -> set[str]:
        """The ids that start with *prefix*."""
        with self._admin() as admin:
            return admin.ids(prefix)

    def strays(self) -> dict[str, Counts]:
        """The rows of apps that no process sends, by the apps' names."""
        with self._admin() as admin:
            return admin.strays()

    def others(self) -> dict[str, Counts]:
        """The rows of all other apps, by their names."""
        with self._admin() as admin:
            return admin.others()

    def adopt(self, app: str) -> int:
        """Make the rows of *app* this app's own, unless held; returns how many."""
        with self._admin() as admin:
            return admin.adopt(app)

    def add(self, events: Iterable[StoredEvent]) -> None:
        """Add rows for *events*, all or none."""
        with self._admin() as admin:
            admin.add((stored.event, stored.dead) for stored in events)

    def purge(
        self, seqs: Sequence[int], notify: Notify, on_progress: OnProgress = ignore
    ) -> list[str]:
        """Erase rows that are still there, and report it; returns the events' ids."""
        ids: list[str] = []
        with self._admin() as admin:
            for start in range(0, len(seqs), _PAGE):
                page = seqs[start : start + _PAGE]
                rows = {r.seq: r for r in admin.rows(seqs=page)}
                gone = [rows[seq].event for seq in admin.purge([*rows])]
                notify([Notice(NoticeKind.DROPPED, event, PURGED) for event in gone])
                ids += [event.id for event in gone]
                on_progress(len(page))
        return ids

    def change(
        self,
        request: ControlRequest,
        found: Iterable[FoundRow],
        notify: Notify,
        on_progress: OnProgress = ignore,
    ) -> Changed:
        """Apply *request* to the rows *found*."""
        events = {f.row.seq: f.event for f in found}
        seqs = [*events]
        if request.action == "purge":
            return Changed(None, self.purge(seqs, notify, on_progress), [])
        with self._admin() as admin:
            to = request.queue or None
            changed = set(admin.retry(seqs, to=to, on_progress=on_progress))
        others = [events[seq].id for seq in seqs if seq not in changed]
        # The rest have been delivered in the meantime.
        left = {f.event.id for f in self.with_ids(others)}
        return Changed(None, [events[seq].id for seq in sorted(changed)], sorted(left))

    @contextmanager
    def _admin(self) -> Iterator[OutboxAdmin]:
        # Only those who bind an outbox have SQLAlchemy.
        from ..stores.outbox.admin import FAILURES

        try:
            yield self.open()
        except FAILURES as error:
            raise Unreadable(self.name, _explained(error)) from error

    def open(self) -> OutboxAdmin:
        """Prepare connections, for :meth:`close`. Does not connect."""
        from ..stores.outbox.admin import OutboxAdmin
        from ..stores.outbox.database import Database

        if self._opened is None:
            self._database = Database(self._engine(), self.bound.table)
            self._opened = OutboxAdmin(self._database, self.app)
        return self._opened

    def close(self) -> None:
        """Close the connections, if there are any."""
        if self._database is not None:
            self._database.close()

    def _engine(self) -> Engine:
        engine = self.bound.engine()
        if engine is None:
            raise Unreadable(self.name, _NO_ENGINE)
        return engine


_NO_ENGINE = (
    "the bound session has no engine for it here: give it one, or pass"
    " bind_session() an outbox_engine"
)


def _explained(error: Exception) -> str:
    """Why the table can't be read, in one line."""
    original = getattr(error, "orig", None)
    if original is None:
        return str(error)
    return f"the database failed ({' '.join(str(original).split())}): try again"
