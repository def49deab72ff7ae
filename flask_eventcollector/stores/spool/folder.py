"""Manages the ownership of the files in the spool's folder."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

from ...config.spool_dir import OWN_NAME
from ...delivery.process import current_process
from .destination import Destination
from .journal import SUFFIXES, read_destination, was_begun

EXTENSION = ".spool"
#: A request from the command line to the process of a file; see `control`.
REQUEST = ".request"
#: The last refusals of a file's events; see `refusals`.
REFUSALS = ".refusals"
NEW_REFUSALS = ".refusals-new"
_LOCK = ".lock"
_QUARANTINED = ".quarantined"

#: The files that this process has locked. The key has the process, since a forked child
#: does not inherit the locks. ``lockf`` excludes other processes, not other
#: threads, and closing *any* descriptor of a file releases all of the process's locks
#: on it. So a process opens a lock file only once. See "Advisory record locking" in
#: fcntl(2).
_held: dict[tuple[object, str], object] = {}

#: The destination by file, which never changes.
_destinations: dict[str, Destination] = {}
_MOST_DESTINATIONS = 10_000


class ForeignFile(Exception):
    """A file that must not be opened. The message says why."""


class Claim:
    """A spool file that this process has locked, until its end or a release."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Unlock the file, so that any process may claim it."""
        os.close(self._descriptor)
        _held.pop(_key(self.path), None)

    def remove(self) -> None:
        """Delete the file, which has no events left to deliver."""
        for suffix in ("", *SUFFIXES):
            _unlink(self.path, suffix)
        self._end()

    def quarantine(self) -> Path:
        """Rename the file, so that no process uses it; returns its new path.

        :raises OSError: the folder can't be written.
        """
        quarantined = self.path.with_name(self.path.name + _QUARANTINED)
        for suffix in ("", *SUFFIXES):
            with suppress(FileNotFoundError):
                os.rename(f"{self.path}{suffix}", f"{quarantined}{suffix}")
        self._end()
        return quarantined

    def _end(self) -> None:
        for suffix in (REQUEST, REFUSALS, NEW_REFUSALS, _LOCK):
            _unlink(self.path, suffix)
        self.release()


