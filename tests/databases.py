"""Private database servers for tests, which they may stop and kill.

They share nothing with a server of the system: each has its own folder and port, and
ends with the process that started it. They survive a `kill()`, but not a power failure,
since they do not wait for the disk.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from flask_eventcollector.verifying import keeper
from tests.helpers import unmeasured
from tests.rabbitmq import free_ports

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0

_KEEPER = Path(keeper.__file__)
#: Debian has several versions side by side, none of them on PATH.
_DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")


class DatabaseError(RuntimeError):
    """The server did not do what was requested."""


class DatabaseServer(ABC):
    """A server with its own folder: `start()` it, and `close()` it in the end."""

    #: A database that is always there.
    system: str
    #: Ends it gracefully, without waiting for its clients.
    stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        # The path of a socket in it must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="eventcollector-db-"))
        self.data = self.folder / "data"
        (self.port,) = free_ports(1)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    @abstractmethod
    def url(self, database: str) -> str:
        """The URL of a database on this server, for SQLAlchemy."""

    @abstractmethod
    def _create_command(self) -> Sequence[str]:
        """Creates the server's files."""

    @abstractmethod
    def _server_command(self) -> Sequence[str]:
        """Becomes the server."""

    @abstractmethod
    def _pid_file(self) -> Path:
        """The file whose first line has the server's process id while it runs."""

    @property
    def is_running(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the server, valid while it runs."""
        return int(self._pid_file().read_text().split()[0])

    @property
    def log(self) -> str:
        """The server's log since its first start."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, with its earlier data; return when it accepts connections."""
        if self.is_running:
            return
        if not self.data.exists():
            self._create()
        command = [sys.executable, str(_KEEPER), str(self.folder), str(os.getpid())]
        with (self.folder / "log").open("ab") as log:
            self._keeper = subprocess.Popen(
                [*command, *_as_user(), *self._server_command()],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop it gracefully; open transactions are rolled back."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill it; its data stays for the next `start()`."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Kill it and remove its data."""
        if self._keeper is not None:
            with contextlib.suppress(OSError, ValueError):
                self.kill()
            # If it never became ready: the keeper leads its own process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait(STOP_TIMEOUT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """Create an empty database; return its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str) -> None:
        """Execute a statement on a connection of its own, outside of a transaction."""
        engine = sqlalchemy.create_engine(
            self.url(self.system), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(statement))

    def _create(self) -> None:
        self.folder.chmod(0o755)
        self.data.mkdir(0o700)
        if (user := _user()) is not None:
            for path in (self.folder, self.data):
                os.chown(path, user.pw_uid, user.pw_gid)
        command = [*_as_user(), *self._create_command()]
        result = subprocess.run(
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            shutil.rmtree(self.data)
            raise DatabaseError(f"{command}: {result.stdout}{result.stderr}")

    def _environment(self) -> dict[str, str]:
        # A MariaDB that starts removes all temporary tables from the folder for
        # temporary files, also those of another one.
        return {**unmeasured(), "TMPDIR": str(self.folder)}

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                return self.execute("SELECT 1")
            except DBAPIError as error:
                if not self.is_running or time.monotonic() > deadline:
                    raise DatabaseError(f"not started:\n{self.log[-4000:]}") from error
                time.sleep(0.02)

    def _end(self, number: signal.Signals) -> None:
        if self._keeper is not None and self.is_running:
            os.kill(self.pid, number)
            self._keeper.wait(STOP_TIMEOUT)


class PostgreSQL(DatabaseServer):
    """A private PostgreSQL."""

    system = "postgres"
    stop_signal = signal.SIGINT

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://test@127.0.0.1:{self.port}/{database}"

    def _create_command(self) -> Sequence[str]:
        initdb = self._program("initdb")
        user = ["--username=test", "--auth=trust"]
        files = [f"--pgdata={self.data}", "--encoding=UTF8", "--no-locale", "--no-sync"]
        return [initdb, *user, *files]

    def _server_command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            # For two-phase commits.
            "max_prepared_transactions": "10",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        where = ["-D", str(self.data), "-p", str(self.port)]
        return [self._program("postgres"), *where, *options]

    def _pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    def _program(self, name: str) -> str:
        programs = find_postgresql()
        assert programs, "PostgreSQL's programs were not found"
        return str(programs / name)


class PgBouncer(DatabaseServer):
    """A private PgBouncer, which gives each transaction any connection to *behind*."""

    system = "postgres"
    #: SIGTERM waits for the clients.
    stop_signal = signal.SIGINT

    def __init__(self, behind: PostgreSQL) -> None:
        super().__init__()
        self._behind = behind

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://test@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        _, _, name = self._behind.new_database().rpartition("/")
        return self.url(name)

    def _create_command(self) -> Sequence[str]:
        server = f"host=127.0.0.1 port={self._behind.port} user=test"
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "pidfile": self._pid_file(),
            "auth_type": "any",
            "pool_mode": "transaction",
            # Fewer than the clients, so that these have to share them.
            "default_pool_size": 2,
        }
        lines = ["[databases]", f"* = {server}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        (self.folder / "pgbouncer.ini").write_text("\n".join(lines))
        return ["true"]

    def _server_command(self) -> Sequence[str]:
        return [_found("pgbouncer"), str(self.folder / "pgbouncer.ini")]

    def _pid_file(self) -> Path:
        return self.folder / "pid"


class MariaDB(DatabaseServer):
    """A private MariaDB."""

    system = "mysql"

    def url(self, database: str) -> str:
        return f"mysql+pymysql://test@127.0.0.1:{self.port}/{database}"

    def _create_command(self) -> Sequence[str]:
        # Runs at each start.
        (self.folder / "init.sql").write_text(
            "CREATE USER IF NOT EXISTS test@'127.0.0.1';\n"
            "GRANT ALL ON *.* TO test@'127.0.0.1';\n"
        )
        method = "--auth-root-authentication-method=normal"
        files = ["--no-defaults", f"--datadir={self.data}", "--skip-test-db"]
        return [_found("mariadb-install-db"), *files, method]

    def _server_command(self) -> Sequence[str]:
        files = {
            "datadir": self.data,
            "socket": self.folder / "socket",
            "pid-file": self._pid_file(),
            "init-file": self.folder / "init.sql",
        }
        network = ["--bind-address=127.0.0.1", f"--port={self.port}"]
        speed = ["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2"]
        options = [f"--{name}={path}" for name, path in files.items()]
        return [_found("mariadbd"), "--no-defaults", *network, *speed, *options]

    def _pid_file(self) -> Path:
        return self.folder / "pid"


def missing_postgresql() -> str | None:
    """What a `PostgreSQL` needs and is missing."""
    if find_postgresql() is None:
        return "PostgreSQL (Debian: postgresql)"
    return _missing_package("psycopg")


def missing_pgbouncer() -> str | None:
    """What a `PgBouncer` needs and is missing."""
    if not _which("pgbouncer"):
        return "PgBouncer (Debian: pgbouncer)"
    return missing_postgresql()


def missing_mariadb() -> str | None:
    """What a `MariaDB` needs and is missing."""
    if not (_which("mariadbd") and _which("mariadb-install-db")):
        return "MariaDB (Debian: mariadb-server)"
    return _missing_package("pymysql")


def find_postgresql() -> Path | None:
    """The folder of PostgreSQL's programs, the newest of Debian's first."""
    folders = [*_DEBIAN_POSTGRESQL.glob("*/bin")]
    folders.sort(key=lambda folder: float(folder.parent.name), reverse=True)
    if on_path := _which("initdb"):
        folders.append(Path(on_path).parent)
    needed = ("initdb", "postgres")
    return next((f for f in folders if all((f / n).exists() for n in needed)), None)


def _which(program: str) -> str | None:
    # A user's PATH may lack the folders of servers.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    return shutil.which(program, path=path)


def _found(program: str) -> str:
    found = _which(program)
    assert found, f"{program} was not found"
    return found


def _missing_package(name: str) -> str | None:
    found = importlib.util.find_spec(name)
    return f"the Python package {name}" if found is None else None


def _user() -> pwd.struct_passwd | None:
    """Whom the servers run as, since they refuse to run as root."""
    return None if os.getuid() else pwd.getpwnam("nobody")


def _as_user() -> Sequence[str]:
    user = _user()
    if user is None:
        return []
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, "--"]
