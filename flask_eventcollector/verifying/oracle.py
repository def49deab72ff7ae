"""Compares the attempts, the responses and the arrivals.

The terms are those of RabbitMQ's own Jepsen suite: an event is *attempted* when it is
in the side file, *acknowledged* when a request was answered 2xx with its key, *lost*
when it is acknowledged and did not arrive, *recovered* when it arrived without having
been acknowledged, *duplicated* when it arrived more than once, and *unexpected* when it
arrived without having been attempted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..messages.amqp_fields import POSSIBLE_DUPLICATE


class Copy(NamedTuple):
    """What the oracle must know of a message."""

    key: str
    id: str | None
    is_marked: bool


def copy_of(properties: Any, body: bytes) -> Copy:
    """Read a message.

    :param properties: pika's ``BasicProperties``.
    """
    is_marked = bool((properties.headers or {}).get(POSSIBLE_DUPLICATE))
    return Copy(_key(properties, body), properties.message_id, is_marked)


def _key(properties: Any, body: bytes) -> str:
    try:
        return str(json.loads(body)["key"])
    except (KeyError, TypeError, ValueError):
        # Somebody else has sent it, so it is unexpected.
        return f"message {properties.message_id} without a key"


@dataclass(frozen=True)
class Verdict:
    """The keys of the events, by their fate."""

    attempted: frozenset[str]
    acknowledged: frozenset[str]
    lost: frozenset[str]
    duplicated: frozenset[str]
    recovered: frozenset[str]
    unexpected: frozenset[str]
    #: Arrived more than once without a mark, or with more than one id.
    unmarked: frozenset[str]


def check(
    attempted: Collection[str],
    acknowledged: Collection[str],
    arrived: Iterable[Copy],
) -> Verdict:
    """Judge what has *arrived*, in the order of its arrival at each queue."""
    copies = _by_key(arrived)
    tried, known, came = map(frozenset, (attempted, acknowledged, copies))
    return Verdict(
        attempted=tried,
        acknowledged=known,
        lost=known - came,
        duplicated=frozenset(k for k, found in copies.items() if len(found) > 1),
        recovered=(came & tried) - known,
        unexpected=came - tried,
        unmarked=frozenset(k for k, found in copies.items() if _is_unmarked(found)),
    )


def _by_key(arrived: Iterable[Copy]) -> dict[str, list[Copy]]:
    copies: dict[str, list[Copy]] = defaultdict(list)
    for copy in arrived:
        copies[copy.key].append(copy)
    return copies


def _is_unmarked(copies: list[Copy]) -> bool:
    # A message that was delayed by a slow connection may arrive after its marked copy.
    plain = [copy for copy in copies if not copy.is_marked]
    return len(plain) > 1 or len({copy.id for copy in copies}) > 1
