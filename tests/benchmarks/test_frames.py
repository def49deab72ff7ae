"""Bare frames are what pika would send, and confirms are counted."""

from __future__ import annotations

import pytest
from pika import frame, spec

from benchmarks.frames import Confirms, Template


def decode(data: bytes) -> list[object]:
    found: list[object] = []
    while data:
        consumed, one = frame.decode_frame(data)
        found.append(one)
        data = data[consumed:]
    return found


def ack(tag: int, *, multiple: bool = False) -> bytes:
    method = spec.Basic.Ack(delivery_tag=tag, multiple=multiple)
    encoded: bytes = frame.Method(1, method).marshal()
    return encoded


def test_pika_reads_a_message_from_the_template() -> None:
    publish, header, body = decode(Template("orders").encode(b"{}"))

    assert isinstance(publish, frame.Method)
    assert isinstance(header, frame.Header)
    assert isinstance(body, frame.Body)
    assert publish.method.routing_key == "orders"
    assert publish.method.mandatory
    assert header.body_size == 2
    assert header.properties.delivery_mode == 2
    assert body.fragment == b"{}"


def test_each_message_has_an_id_of_its_own() -> None:
    template = Template("orders")

    _, one, _ = decode(template.encode(b"{}"))
    _, other, _ = decode(template.encode(b"{}"))

    assert isinstance(one, frame.Header)
    assert isinstance(other, frame.Header)
    assert len(one.properties.message_id or "") == 36
    assert one.properties.message_id != other.properties.message_id


def test_confirms_count_in_any_order() -> None:
    confirms = Confirms()

    confirms.feed(ack(2))
    assert confirms.up_to == 0

    confirms.feed(ack(1))
    assert confirms.up_to == 2


def test_one_confirm_can_stand_for_several() -> None:
    confirms = Confirms()

    confirms.feed(ack(5) + ack(4, multiple=True))

    assert confirms.up_to == 5


def test_a_confirm_may_arrive_in_parts() -> None:
    confirms = Confirms()

    for byte in ack(1) + ack(2):
        confirms.feed(bytes([byte]))

    assert confirms.up_to == 2


def test_anything_but_a_confirm_is_an_error() -> None:
    nack = frame.Method(1, spec.Basic.Nack(delivery_tag=1)).marshal()

    with pytest.raises(RuntimeError, match=r"method 60\.120"):
        Confirms().feed(nack)
