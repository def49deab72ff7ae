"""One spool file, which is an SQLite database."""

from __future__ import annotations

import functools
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from ...delivery.refusals import Refusal
from ...events import Target
from ..filter import ALL, Filter, matches_target
from ..plain import DELAY_IN_TEXT
from ..sums import TargetSum
from .rows import COLUMNS

#: 2 added the destination, 3 the properties of events, beside their headers.
VERSION = 3
#: "EC" followed by the version. The redundancy ensures that a flipped bit is not
#: mistaken for a newer version.
_MARK = 0x4543 << 16

#: Bytes.
PAGE_SIZE = 4096

#: Positions in the header: https://www.sqlite.org/fileformat2.html#the_database_header
_VERSION, _ID = slice(60, 64), slice(68, 72)
#: Header fields that change: the change counter, sizes, and the SQLite version.
_VARYING = (slice(24, 40), slice(92, 100))

#: The files that SQLite creates next to a database.
SUFFIXES = ("-wal", "-shm")

_SCHEMA = (
    """
    CREATE TABLE events (
        number INTEGER PRIMARY KEY,
        exchange TEXT NOT NULL,
        queue TEXT NOT NULL,
        id TEXT NOT NULL,
        headers TEXT NOT NULL,
        enqueued_at INTEGER NOT NULL,
        size INTEGER NOT NULL,
        body BLOB NOT NULL,
        dead TEXT,
        checksum INTEGER NOT NULL
    )
    """,
    "CREATE INDEX events_by_target ON events (exchange, queue)",
)
#: Its text is in the first page, where it can be read without SQLite.
_DESTINATION = re.compile(
    rb"CREATE VIEW destination AS SELECT '([^']+)' AS addresses, (\d+) AS checksum"
)
_PLACES = ", ".join("?" * len(COLUMNS))
_INSERT = f"INSERT OR REPLACE INTO events VALUES ({_PLACES})"  # noqa: S608 - as below
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM events"  # noqa: S608 - our own columns
#: Reads only the column's type: the text is stored after the body, which may be long.
_IS_DEAD = "typeof(dead) != 'null'"

#: Only a number can be compared, but damage may change its type.
_WAS_BEFORE = "(enqueued_at < ? OR typeof(enqueued_at) != 'integer')"
# A damaged text may be invalid UTF-8, which a function can't be called with.
_IS_NAMED = "is_named(CAST(exchange AS BLOB), CAST(queue AS BLOB), ?)"
_HAS_REASON = (
    "has_reason(CAST(id AS BLOB), CAST(exchange AS BLOB), CAST(queue AS BLOB),"
    " CAST(dead AS BLOB))"
)

#: The refusal that keeps a waiting event from being confirmed, by its id and target.
RefusalOf = Callable[[str, Target], Refusal | None]

#: Seconds that a write waits for a reader of the file, such as the command line.
_BUSY_TIMEOUT = 1.0


class NewerVersion(Exception):
    """The file was written by a newer version of this library."""


def is_damage(error: Exception) -> bool:
    """Whether *error* reports damage, as opposed to a full disk or a lock."""
    # SQLITE_CORRUPT and SQLITE_NOTADB are raised as the base class itself.
    return type(error) is sqlite3.DatabaseError


