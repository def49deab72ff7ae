"""Shows how a setting is written where its wrong value has come from."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

#: Values that show how a setting is written, where its default does not.
_EXAMPLES: Mapping[str, Any] = {
    "EVENTCOLLECTOR_BROKER_URL": "amqp://user:password@host:5672/vhost",
    "EVENTCOLLECTOR_CREDENTIALS": "myapp.vault:broker_login",
    "EVENTCOLLECTOR_PASSWORD_FILE": "/run/secrets/broker-password",
    # Digits alone, since JSON would make them a number.
    "EVENTCOLLECTOR_KEYFILE_PASSWORD": "1234",
    "EVENTCOLLECTOR_EXCHANGE": "shop",
    "EVENTCOLLECTOR_QUEUES": {"orders.created": {}},
    "EVENTCOLLECTOR_EXCHANGES": {"shop": {"type": "topic"}},
    "EVENTCOLLECTOR_PUBLISH_ON": "success",
    "EVENTCOLLECTOR_CLOUDEVENTS": "binary",
    "EVENTCOLLECTOR_CLOUDEVENTS_SOURCE": "https://example.com/shop",
    "EVENTCOLLECTOR_SPOOL_DIR": "/var/lib/shop/eventcollector-spool",
    "EVENTCOLLECTOR_SPOOL_NAME": "shop",
    "EVENTCOLLECTOR_ENCODER": "shop.avro:encode",
    "EVENTCOLLECTOR_BEFORE_ENQUEUE": "shop.events:before_enqueue",
    "EVENTCOLLECTOR_HISTORY_DIR": "/var/lib/shop/history",
    "EVENTCOLLECTOR_METRICS": "prometheus",
}


def how_to_write(key: str, value: object, default: object) -> str:
    """How to write the setting *key*, as the end of an error about its *value*."""
    example = _EXAMPLES.get(key, default)
    variable = _variable(key, value)
    if variable:
        return f"; in the environment, write {variable}={_in_shell(example)}"
    return f"; for example {key} = {example!r}" if isinstance(example, dict) else ""


def _variable(key: str, value: object) -> str:
    """The environment variable that *value* has come from; ``""``: none.

    Flask does not record that, so it is the variable with the same value, whatever its
    prefix. https://flask.palletsprojects.com/en/stable/config/
    """
    for name, text in os.environ.items():
        prefix, found, nested = name.partition(key)
        if not found or prefix[-1:] not in ("", "_"):
            continue
        if nested.startswith("__") or (not nested and value in (text, _loaded(text))):
            # An app that has read it by itself has no prefix for it.
            return f"{prefix or 'FLASK_'}{key}"
    return ""


def _loaded(text: str) -> object:
    """What ``from_prefixed_env`` makes of *text*."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _in_shell(value: object) -> str:
    """*value* as a shell, an ``.env`` file or a Docker Compose file has it."""
    is_plain = isinstance(value, str) and _loaded(value) == value
    return shlex.quote(str(value) if is_plain else json.dumps(value))
