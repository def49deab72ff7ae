"""Tells consumers which events were handed over together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from uuid import uuid4

from ..messages.amqp_fields import BATCH_ID, BATCH_INDEX, BATCH_SIZE
from .entries import Entry


def label(entries: Sequence[Entry]) -> None:
    """Give the events of one batch headers with its id and size, and their places."""
    batch = {BATCH_ID: str(uuid4()), BATCH_SIZE: len(entries)}
    for index, entry in enumerate(entries):
        headers = {**entry.event.headers, **batch, BATCH_INDEX: index}
        entry.event = replace(entry.event, headers=MappingProxyType(headers))
