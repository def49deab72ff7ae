"""The proxy between the rig's apps and a node of its own."""

from __future__ import annotations

from flask_eventcollector.verifying import proxy
from flask_eventcollector.verifying.proxy import Side

__all__ = ["Proxy", "Side"]


class Proxy(proxy.Proxy):
    """A proxy in front of a private node, with its URL."""

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"
