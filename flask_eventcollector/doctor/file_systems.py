"""On which file system a folder is."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")

#: Gone when the machine restarts.
IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
#: Where locks, or SQLite's shared memory, do not reach other machines.
#: https://www.sqlite.org/wal.html#overview
OVER_NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
}
#: The layer of a container, which is removed with it.
OF_CONTAINER = {"overlay", "aufs"}


def existing(path: Path) -> Path:
    """*path*, or the first folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def type_of(path: Path) -> str:
    """The type of the file system at *path*, an existing one; ``""``: unknown.

    See proc_pid_mountinfo(5).
    """
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    found, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        place = _unescaped(before.split(" ")[4])
        # Of two at the same place, the later one hides the other.
        if path.resolve().is_relative_to(place) and len(place) >= len(found):
            found, kind = place, after.split(" ")[0]
    return kind


def free_bytes(path: Path) -> int:
    """How many bytes this user may still write at *path*."""
    about = os.statvfs(path)
    return about.f_bavail * about.f_frsize


def _unescaped(text: str) -> str:
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), text)
