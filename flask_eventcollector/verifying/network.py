"""Faults of the network, during a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from .proxy import Proxy, Side

#: A fault of the network behind a proxy.
Fault = Callable[[Proxy], AbstractContextManager[None]]


def heal(proxy: Proxy) -> None:
    """End all faults."""
    proxy.restore()
    # A connection that has lost bytes stays broken.
    proxy.cut()


@contextmanager
def _cut(proxy: Proxy) -> Iterator[None]:
    proxy.cut()
    yield


@contextmanager
def _half_closed(proxy: Proxy) -> Iterator[None]:
    proxy.half_close(Side.CLIENT)
    yield


@contextmanager
def _in_a_black_hole(proxy: Proxy) -> Iterator[None]:
    proxy.silence(*Side)
    yield
    heal(proxy)


@contextmanager
def _without_confirms(proxy: Proxy) -> Iterator[None]:
    proxy.silence(Side.BROKER)
    yield
    heal(proxy)


@contextmanager
def _held(proxy: Proxy) -> Iterator[None]:
    proxy.hold()
    yield
    proxy.restore()


@contextmanager
def _slow(proxy: Proxy) -> Iterator[None]:
    proxy.latency = 0.1
    yield
    proxy.restore()


@contextmanager
def _narrow(proxy: Proxy) -> Iterator[None]:
    proxy.bandwidth = 16_000
    yield
    proxy.restore()


#: By name.
FAULTS: dict[str, Fault] = {
    "black hole": _in_a_black_hole,
    "confirms dropped": _without_confirms,
    "connections cut": _cut,
    "connections half closed": _half_closed,
    "latency": _slow,
    "network paused": _held,
    "narrow network": _narrow,
}
