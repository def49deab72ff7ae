"""AMQP frames as pika decodes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pika import frame


def decoded_frames(data: bytes) -> Iterator[Any]:
    """The frames in *data*, which must be whole."""
    while data:
        size, decoded = frame.decode_frame(data)
        assert size, "a frame is cut off"
        yield decoded
        data = data[size:]