class Folder:
    """The files of one app with one destination. Others may share the folder itself."""

    def __init__(self, path: Path, name: str, destination: Destination) -> None:
        self.path = path
        #: The app's name, or EVENTCOLLECTOR_SPOOL_NAME.
        self.name = name
        #: The destination of the events in these files.
        self.destination = destination
        self._prefix = f"{quote(name, safe='')}@"
        #: The files that were created through this object. They do not become orphans
        #: once released, since their writer still holds their events.
        self._own: set[Path] = set()

    def make(self) -> None:
        """Create the folder, which only its owner can enter.

        :raises OSError: it can't be created.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.name == OWN_NAME:
            # Kubernetes gives the group access to everything in a volume with an
            # fsGroup, each time it mounts the volume.
            self.path.chmod(0o700)

    def claim_new(self) -> Claim:
        """Lock a new name for this process's own file.

        :raises OSError: the lock file can't be created.
        """
        whose = f"{self._prefix}{self.destination.digest}@{os.getpid()}"
        name = f"{whose}@{secrets.token_hex(4)}{EXTENSION}"
        claim = _lock(self.path / name)
        if claim is None:
            raise OSError(errno.EEXIST, "the spool file exists already", name)
        self._own.add(claim.path)
        return claim

    def files(self) -> list[Path]:
        """The app's files with this destination, sorted by name.

        :raises OSError: the folder can't be read.
        """
        return [path for path in self._files(EXTENSION) if self._is_ours(path)]

    def other_files(self) -> list[Path]:
        """The app's files with other destinations, sorted by name.

        :raises OSError: the folder can't be read.
        """
        return [path for path in self._files(EXTENSION) if not self._is_ours(path)]

    def own_files(self) -> list[Path]:
        """The files from :meth:`claim_new` of this object."""
        return list(self._own)

    def touch(self) -> None:
        """Touch the locks of :meth:`files`, whose processes notice that.

        :raises OSError: the folder can't be read.
        """
        for path in self.files():
            with suppress(OSError):
                os.utime(f"{path}{_LOCK}")

    def touched(self, paths: Iterable[Path]) -> dict[Path, int]:
        """When the locks of *paths* were last touched; opens none of them."""
        found: dict[Path, int] = {}
        for path in paths:
            with suppress(OSError):
                found[path] = os.stat(f"{path}{_LOCK}").st_mtime_ns
        return found

    def quarantined_files(self) -> list[Path]:
        """The app's quarantined files, which no process uses.

        :raises OSError: the folder can't be read.
        """
        paths = self._files(EXTENSION + _QUARANTINED)
        return [path for path in paths if self._is_ours(path)]

    def all_files(self) -> dict[str, list[Path]]:
        """The files of all apps, by the app's name.

        :raises OSError: the folder can't be read.
        """
        found: dict[str, list[Path]] = {}
        for name in self._names():
            app, at, _ = name.partition("@")
            if at and name.endswith(EXTENSION):
                found.setdefault(unquote(app), []).append(self.path / name)
        return found

    def abandoned_files(self) -> dict[str, list[Path]]:
        """The files of the other apps without any process, by the app's name.

        :raises OSError: the folder can't be read.
        """
        return {
            name: paths
            for name, paths in self.all_files().items()
            if name != self.name and all(holder_of(path) is None for path in paths)
        }

    def strays(self) -> tuple[list[Path], dict[str, list[Path]]]:
        """The dead processes' files that this app's processes don't adopt.

        These are its own for other destinations, and :meth:`abandoned_files`. Takes
        microseconds for each file.

        :raises OSError: the folder can't be read.
        """
        others = [path for path in self.other_files() if holder_of(path) is None]
        return others, self.abandoned_files()

    def _files(self, ending: str) -> list[Path]:
        own = (n for n in self._names() if n.startswith(self._prefix))
        return [self.path / name for name in own if name.endswith(ending)]

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _is_ours(self, path: Path) -> bool:
        """Whether the events in *path* belong to this destination.

        A file of version 1 has no destination: then the app's name decides. If the
        first page is damaged, the file's name decides.
        """
        found = destination_of(path)
        if found is not None:
            return self.destination.is_same(found)
        named = path.name.split("@")[1:-2]
        return not named or named == [self.destination.digest]

    def claim_orphans(self) -> Iterator[Claim]:
        """Lock the files of dead processes, one after the other.

        Files from :meth:`claim_new` of this object are excluded.

        :raises OSError: the folder can't be read, or no file descriptors are left.
        """
        for path in self.files():
            claim = None if path in self._own else _claim_orphan(path)
            if claim is not None:
                yield claim

    def has_orphans(self) -> bool:
        """Whether there are files of dead processes: to adopt, or :meth:`strays`.

        True if it is unknown. Takes microseconds for each file.
        """
        try:
            for claim in self.claim_orphans():
                claim.release()
                return True
            return any(self.strays())
        except OSError:
            return True


def destination_of(path: Path) -> Destination | None:
    """The destination of the events in *path*; ``None``: unknown, or unreadable.

    A file that this process has locked is not opened, since closing it would release
    the locks that SQLite has on it.
    """
    name, key, token = str(path), _key(path), object()
    if name in _destinations or _held.setdefault(key, token) is not token:
        return _destinations.get(name)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        text = read_destination(path)
    except OSError:
        return None
    finally:
        del _held[key]
    if not text:
        return None
    if len(_destinations) >= _MOST_DESTINATIONS:
        _destinations.clear()
    return _destinations.setdefault(name, Destination(tuple(text.split())))


def claim_orphan(path: Path) -> Claim | None:
    """Lock the file of a dead process; ``None``: it is running, or locking failed."""
    try:
        return _claim_orphan(path)
    except OSError:
        return None


def _claim_orphan(path: Path) -> Claim | None:
    try:
        claim = _lock(path)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            # This does not concern the file.
            raise
        return None
    if claim is not None and not os.path.lexists(path):
        # Its owner has just removed it.
        claim.remove()
        return None
    return claim


def holder_of(path: Path) -> int | None:
    """The id of the process that has locked *path*; ``None``: none has.

    0 if the process is unknown.
    """
    claim = claim_orphan(path)
    if claim is not None:
        claim.release()
        return None
    token = object()
    if _held.setdefault(_key(path), token) is not token:
        return os.getpid()
    try:
        # Closing it releases this process's locks on it, but there are none now.
        return int(Path(f"{path}{_LOCK}").read_text() or 0)
    except (OSError, ValueError):
        return 0
    finally:
        del _held[_key(path)]


def creator_of(path: Path) -> int:
    """The id of the process that created *path*; 0 if unknown."""
    number = path.name.split("@")[-2:-1]
    return int(number[0]) if number and number[0].isdecimal() else 0


def can_hold_events(path: Path) -> bool:
    """Whether the file has content; ``False``: its process has written nothing yet.

    :raises ForeignFile: it must not be opened.
    :raises NewerVersion: it was written by a newer version of the library.
    :raises sqlite3.DatabaseError: it is damaged.
    """
    about = os.lstat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ForeignFile("it is not a regular file")
    if about.st_uid != os.geteuid():
        raise ForeignFile(f"it belongs to the user with id {about.st_uid}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise ForeignFile("this process has no read and write permission")
    return was_begun(path)


def _key(path: Path) -> tuple[object, str]:
    return current_process(), str(path)


def _lock(path: Path) -> Claim | None:
    token = object()
    if _held.setdefault(_key(path), token) is not token:
        return None
    try:
        descriptor = _open_locked(path)
    except BaseException:
        del _held[_key(path)]
        raise
    if descriptor is None:
        del _held[_key(path)]
        return None
    return Claim(path, descriptor)


def _open_locked(path: Path) -> int | None:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(f"{path}{_LOCK}", flags, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return None
        raise
    except BaseException:
        os.close(descriptor)
        raise
    with suppress(OSError):
        # Informational: another process than the creator may hold the lock.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d" % os.getpid(), 0)
    return descriptor


def _unlink(path: Path, suffix: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(f"{path}{suffix}")
