"""Confirms are read from the connection's bytes; all else is left to pika."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame
from pika.exceptions import InvalidFrameError
from pika.spec import Basic

from flask_eventcollector.brokers.rabbitmq.connection import Ack, Connection


class Idle(Connection):
    """A connection that connects to nothing, and notes what pika processes."""

    def __init__(self) -> None:
        # Not pika's, which would open a socket.
        self.bytes_received = self.frames_received = 0
        self._frame_buffer = b""
        self.acks: list[Ack] = []
        self.processed: list[Any] = []
        self.order: list[object] = []
        self.on_acks = self._note

    def _note(self, acks: list[Ack]) -> None:
        self.acks += acks
        self.order += acks

    def _process_frame(self, frame_value: Any) -> None:
        self.processed.append(frame_value)
        self.order.append(frame_value)

    def receive(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self._on_data_available(chunk)


def ack(tag: int, *, multiple: bool = False, channel: int = 1) -> bytes:
    return frame.Method(channel, Basic.Ack(tag, multiple)).marshal()


NACK = frame.Method(1, Basic.Nack(9)).marshal()
HEARTBEAT = frame.Heartbeat().marshal()


def test_confirms_are_not_left_to_pika() -> None:
    connection = Idle()
    connection.receive([ack(1) + ack(5, multiple=True, channel=3)])
    assert connection.acks == [Ack(1, 1, False), Ack(3, 5, True)]
    assert connection.processed == []
    # By these, pika sees that the broker is alive.
    assert connection.bytes_received == 42
    assert connection.frames_received == 2


@pytest.mark.parametrize("other", [NACK, HEARTBEAT])
def test_all_else_is_left_to_pika_in_order(other: bytes) -> None:
    connection = Idle()
    connection.receive([ack(1) + other + ack(2)])
    assert connection.acks == [Ack(1, 1, False)]
    first, second, third = connection.order
    assert (first, second) == (Ack(1, 1, False), connection.processed[0])
    assert third is connection.processed[1]
    assert third.method.delivery_tag == 2


@given(
    parts=st.lists(st.sampled_from([ack(1), ack(2, multiple=True), NACK, HEARTBEAT])),
    cuts=st.lists(st.integers(0, 200)),
)
def test_frames_may_be_cut_anywhere(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    connection = Idle()
    connection.receive(data[a:b] for a, b in itertools.pairwise(places))
    assert len(connection.order) == len(parts)
    assert connection.bytes_received == len(data)
    assert connection._frame_buffer == b""


def test_a_confirm_with_a_wrong_end_is_pikas_to_refuse() -> None:
    broken = ack(1)[:-1] + b"x"
    with pytest.raises(InvalidFrameError):
        Idle().receive([broken])
