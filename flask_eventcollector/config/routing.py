"""Routes messages as RabbitMQ does, by the bindings of the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .exchanges import type_of
from .queues import Binding
from .topology import Topology


class Router:
    """Tells which queues of the settings get a message."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._bindings: dict[str, list[tuple[str, Binding]]] = {}
        for queue, binding in topology.bindings:
            self._bindings.setdefault(binding.exchange, []).append((queue, binding))

    def queues(
        self, exchange: str, key: str, headers: Mapping[str, Any]
    ) -> tuple[str, ...] | None:
        """The queues that get a message, in the order of the settings.

        ``None``: the settings don't say, since no queue of theirs is bound to the
        exchange, or its type is unknown.
        """
        return self._through(exchange, key, headers, seen=())

    def declared_queue(
        self, exchange: str, key: str, headers: Mapping[str, Any]
    ) -> str | None:
        """A queue that gets a message if all is there that the settings declare."""
        found = self.queues(exchange, key, headers) or ()
        declared = (name for name in found if self._topology.queues[name].declare)
        return next(declared, None)

    def _through(
        self, name: str, key: str, headers: Mapping[str, Any], seen: tuple[str, ...]
    ) -> tuple[str, ...] | None:
        if not name:
            return (key,) if key in self._topology.queues else None
        bindings = self._bindings.get(name)
        matches = _MATCHES.get(type_of(name, self._topology.exchanges) or "")
        if bindings is None or matches is None:
            return None
        found = [q for q, binding in bindings if matches(binding, key, headers)]
        options = self._topology.exchanges.get(name)
        alternate = "" if options is None else options.alternate
        if found or not alternate or alternate in seen:
            return tuple(dict.fromkeys(found))
        return self._through(alternate, key, headers, (*seen, name))


def _direct(binding: Binding, key: str, _: Mapping[str, Any]) -> bool:
    return binding.key == key


def _fanout(*_: object) -> bool:
    return True


def _topic(binding: Binding, key: str, _: Mapping[str, Any]) -> bool:
    return _fits(_words(binding.key), _words(key))


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _fits(pattern: list[str], words: list[str]) -> bool:
    """Whether *pattern* matches: ``*`` is one word, ``#`` any number of them.

    To follow all places in the pattern at once takes no longer for many ``#``.
    """
    places = _and_behind(pattern, {0})
    for word in words:
        fitting = {p for p in places if pattern[p : p + 1] in (["#"], ["*"], [word])}
        after = {p if pattern[p] == "#" else p + 1 for p in fitting}
        places = _and_behind(pattern, after)
    return len(pattern) in places


def _and_behind(pattern: list[str], places: set[int]) -> set[int]:
    """These *places* in the pattern, and those behind a ``#``, which may be nothing."""
    found = set(places)
    for place in places:
        while pattern[place : place + 1] == ["#"]:
            place += 1
            found.add(place)
    return found


def _headers(binding: Binding, _: str, headers: Mapping[str, Any]) -> bool:
    """https://www.rabbitmq.com/docs/exchanges#headers"""
    mode = str(binding.arguments.get("x-match", "all"))
    wanted = {
        name: value
        for name, value in binding.arguments.items()
        if name != "x-match" and (mode.endswith("-with-x") or name[:2] != "x-")
    }
    found = (_has(headers, name, value) for name, value in wanted.items())
    return any(found) if mode.startswith("any") else all(found)


def _has(headers: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether a header has *value*; ``None`` stands for any."""
    if name not in headers:
        return False
    found, wanted = _as_bytes(headers[name]), _as_bytes(value)
    return value is None or (type(found) is type(wanted) and found == wanted)


def _as_bytes(value: Any) -> Any:
    """Text as the bytes that RabbitMQ compares; any other *value* as it is."""
    return value.encode() if isinstance(value, str) else value


_MATCHES: Mapping[str, Callable[[Binding, str, Mapping[str, Any]], bool]] = {
    "direct": _direct,
    "fanout": _fanout,
    "headers": _headers,
    "topic": _topic,
}
