"""Reads the settings of one app, once, into a checked value."""

from __future__ import annotations

import difflib
import enum
import math
import os
import reprlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import ConfigurationError
from ..messages.amqp_fields import check_name, copy_table
from ..messages.wording import type_name
from .broker_url import MEMORY, BrokerURL, mask_url, parse_broker_urls
from .spool_dir import check_spool_dir

if TYPE_CHECKING:
    from flask import Flask

PREFIX = "EVENTCOLLECTOR_"

#: The kinds of backlog that this version has.
BACKLOGS = ("memory", "spool")

#: Whether a request's events are published, by its status and exception. Either is
#: None where there is none.
PublishRule = Callable[[int | None, BaseException | None], bool]


class Overflow(enum.Enum):
    """What happens to an event that comes when a limit is reached."""

    #: It is dropped.
    DROP_NEWEST = "drop-newest"
    #: The oldest that waits is dropped for it.
    DROP_OLDEST = "drop-oldest"
    #: ``enqueue_event`` raises :class:`~flask_eventcollector.errors.BacklogFull`.
    REJECT = "reject"


class SpoolSync(enum.Enum):
    """What an event in the spool survives, once its request is answered."""

    #: The end of the process, ``kill -9`` included.
    NORMAL = "normal"
    #: The loss of power, too: each write waits until the disk has it (``fsync``).
    FULL = "full"


def publish_on_success(status: int | None, exception: BaseException | None) -> bool:
    """No exception, and no status of 400 or above.

    A client that hangs up in a streamed body closes the generator: the request itself
    has succeeded.
    """
    succeeded = exception is None or isinstance(exception, GeneratorExit)
    return succeeded and (status is None or status < 400)


def publish_always(_status: int | None, _exception: BaseException | None) -> bool:
    """Whatever became of the request."""
    return True


_PUBLISH_RULES = {"success": publish_on_success, "always": publish_always}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one app, with the defaults. Times are in seconds."""

    #: ``amqp://`` or ``amqps://`` URL, or several (a list, or separated by ``;``) that
    #: are tried in turn; ``memory://`` keeps the last 10 000 events in the process.
    #: Unset: ``memory://`` while testing or debugging, otherwise an error at the first
    #: event.
    broker_urls: tuple[BrokerURL, ...] | None = None
    #: Where events are published; the target queue is the routing key.
    exchange: str = ""
    #: Queues to declare, durable, at every connect: name → arguments.
    queues: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    #: ``"success"``: no exception and a status below 400; ``"always"``; or a callable
    #: ``(status, exception) -> bool``.
    publish_on: PublishRule = publish_on_success
    #: Seconds that a publish waits for confirms; 0: not at all.
    confirm_timeout: float = 0.25
    #: Where events wait: ``"memory"``, or ``"spool"``, a folder on disk that outlives
    #: the process.
    backlog: str = "memory"
    #: The folder of the spool, on a local disk, which only the app's user may enter.
    #: None: a folder in the app's instance folder.
    spool_dir: Path | None = None
    #: What the spool survives: ``"normal"``: ``kill -9``; ``"full"``: loss of power,
    #: too.
    spool_sync: SpoolSync = SpoolSync.NORMAL
    #: Events that one process may hold.
    max_events: int = 100_000
    #: Bytes that these may take.
    max_bytes: int = 64 * 1024 * 1024
    #: At a limit: ``"drop-newest"``, ``"drop-oldest"``, or ``"reject"``
    #: (``enqueue_event`` raises ``BacklogFull``).
    overflow: Overflow = Overflow.DROP_NEWEST
    #: Events that are sent and not yet confirmed.
    max_in_flight: int = 2_000
    #: Seconds of being refused until an event is dead; an outage does not count.
    dead_after: float = 3600.0
    #: Seconds before the first retry; exponential from there, with full jitter.
    retry_delay: float = 1.0
    #: Seconds between two retries at most.
    retry_max_delay: float = 60.0
    #: Seconds that the end of the process may take.
    shutdown_timeout: float = 2.0
    #: Bytes of a payload at most; a larger one is refused by ``enqueue_event``.
    max_event_bytes: int = 1024 * 1024
    #: Whole seconds, as AMQP negotiates them. A connection whose confirms are overdue
    #: by two of them is given up.
    heartbeat: int = 15
    #: Publish each event at once outside of requests and blocks.
    autoflush: bool = False
    #: Use the broker's URL under ``TESTING``, too.
    testing_broker: bool = False

    @classmethod
    def from_app(cls, app: Flask) -> Config:
        """Read and check every ``EVENTCOLLECTOR_`` key of ``app.config``.

        :raises ConfigurationError: a key is unknown or its value wrong.
        """
        config = cls(**dict(_read(app.config)))
        _check_together(config)
        if config.backlog == "spool":
            check_spool_dir(choose_spool_dir(config, app), f"{PREFIX}SPOOL_DIR")
        return config


def choose_backlog(config: Config, app: Flask) -> str:
    """The kind of backlog, decided when the first event is enqueued.

    Tests leave nothing on disk, and take nothing from it, unless they use a broker.
    Nor does an app that has no broker: what it took from the disk would end with it.
    """
    if config.broker_urls is None or (app.testing and not config.testing_broker):
        return "memory"
    return config.backlog


def choose_spool_dir(config: Config, app: Flask) -> Path:
    """The folder of the spool's files."""
    return config.spool_dir or Path(app.instance_path, "eventcollector-spool")