def was_begun(path: Path) -> bool:
    """Whether the file has its table, judging by its first page.

    This does not use SQLite, which may write to a file that it opens.

    :raises NewerVersion: it was written by a newer version of the library.
    :raises sqlite3.DatabaseError: the page is damaged.
    """
    with path.open("rb") as file:
        page = file.read(PAGE_SIZE)
        is_longer = bool(file.read(1))
    version, mark = (int.from_bytes(page[place], "big") for place in (_VERSION, _ID))
    if version > VERSION and mark == _MARK | version:
        raise NewerVersion(
            f"the file has format version {version}, but this version of the library"
            f" supports {VERSION}"
        )
    if (version, mark) == (2, _MARK | 2):
        # Nothing else on the page differs.
        page = _with_version(page, VERSION)
    if _steady(page) == _steady(new_first_page(_destination_on(page))):
        return True
    if is_longer or len(page) not in (0, PAGE_SIZE) or any(page[PAGE_SIZE // 2 :]):
        raise sqlite3.DatabaseError("its first page is corrupt")
    return False


@functools.lru_cache(maxsize=16)
def new_first_page(destination: str = "") -> bytes:
    """The first page of a new file, with the header and the schema."""
    with TemporaryDirectory() as folder:
        new = Path(folder, "new")
        Journal.create(new, destination).close()
        return new.read_bytes()[:PAGE_SIZE]


def read_destination(path: Path) -> str:
    """The *destination* that was passed to :meth:`Journal.create`.

    Does not use SQLite. ``""``: the file has none, or its first page is damaged.

    :raises OSError: it can't be read.
    """
    with path.open("rb") as file:
        return _destination_on(file.read(PAGE_SIZE))


def _destination_on(page: bytes) -> str:
    found = _DESTINATION.search(page)
    if found is None or zlib.crc32(found[1]) != int(found[2]):
        return ""
    return found[1].decode(errors="replace")


def _schema(destination: str) -> Iterator[str]:
    """The statements that create a file; without *destination*, one of version 1."""
    yield from _SCHEMA
    version = 1
    if destination:
        version = VERSION
        checksum = zlib.crc32(destination.encode())
        yield (
            f"CREATE VIEW destination AS SELECT '{destination}' AS addresses,"
            f" {checksum} AS checksum"
        )
    yield f"PRAGMA application_id = {_MARK | version}"
    yield f"PRAGMA user_version = {version}"


def _sum_of(
    exchange: bytes, queue: bytes, rows: int, dead: float, oldest: int, why: bytes
) -> TargetSum:
    target = Target(exchange.decode(), queue.decode())
    reason = (why or b"").decode(errors="replace")
    return TargetSum(target, rows - int(dead), int(dead), int(oldest), reason)


def _conditions(wanted: Filter) -> Iterator[tuple[str, list[Any]]]:
    """Those for the rows that are *wanted*, but for their reason, with their values."""
    if wanted.queue is not None:
        yield _IS_NAMED, [wanted.queue]
    if wanted.dead:
        yield _IS_DEAD, []
    if wanted.waiting:
        yield f"NOT {_IS_DEAD}", []
    if wanted.before is not None:
        yield _WAS_BEFORE, [wanted.before]


def _is_named(exchange: bytes | None, queue: bytes | None, pattern: str) -> bool:
    return matches_target(Target(_text(exchange), _text(queue)), pattern)


def _has_reason(
    wanted: Filter,
    refusal_of: RefusalOf,
    id: bytes | None,
    exchange: bytes | None,
    queue: bytes | None,
    dead: bytes | None,
) -> bool:
    if dead is not None:
        return wanted.selects_reason(_text(dead))
    waiting = _text(id)
    refusal = refusal_of(waiting, Target(_text(exchange), _text(queue)))
    return wanted.selects_reason(refusal and refusal.reason_for(waiting))


def _text(value: bytes | None) -> str:
    """The text that *value* is, if it is not damaged."""
    return (value or b"").decode(errors="replace")


def _with_version(page: bytes, version: int) -> bytes:
    """The first page of a file of another version."""
    changed = bytearray(page)
    changed[_VERSION] = version.to_bytes(4, "big")
    changed[_ID] = (_MARK | version).to_bytes(4, "big")
    return bytes(changed)


def _steady(page: bytes) -> bytes:
    """The first page with its :data:`_VARYING` fields zeroed."""
    steady = bytearray(page)
    for place in _VARYING:
        steady[place] = bytes(len(steady[place]))
    return bytes(steady)


class Journal:
    """Rows on disk, written in transactions. Not thread-safe.

    Every method may block as long as the disk does, and may raise ``sqlite3.Error``.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        # Text in a damaged file may be invalid UTF-8.
        connection.text_factory = bytes
        connection.create_function("is_named", 3, _is_named)

    @classmethod
    def create(
        cls, path: Path, destination: str = "", *, full_sync: bool = False
    ) -> Journal:
        """Create a new file, which only its owner can read.

        :param destination: the destination of its events: ASCII without quotes, at most
        2 000 characters.
        """
        # SQLite creates the accompanying files with the same permissions.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        journal = cls.open(path, full_sync=full_sync)
        try:
            with journal._transaction() as connection:
                for statement in _schema(destination):
                    connection.execute(statement)
            # Ensures that the schema is in the main file before any row.
            journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        full_sync: bool = False,
        read_only: bool = False,
        immutable: bool = False,
    ) -> Journal:
        """Open an existing file.

        :param immutable: it has no "-wal", and no process writes to it meanwhile. Then
        SQLite creates no files beside it: https://www.sqlite.org/uri.html#uriimmutable
        """
        mode = "ro" if read_only else "rw"
        if immutable:
            mode += "&immutable=1"
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode={mode}",
            uri=True,
            timeout=_BUSY_TIMEOUT,
            isolation_level=None,
            # Opened in one thread, and closed in another at the process's end.
            check_same_thread=False,
        )
        try:
            if not read_only:
                connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
                connection.execute("PRAGMA journal_mode = WAL")
                sync = "FULL" if full_sync else "NORMAL"
                connection.execute(f"PRAGMA synchronous = {sync}")
                # Overwrite erased rows, so that recovery from a damaged file does not
                # find confirmed events, nor does anybody else.
                connection.execute("PRAGMA secure_delete = ON")
            return cls(path, connection)
        except BaseException:
            connection.close()
            raise

    # Writing.

    def write(
        self,
        rows: Iterable[Sequence[Any]] = (),
        erased: Iterable[int] = (),
    ) -> None:
        """Insert or replace *rows* by number, and erase others, in one transaction.

        Once this returns, the change survives a ``kill -9``.
        """
        numbers = ((number,) for number in erased)
        with self._transaction() as connection:
            connection.executemany(_INSERT, rows)
            connection.executemany("DELETE FROM events WHERE number = ?", numbers)

    # Reading.

    def check(self) -> None:
        """Check the whole file, which takes about a second for a million rows.

        :raises sqlite3.DatabaseError: it is damaged.
        """
        ((word,),) = self._connection.execute("PRAGMA integrity_check(1)")
        if word != b"ok":
            raise sqlite3.DatabaseError("SQLite's integrity check found damage")

    def targets(self) -> dict[Target, int]:
        """How many rows each target has.

        :raises sqlite3.DatabaseError: the file is damaged.
        """
        counts = self._connection.execute(
            "SELECT exchange, queue, count(*) FROM events GROUP BY exchange, queue"
        )
        try:
            return {Target(e.decode(), q.decode()): count for e, q, count in counts}
        except (UnicodeDecodeError, AttributeError) as error:
            raise sqlite3.DatabaseError("a queue name is damaged") from error

    def sums_by_target(self, count: int) -> list[TargetSum]:
        """What the *count* targets with the most rows have.

        :raises sqlite3.DatabaseError: the file is damaged.
        """
        rows = self._connection.execute(
            "SELECT exchange, queue, count(*), total(typeof(dead) != 'null'),"
            " min(enqueued_at), max(dead) FROM events GROUP BY exchange, queue"
            " ORDER BY count(*) DESC LIMIT ?",
            (count,),
        )
        try:
            return [_sum_of(*row) for row in rows]
        except (UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
            raise sqlite3.DatabaseError("a row is damaged") from error

    def rows_of(
        self, target: Target, after: int, count: int, size: int
    ) -> list[tuple[Any, ...]]:
        """The next rows of *target*: at most *count*, with about *size* bytes."""
        rows = self._connection.execute(
            f"{_SELECT} WHERE exchange = ? AND queue = ? AND number > ?"
            " ORDER BY number LIMIT ?",
            (*target, after, count),
        )
        found = []
        for row in rows:
            found.append(row)
            size -= len(row[COLUMNS.index("body")])
            if size <= 0:
                break
        rows.close()
        return found

    def scan(self, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        """The rows with numbers from *first* to *last*, in order."""
        where = "WHERE number BETWEEN ? AND ? ORDER BY number"
        if first == last:
            # Reads no other row, so that a damaged one after it has no effect.
            where = "WHERE number = max(?, ?)"
        return self._connection.execute(f"{_SELECT} {where}", (first, last))

    def rows_with(self, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows of the events with *ids*, 999 at most."""
        places = ", ".join("?" * len(ids))
        rows = self._connection.execute(f"{_SELECT} WHERE id IN ({places})", ids)
        return rows.fetchall()

    def ids_from(self, prefix: str) -> list[str]:
        """The ids that start with *prefix*, in the order of their rows."""
        rows = self._connection.execute(
            "SELECT id FROM events WHERE substr(id, 1, ?) = ? ORDER BY number",
            (len(prefix), prefix),
        )
        return [id.decode(errors="replace") for (id,) in rows]

    def sums(self) -> tuple[int, int, int | None]:
        """The number of waiting rows, of dead rows, and the oldest enqueue time."""
        ((rows, dead, oldest),) = self._connection.execute(
            f"SELECT count(*), total({_IS_DEAD}), min(enqueued_at) FROM events"  # noqa: S608 - as above
        )
        return rows - int(dead), int(dead), oldest

    def delayed(self) -> Iterator[tuple[Any, ...]]:
        """The waiting rows whose events have a delay, which may have passed."""
        has_delay = "instr(headers, ?) > 0"
        return self._connection.execute(
            f"{_SELECT} WHERE {has_delay} AND NOT {_IS_DEAD}", (DELAY_IN_TEXT,)
        )

    def rows_after(
        self,
        number: int,
        count: int,
        wanted: Filter = ALL,
        refusal_of: RefusalOf = lambda id, target: None,
    ) -> list[tuple[Any, ...]]:
        """The next *count* rows after *number* that are *wanted*.

        A damaged row is among them if what it is selected by may be what is damaged.

        :param refusal_of: tells why an event waits.
        """
        where: list[str] = ["number > ?"]
        values: list[Any] = [number]
        for condition, value in _conditions(wanted):
            where.append(condition)
            values += value
        if wanted.reason is not None:
            has_reason = functools.partial(_has_reason, wanted, refusal_of)
            self._connection.create_function("has_reason", 4, has_reason)
            where.append(_HAS_REASON)
        return self._connection.execute(
            f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY number LIMIT ?",
            (*values, count),
        ).fetchall()

    def is_empty(self) -> bool:
        """Whether no row is left."""
        found = self._connection.execute("SELECT 1 FROM events LIMIT 1").fetchone()
        return found is None

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        # SQLite may have rolled back already, and then raises.
        with suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")
