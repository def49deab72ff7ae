"""Distinguishes a process from its ancestors, even if it has the id of one of them."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys

#: With this advice, Linux clears memory in a forked child, regardless of who forks:
#: uWSGI's prefork and C libraries run none of Python's hooks. Python has no name for
#: it. See MADV_WIPEONFORK in madvise(2).
_WIPE_ON_FORK = 18


def _new_page() -> memoryview[int]:
    """Memory for one number, which is 0 in a forked child where the system allows."""
    if sys.platform != "linux":
        return memoryview(bytearray(8)).cast("Q")
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # Linux before 4.14
        page.madvise(_WIPE_ON_FORK)
    return memoryview(page).cast("Q")


#: This process's generation; 0: not known yet.
_page = _new_page()
#: The newest generation of this process and its ancestors.
_newest = 0


def current_process() -> tuple[int, int]:
    """Identifies this process among its ancestors. Does not block.

    A process id is not sufficient: after the process has ended, its id may be reused,
    even by a descendant, which has inherited the memory of the process.

    :returns: the process's id, and its generation: how many forks there are between it
        and the process that imported this module.
    """
    global _newest
    # Two threads may be here at once. The page is read last and written first, so both
    # find the same generation, without a lock that a fork might leave locked.
    newest = _newest
    generation = _page[0]
    if not generation:
        generation = _page[0] = newest + 1
        _newest = generation
    return os.getpid(), generation


def _forget() -> None:
    _page[0] = 0


current_process()

if hasattr(os, "register_at_fork"):
    # For systems that do not clear it.
    os.register_at_fork(after_in_child=_forget)