def choose_broker(config: Config, app: Flask) -> tuple[BrokerURL, ...]:
    """The brokers to try in turn, decided when the first event is enqueued.

    Not earlier, since tests often set ``TESTING`` after the factory has run.

    :raises ConfigurationError: no URL, and neither testing nor debugging.
    """
    if app.testing and not config.testing_broker:
        return (MEMORY,)
    if config.broker_urls:
        return config.broker_urls
    if app.debug and not app.testing:
        return (MEMORY,)
    raise ConfigurationError(
        f"{PREFIX}BROKER_URL is not set: write amqp://user:password@host:5672/vhost to"
        " publish to RabbitMQ, or memory:// to keep events in this process"
    )


def _read(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if not key.startswith(PREFIX):
            continue
        name, read = _SETTINGS.get(key) or _unknown(key)
        yield name, read(key, value)


def _unknown(key: str) -> NoReturn:
    close = difflib.get_close_matches(key, _SETTINGS, n=1)
    cure = f"did you mean {close[0]}?" if close else f"known are {', '.join(_SETTINGS)}"
    raise ConfigurationError(f"{key} is not a setting: {cure}")


def _check_together(config: Config) -> None:
    if config.retry_max_delay < config.retry_delay:
        raise ConfigurationError(
            f"{PREFIX}RETRY_MAX_DELAY ({config.retry_max_delay} s) is less than"
            f" {PREFIX}RETRY_DELAY ({config.retry_delay} s): raise the one or lower the"
            " other"
        )
    if config.max_event_bytes > config.max_bytes:
        raise ConfigurationError(
            f"{PREFIX}MAX_EVENT_BYTES ({config.max_event_bytes}) is more than"
            f" {PREFIX}MAX_BYTES ({config.max_bytes}), so such an event would never"
            " fit: lower the one or raise the other"
        )


def _wrong(key: str, value: object, cure: str) -> NoReturn:
    raise ConfigurationError(f"{key} is {_shown(value)}: {cure}") from None


def _shown(value: object) -> str:
    """The value if it can't hold a secret, else its kind."""
    if isinstance(value, str):
        # A URL may have been written into the wrong key.
        return mask_url(value) if "@" in value or "//" in value else reprlib.repr(value)
    if value is None or isinstance(value, (bool, int, float)):
        return reprlib.repr(value)
    return f"of type {type_name(value)}"


# Readers: one setting each, from what Flask holds to what Config holds


def _broker_urls(key: str, value: object) -> tuple[BrokerURL, ...] | None:
    return None if value is None else parse_broker_urls(value, key)


def _exchange(key: str, value: object) -> str:
    try:
        return check_name(value, "the exchange", allow_empty=True)
    except (TypeError, ValueError) as error:
        _wrong(key, value, str(error))


def _queues(key: str, value: object) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(value, Mapping):
        _wrong(key, value, "write a dict of queue names and arguments, {'name': {}}")
    try:
        return MappingProxyType(
            {
                check_name(name, f"a queue of {key}"): _arguments(key, name, arguments)
                for name, arguments in value.items()
            }
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def _arguments(key: str, name: str, arguments: object) -> Mapping[str, Any]:
    if arguments is None:
        return MappingProxyType({})
    return MappingProxyType(copy_table(arguments, f"{key}[{name!r}]")[0])


def _publish_on(key: str, value: object) -> PublishRule:
    if callable(value):
        return value
    if isinstance(value, str) and value in _PUBLISH_RULES:
        return _PUBLISH_RULES[value]
    _wrong(
        key,
        value,
        "write 'success', 'always', or a callable (status, exception) -> bool",
    )


def _store(key: str, value: object) -> str:
    if isinstance(value, str) and value in BACKLOGS:
        return value
    _wrong(key, value, f"write one of {', '.join(map(repr, BACKLOGS))}")


def _spool_dir(key: str, value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        _wrong(key, value, "write the path of a folder")
    path = Path(value)
    if not path.is_absolute():
        _wrong(key, str(value), "write an absolute path, so every process finds it")
    return path


def _spool_sync(key: str, value: object) -> SpoolSync:
    try:
        return SpoolSync(value)
    except ValueError:
        _wrong(
            key, value, f"write one of {', '.join(repr(s.value) for s in SpoolSync)}"
        )


def _overflow(key: str, value: object) -> Overflow:
    try:
        return Overflow(value)
    except ValueError:
        _wrong(key, value, f"write one of {', '.join(repr(o.value) for o in Overflow)}")


def _bool(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    _wrong(key, value, "write True or False (in an environment variable true or false)")


def _number(key: str, value: object) -> float:
    if isinstance(value, str):
        _wrong(
            key,
            value,
            "a str; write a number without quotes (from_prefixed_env makes numbers of"
            " environment variables by itself)",
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _wrong(key, value, "write a number")
    if isinstance(value, float) and not math.isfinite(value):
        _wrong(key, value, "write a finite number")
    return value


def _seconds(key: str, value: object) -> float:
    seconds = _number(key, value)
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        _wrong(key, value, f"write seconds from 0 to {threading.TIMEOUT_MAX:.0f}")
    return float(seconds)


def _delay(key: str, value: object) -> float:
    # No pause at all would keep a processor busy while the broker is away.
    return _seconds(key, value) or _wrong(key, value, "write seconds above 0")


def _count(key: str, value: object) -> int:
    number = _number(key, value)
    if number < 1 or number != int(number):
        _wrong(key, value, "write a whole number from 1")
    return int(number)


def _heartbeat(key: str, value: object) -> int:
    seconds = _count(key, value)
    if seconds > 65535:
        _wrong(key, value, "AMQP has 16 bits for it; write seconds from 1 to 65535")
    return seconds


_SETTINGS: Mapping[str, tuple[str, Callable[[str, object], Any]]] = {
    f"{PREFIX}{name.upper()}": (name if name != "broker_url" else "broker_urls", read)
    for name, read in {
        "broker_url": _broker_urls,
        "exchange": _exchange,
        "queues": _queues,
        "publish_on": _publish_on,
        "confirm_timeout": _seconds,
        "backlog": _store,
        "spool_dir": _spool_dir,
        "spool_sync": _spool_sync,
        "max_events": _count,
        "max_bytes": _count,
        "overflow": _overflow,
        "max_in_flight": _count,
        "dead_after": _seconds,
        "retry_delay": _delay,
        "retry_max_delay": _delay,
        "shutdown_timeout": _seconds,
        "max_event_bytes": _count,
        "heartbeat": _heartbeat,
        "autoflush": _bool,
        "testing_broker": _bool,
    }.items()
}
