"""Why one connection is left for another."""

from __future__ import annotations

import time

from .channel_pool import ChannelPool
from .renewal import Renewal

#: Seconds that outstanding confirms may take before the connection is left.
_LEAVE_TIMEOUT = 2.0


class Leaving:
    """Says when to leave, for a new login or for another node.

    :param may_leave_at: from when on, by the monotonic clock, the node may be left.
    """

    def __init__(
        self, channels: ChannelPool, renewal: Renewal, may_leave_at: float
    ) -> None:
        self._channels = channels
        self._renewal = renewal
        self._may_leave_at = may_leave_at
        self._leave_by = float("inf")
        #: Why the connection is ended on purpose; ``""``: it is not.
        self.because = ""
        #: Whether that is to use another node.
        self.leaves_node = False

    def is_due(self) -> bool:
        """Whether to close now. First, the outstanding confirms may arrive."""
        now = time.monotonic()
        if not self.because:
            self.because = self._hopeless(now) or self._renewal.look_after()
            self._leave_by = now + _LEAVE_TIMEOUT
        return bool(self.because) and (self._channels.is_idle or now >= self._leave_by)

    def _hopeless(self, now: float) -> str:
        """Why to use another node; ``""``: each queue may confirm on this one."""
        queue = self._channels.hopeless_queue
        self.leaves_node = bool(queue) and now >= self._may_leave_at
        if not self.leaves_node:
            return ""
        return f"the queue {queue!r} nacked on a new channel, too: trying another node"
