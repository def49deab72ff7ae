"""The spool's folder: whose each file is, and which have nobody left."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

from .journal import SUFFIXES, was_begun

EXTENSION = ".spool"
#: What the command line asks the process of a file for; see `backlog.remote`.
REQUEST = ".request"
_LOCK = ".lock"
_QUARANTINED = ".quarantined"

#: The files that this process has locked, by its id: a forked child has none of them.
#: ``lockf`` excludes other processes, not other threads, and closing *any* descriptor
#: of a file gives all of its locks away: so a process opens a lock file only once.
#: See "Advisory record locking" in fcntl(2).
_held: dict[tuple[int, str], object] = {}


class ForeignFile(Exception):
    """A file that must not be opened; the message says why."""


class Claim:
    """A file of the spool that this process has locked, until it ends or lets go."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Leave the file to whoever finds it."""
        os.close(self._descriptor)
        _held.pop(_key(self.path), None)

    def remove(self) -> None:
        """Delete the file, which has nothing left to deliver."""
        for suffix in ("", *SUFFIXES):
            _unlink(self.path, suffix)
        self._end()

    def quarantine(self) -> Path:
        """Rename the file, so that nobody takes it for a spool; returns its new path.

        :raises OSError: the folder does not let it.
        """
        quarantined = self.path.with_name(self.path.name + _QUARANTINED)
        for suffix in ("", *SUFFIXES):
            with suppress(FileNotFoundError):
                os.rename(f"{self.path}{suffix}", f"{quarantined}{suffix}")
        self._end()
        return quarantined

    def _end(self) -> None:
        for suffix in (REQUEST, _LOCK):
            _unlink(self.path, suffix)
        self.release()


class Folder:
    """The files of one app. The folder itself may serve several apps."""

    def __init__(self, path: Path, app_name: str) -> None:
        self.path = path
        self._prefix = f"{quote(app_name, safe='')}@"
        #: What was claimed as new here. It is no orphan as soon as it is let go: what
        #: it holds is still known to whoever wrote it.
        self._own: set[Path] = set()

    def make(self) -> None:
        """Make the folder, which only its owner may enter.

        :raises OSError: it can't be made.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def claim_new(self) -> Claim:
        """A name for this process's own file, locked. :raises OSError: it can't."""
        name = f"{self._prefix}{os.getpid()}@{secrets.token_hex(4)}{EXTENSION}"
        claim = _lock(self.path / name)
        if claim is None:
            raise OSError(errno.EEXIST, "the spool's name is taken", name)
        self._own.add(claim.path)
        return claim

    def files(self) -> list[Path]:
        """The app's files, oldest name first."""
        return self._files(EXTENSION)

    def quarantined_files(self) -> list[Path]:
        """The app's files that could not be read as a whole; nobody uses them."""
        return self._files(EXTENSION + _QUARANTINED)

    def _files(self, ending: str) -> list[Path]:
        try:
            names = os.listdir(self.path)
        except OSError:
            return []
        mine = (n for n in names if n.startswith(self._prefix))
        return [self.path / name for name in sorted(mine) if name.endswith(ending)]

    def claim_orphans(self) -> Iterator[Claim]:
        """Lock the files of dead processes, one after the other.

        A name of :meth:`claim_new` is left to other folders' objects.
        """
        for path in self.files():
            claim = None if path in self._own else claim_orphan(path)
            if claim is not None:
                yield claim

    def has_orphans(self) -> bool:
        """Whether any file has nobody left; takes microseconds for each file."""
        for claim in self.claim_orphans():
            claim.release()
            return True
        return False


def claim_orphan(path: Path) -> Claim | None:
    """Lock a file whose process is dead; ``None``: it lives, or can't be locked."""
    try:
        claim = _lock(path)
    except OSError:
        return None
    if claim is not None and not os.path.lexists(path):
        # Its owner has removed it a moment ago.
        claim.remove()
        return None
    return claim


def holder_of(path: Path) -> int | None:
    """The id of the process that has locked *path*; ``None``: it has nobody left.

    0 if the process can't be told.
    """
    claim = claim_orphan(path)
    if claim is not None:
        claim.release()
        return None
    mine = object()
    if _held.setdefault(_key(path), mine) is not mine:
        return os.getpid()
    try:
        # To close it takes away this process's locks of it, of which it has none now.
        return int(Path(f"{path}{_LOCK}").read_text() or 0)
    except (OSError, ValueError):
        return 0
    finally:
        del _held[_key(path)]


def creator_of(path: Path) -> int:
    """The id of the process that made *path*; 0 if the name doesn't tell."""
    number = path.name.split("@")[-2:-1]
    return int(number[0]) if number and number[0].isdecimal() else 0


def can_hold_events(path: Path) -> bool:
    """Whether to open the file; ``False``: its process had not written anything yet.

    :raises NotOurs: it must not be opened.
    :raises NewerVersion: it was written by a newer version of the library.
    :raises sqlite3.DatabaseError: it is damaged.
    """
    about = os.lstat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ForeignFile("it is not a regular file")
    if about.st_uid != os.geteuid():
        raise ForeignFile(f"it belongs to the user with the id {about.st_uid}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise ForeignFile("its mode keeps this process from reading and writing it")
    return was_begun(path)


def _key(path: Path) -> tuple[int, str]:
    return os.getpid(), str(path)


def _lock(path: Path) -> Claim | None:
    mine = object()
    if _held.setdefault(_key(path), mine) is not mine:
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
        # For people: this may be another process than the one that made the file.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d" % os.getpid(), 0)
    return descriptor


def _unlink(path: Path, suffix: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(f"{path}{suffix}")
