"""The format of exported events: a JSON object a line.

docs/command-line.md specifies it.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime, timezone
from typing import Any

from ....events import Event, Properties
from ....messages.amqp_fields import check_name, copy_headers
from ....messages.options import read_options, size_of
from ...plain import tagged, untagged
from ..rows import StoredEvent

#: Of the format. 2 added the properties.
VERSION = 2


class InvalidLine(Exception):
    """A line that is not an exported event. The text names the field and the cure."""


def line_of(stored: StoredEvent) -> bytes:
    """The line for an event, with its end."""
    event = stored.event
    fields = {
        "version": VERSION,
        "id": event.id,
        "exchange": event.exchange,
        "target_queue": event.target_queue,
        "headers": tagged(event.headers)["table"],
        "properties": event.properties.as_dict(),
        "body": _body_as_json(event.body),
        "enqueued_at": event.enqueued_at.isoformat(),
        "state": "waiting" if stored.dead is None else "dead",
        "reason": stored.dead,
        # Its process may have sent it already.
        "possible_duplicate": True,
    }
    return json.dumps(fields).encode() + b"\n"


def read_line(line: bytes, number: int) -> StoredEvent:
    """The event of a line, as the row *number*.

    :raises InvalidLine: it is none, or of a newer version.
    """
    fields = _fields(line)
    body = _field(fields, "body", _read_body)
    headers, headers_size = _field(fields, "headers", _read_headers)
    properties = _field(fields, "properties", _read_properties)
    event = Event.of(
        id=_field(fields, "id", _read_id),
        target_queue=_field(fields, "target_queue", _read_queue),
        exchange=_field(fields, "exchange", _read_exchange),
        body=body,
        headers=headers,
        enqueued_at=_field(fields, "enqueued_at", _read_time),
        size=len(body) + headers_size + size_of(properties),
        properties=properties,
    )
    if _field(fields, "state", _read_state) == "waiting":
        return StoredEvent(number, event, None)
    return StoredEvent(number, event, _field(fields, "reason", _read_reason))


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidLine(
            f"it is not JSON ({error}): it may be incomplete, so export again"
        ) from None
    if not isinstance(fields, dict):
        raise InvalidLine(
            "it is not a JSON object: give a file of 'flask events export'"
        )
    if fields.get("version") == 1:
        fields = {**fields, "version": VERSION, "properties": {}}
    if fields.get("version") != VERSION:
        raise InvalidLine(
            f"version is {fields.get('version')!r}, but this version of the library"
            f" reads 1 to {VERSION}: give a file of 'flask events export', or upgrade"
        )
    return fields


def _field(fields: dict[str, Any], name: str, read: Any) -> Any:
    if name not in fields:
        raise InvalidLine(f"{name} is missing: export again, or add it")
    try:
        return read(fields[name])
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        text = str(error)
        raise InvalidLine(
            text if text.startswith(name) else f"{name}: {text}"
        ) from None


def _body_as_json(body: bytes) -> Any:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _read_body(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and [*value] == ["base64"]:
        return base64.b64decode(value["base64"], validate=True)
    raise TypeError('it is neither a string nor {"base64": "…"}: write one of these')


def _read_headers(value: Any) -> tuple[Any, int]:
    if not isinstance(value, dict):
        raise TypeError("it is not an object: write {} for no headers")
    try:
        headers = untagged({"table": value})
    except (KeyError, AttributeError, ValueError, TypeError):
        raise ValueError(
            'an object in it is neither {"table": {…}} nor {"bytes": "base64"}: write'
            " one of these"
        ) from None
    return copy_headers(headers)


def _read_properties(value: Any) -> Properties:
    if not isinstance(value, dict):
        raise TypeError("it is not an object: write {} for no properties")
    return read_options(value)


def _read_id(value: Any) -> str:
    if value == "":
        raise ValueError("it is empty: write a unique text, such as a UUID")
    return check_name(value, "id")


def _read_queue(value: Any) -> str:
    return check_name(value, "target_queue")


def _read_exchange(value: Any) -> str:
    return check_name(value, "exchange", allow_empty=True)


def _read_time(value: Any) -> datetime:
    if not isinstance(value, str):
        raise TypeError("it is not a string: write for example 2030-01-31T12:00:00Z")
    # Before Python 3.11, "Z" is not understood.
    time = datetime.fromisoformat(value.replace("Z", "+00:00"))
    if time.tzinfo is None:
        raise ValueError("it has no time zone: add Z for UTC")
    return time.astimezone(timezone.utc)


def _read_state(value: Any) -> str:
    if value not in ("waiting", "dead"):
        raise ValueError(f"{value!r} is no state: write waiting or dead")
    return str(value)


def _read_reason(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a dead event needs one: write a string")
    value.encode()
    return value
