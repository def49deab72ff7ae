"""Closes the deliveries of a process at its end, even if it skips exit handlers."""

from __future__ import annotations

import atexit
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack

from .delivery import Delivery
from .process import current_process

#: By process: the deliveries started there, with the seconds that each may take to shut
#: down. A delivery outlives its app, since it may have events to deliver or to account
#: for: a script's app is often a local variable of its main function.
_deliveries: dict[object, weakref.WeakKeyDictionary[Delivery, float]] = {}
#: The processes whose deliveries were closed.
_ended: set[object] = set()
#: What is called once all deliveries of a process are closed.
_last: set[Callable[[], None]] = set()


def close_at_exit(delivery: Delivery, timeout: float) -> None:
    """Close *delivery* when this process ends, within *timeout* seconds.

    Closes it now if the others were closed already, such as in an exit handler that
    was registered before this library was imported: no other moment would come.
    """
    process = current_process()
    if process in _ended:
        delivery.close(0, reconnect=False)
    if process not in _deliveries:
        _close_at_end_of_multiprocessing()
        _close_at_end_of_celery()
    started = _deliveries.setdefault(process, weakref.WeakKeyDictionary())
    started[delivery] = timeout


def call_last(function: Callable[[], None]) -> None:
    """Call *function* once all deliveries of this process or a child are closed."""
    _last.add(function)


def close_when_gone(owner: object) -> None:
    """Close all deliveries of this process when *owner* is deleted."""
    weakref.finalize(owner, close_all)


@atexit.register
def close_all() -> None:
    """Let in-flight events finish, without new threads or connections."""
    started = time.monotonic()
    _ended.add(current_process())
    # Each is closed, also if a signal handler has ended the wait for another one.
    with ExitStack() as stack:
        for function in _last:
            stack.callback(function)
        for delivery, timeout in list(_deliveries.get(current_process(), {}).items()):
            stack.callback(_close, delivery, started + timeout)


def _close(delivery: Delivery, deadline: float) -> None:
    try:
        delivery.close(max(0.0, deadline - time.monotonic()), reconnect=False)
    except BaseException:
        # At least account for what is lost.
        delivery.close(0.0, reconnect=False)
        raise


# Processes that exit by os._exit(), so without atexit. A process that belongs to one of
# these modules has imported it; nothing is imported here.


def _close_at_end_of_multiprocessing() -> None:
    """Use the exit handlers that a child of multiprocessing runs.

    See https://docs.python.org/3/library/multiprocessing.html for the end of a process.
    """
    module = sys.modules.get("multiprocessing.process")
    if module is not None and module.parent_process() is not None:
        # The lowest priority: after the child's own handlers, and its own children.
        finalize = sys.modules["multiprocessing.util"].Finalize
        finalize(None, close_all, exitpriority=-1000)


def _close_at_end_of_celery() -> None:
    """Use the signal that a child of a Celery worker sends at its end.

    See https://docs.celeryq.dev/en/stable/userguide/signals.html.
    """
    module = sys.modules.get("celery.signals")
    if module is not None:
        module.worker_process_shutdown.connect(
            _on_celery_shutdown, weak=False, dispatch_uid=__name__
        )


def _on_celery_shutdown(**_about: object) -> None:
    close_all()
