"""Reads the settings of one app into one validated value."""

from __future__ import annotations

import difflib
import enum
import importlib.util
import math
import os
import pkgutil
import reprlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar
from urllib.parse import quote

from ..errors import ConfigurationError
from ..events import Word
from ..messages.amqp_fields import check_name
from ..messages.attributes import MAX_SHORT_BYTES
from ..messages.cloudevents import PREFIXES, ContentMode
from ..messages.draft import BeforeEnqueue, Encoder
from ..messages.uris import is_uri_reference
from ..messages.wording import type_name
from .broker_url import MEMORY, BrokerURL, mask_url, parse_broker_urls
from .credentials import (
    CredentialsSource,
    password_from,
    read_credentials,
    read_password_file,
)
from .exchanges import Exchanges, parse_exchanges
from .functions import is_function
from .queues import Queues, parse_queues
from .spool_dir import OWN_NAME, check_spool_dir
from .tls import Passphrase, check_tls_files, checked_passphrase
from .topology import Topology, check_topology
from .writing import how_to_write

if TYPE_CHECKING:
    from flask import Flask

E = TypeVar("E", bound=Word)

PREFIX = "EVENTCOLLECTOR_"

#: The available kinds of backlog.
BACKLOGS = ("memory", "spool")

#: In characters, once quoted. A file name has 255 bytes; the library adds about 50.
_LONGEST_SPOOL_NAME = 200

#: Decides by a request's status and exception whether its events are published. Either
#: may be ``None``.
PublishRule = Callable[[int | None, BaseException | None], bool]


class Overflow(Word):
    """What happens to an event that is enqueued when a limit is reached."""

    #: The new event is dropped.
    DROP_NEWEST = "drop-newest"
    #: The oldest waiting event is dropped.
    DROP_OLDEST = "drop-oldest"
    #: ``enqueue_event`` raises :class:`~flask_eventcollector.errors.BacklogFull`.
    REJECT = "reject"


class InvalidText(Word):
    """What happens to text that UTF-8 can't encode: it has a lone surrogate."""

    #: ``enqueue_event`` raises :class:`~flask_eventcollector.errors.EncodingError`.
    REFUSE = "refuse"
    #: Each lone surrogate becomes U+FFFD, the replacement character.
    REPLACE = "replace"


class AtContextEnd(Word):
    """What happens to a thread's unpublished events when its app context ends."""

    #: They stay with the thread, and a warning is logged.
    WARN = "warn"
    #: They are published, or discarded if the app context ends with an exception.
    PUBLISH = "publish"
    #: They stay with the thread.
    KEEP = "keep"


class Metrics(Word):
    """Where a process reports its counts."""

    #: The default registry of ``prometheus_client``.
    PROMETHEUS = "prometheus"
    #: The app's meter provider.
    OPENTELEMETRY = "opentelemetry"


class Tracing(Word):
    """How the spans of attempts belong to the traces of their events."""

    #: Those that a caller has waited for are in its trace; others have one of their
    #: own, with links.
    AUTO = "auto"
    #: Each has a trace of its own, with links.
    LINKS = "links"
    #: There are none, and events say nothing of their traces.
    OFF = "off"


class SpoolSync(Word):
    """What an event in the spool survives once its request is answered."""

    #: The end of the process, including ``kill -9``.
    NORMAL = "normal"
    #: A power failure, too: each write waits for the disk (``fsync``).
    FULL = "full"


class OutboxRelay(Word):
    """Who sends the rows of the outbox."""

    #: The process that has committed them.
    OWN = "own"
    #: A process of its own: ``flask events relay``.
    EXTERNAL = "external"


def publish_on_success(status: int | None, exception: BaseException | None) -> bool:
    """Publish unless there was an exception or a status of 400 or above.

    ``GeneratorExit`` counts as success: the client disconnected during a streamed body,
    but the request itself succeeded.
    """
    succeeded = exception is None or isinstance(exception, GeneratorExit)
    return succeeded and (status is None or status < 400)


def publish_always(_status: int | None, _exception: BaseException | None) -> bool:
    """Publish regardless of the request's outcome."""
    return True


_PUBLISH_RULES = {"success": publish_on_success, "always": publish_always}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one app, with their defaults. Times are in seconds."""

    #: An ``amqp://`` or ``amqps://`` URL, or several (a list, or separated by ``;``),
    #: which are tried in turn. ``memory://`` keeps the last 10 000 events in memory.
    #: If unset: ``memory://`` in testing or debug mode, otherwise an error at the first
    #: event.
    broker_urls: tuple[BrokerURL, ...] | None = None
    #: Returns the :class:`~flask_eventcollector.Credentials` for the next connection:
    #: a callable without arguments, or its import path, such as
    #: ``"myapp.vault:broker_login"``. Called at each connect, and before they expire,
    #: in a thread of its own.
    credentials: CredentialsSource | None = field(default=None, repr=False)
    #: The absolute path of a file with the password of the URL's user, read at each
    #: connect.
    password_file: Path | None = None
    #: The passphrase of the URL's ``keyfile``, if it is encrypted; or a callable
    #: without arguments that returns it, called at each connect, in a thread of its
    #: own.
    keyfile_password: Passphrase | None = field(default=None, repr=False)
    #: The exchange to publish to; the target queue is the routing key.
    exchange: str = ""
    #: The queues to declare on every connect: name → options, such as
    #: ``{"type": "quorum", "bind": ["shop:orders.#"]}``. They are durable. One with
    #: ``"declare": False`` is not declared.
    queues: Queues = field(default_factory=lambda: MappingProxyType({}))
    #: The exchanges to declare on every connect, and how to publish to them: name →
    #: options, such as ``{"type": "topic"}``. One without a type is not declared.
    exchanges: Exchanges = field(default_factory=lambda: MappingProxyType({}))
    #: When a request's events are published. ``"success"``: no exception and a status
    #: below 400; ``"always"``; or a callable ``(status, exception) -> bool``.
    publish_on: PublishRule = publish_on_success
    #: Seconds that a publish waits for confirms. 0: it does not wait.
    confirm_timeout: float = 0.25
    #: Seconds that a publish waits instead, if that is longer, even while the broker is
    #: unreachable. 0: it does not wait for a reconnect. For processes that are frozen
    #: between requests.
    reconnect_timeout: float = 0.0
    #: Where events wait: ``"memory"``, or ``"spool"``: files on disk, which outlive the
    #: process.
    backlog: str = "memory"
    #: The folder of the spool, on a local disk, which only the app's user can enter.
    #: ``None``: a folder in the app's instance folder. In a mounted volume, use a
    #: folder in it called ``eventcollector-spool``.
    spool_dir: Path | None = None
    #: Which events in ``SPOOL_DIR`` belong together: those of processes with this name.
    #: Set it to the former name when an app is renamed. ``None``: the app's name.
    spool_name: str | None = None
    #: What the spool survives. ``"normal"``: ``kill -9``. ``"full"``: a power failure,
    #: too.
    spool_sync: SpoolSync = SpoolSync.NORMAL
    #: The most events that one process may hold, not counting dead ones. The last tenth
    #: is reserved for units of work that hold no more than that, and for targets that
    #: are not refused.
    max_events: int = 100_000
    #: The most bytes that these may take, with the same reserve.
    max_bytes: int = 64 * 1024 * 1024
    #: The most dead-lettered events that one process may hold, in a quarter of
    #: ``MAX_BYTES`` in addition; the oldest are dropped.
    max_dead_events: int = 10_000
    #: At a limit: ``"drop-newest"``, ``"drop-oldest"``, or ``"reject"``
    #: (``enqueue_event`` raises ``BacklogFull``).
    overflow: Overflow = Overflow.DROP_NEWEST
    #: The most events in flight; at most 200 for one target.
    max_in_flight: int = 2_000
    #: Seconds of being refused until an event is dead-lettered; outages do not count.
    dead_after: float = 3600.0
    #: Seconds before the first retry, with exponential backoff and full jitter.
    retry_delay: float = 1.0
    #: The most seconds between two retries.
    retry_max_delay: float = 60.0
    #: Who sends the rows of the outbox. ``"own"``: the process that commits them, at
    #: once. ``"external"``: it only writes them, and ``flask events relay`` sends them,
    #: in order per target over all processes. Give it to all processes of the app.
    outbox_relay: OutboxRelay = OutboxRelay.OWN
    #: Seconds for which a process holds its rows of the outbox, unless it renews them,
    #: which it does three times as often. If it ends without giving them back, other
    #: processes take them over then. By the database's clock.
    outbox_lease: float = 30.0
    #: Seconds that the shutdown at the end of the process may take.
    shutdown_timeout: float = 2.0
    #: The most bytes of a payload; ``enqueue_event`` raises an error for a larger one.
    max_event_bytes: int = 1024 * 1024
    #: Makes the body of each message, except of bytes with a ``content_type``: a
    #: callable ``(payload, target_queue) -> (bytes, content_type)``, or its import
    #: path, such as ``"shop.avro:encode"``. ``None``: the body is JSON.
    encoder: Encoder | None = None
    #: Called with an :class:`.EventDraft` in each ``enqueue_event``, to add to it or to
    #: remove secrets: a callable, or its import path. What it raises, ``enqueue_event``
    #: raises.
    before_enqueue: BeforeEnqueue | None = None
    #: Whether each message has the headers ``x-batch-id``, ``x-batch-index`` and
    #: ``x-batch-size``, which tell what was published together.
    batch_headers: bool = False
    #: Whether each message is a CloudEvent: ``False``, ``"binary"`` (the body is the
    #: payload, as it would be without, and the attributes are headers), or
    #: ``"structured"`` (the body is JSON with the attributes and the payload).
    cloudevents: ContentMode | Literal[False] = False
    #: The attribute ``source`` of each CloudEvent, which names this app: a URI, or a
    #: part of one, such as ``"https://example.com/shop"`` or ``"/shop"``.
    cloudevents_source: str | None = None
    #: What the names of the headers begin with in binary mode: ``"ce-"``, or
    #: ``"cloudEvents_"`` as in the binding to AMQP 1.0.
    cloudevents_prefix: str = "ce-"
    #: What happens to a lone surrogate in a payload or in headers, which UTF-8 can't
    #: encode. ``"refuse"``: ``enqueue_event`` raises. ``"replace"``: it becomes U+FFFD;
    #: use this for text from outside, such as a browser.
    invalid_text: InvalidText = InvalidText.REFUSE
    #: The AMQP heartbeat in whole seconds. A connection without confirms for two
    #: heartbeats is aborted.
    heartbeat: int = 15
    #: Whether events outside of requests and blocks are published at once.
    autoflush: bool = False
    #: What happens to events that were enqueued in an app context, outside of requests
    #: and blocks, and are unpublished when it ends. ``"warn"``: they stay with the
    #: thread, and a warning is logged; ``"publish"``: they are published, or discarded
    #: if it ends with an exception; ``"keep"``: they stay with the thread.
    at_context_end: AtContextEnd = AtContextEnd.WARN
    #: A folder, as an absolute path, in which each process writes what happens to its
    #: events, once a second and without payloads, for ``flask events why``, ``tail``
    #: and ``top``. At most 8 MiB for a process; kept for a day after its end. ``None``:
    #: nothing is written.
    history_dir: Path | None = None
    #: What is told about once a second how many events were sent, wait or failed:
    #: ``"prometheus"`` (with the extra ``prometheus``), ``"opentelemetry"`` (with
    #: ``opentelemetry-api``), or a list of both.
    metrics: tuple[Metrics, ...] = ()
    #: Where the spans ``publish …`` are, if the app uses OpenTelemetry. ``"auto"``: in
    #: the trace of the request that waits for them; later ones in traces of their own,
    #: with links to where the events were enqueued. ``"links"``: always in traces of
    #: their own. ``False``: there are none, and messages do not say to which trace they
    #: belong, which they do otherwise, also with Sentry.
    tracing: Tracing = Tracing.AUTO
    #: Whether each event has a span ``create …``, too, which its message names as the
    #: parent of what its consumer does.
    create_spans: bool = False
    #: Whether to use the broker's URL even if ``TESTING`` is set.
    testing_broker: bool = False

    @property
    def topology(self) -> Topology:
        """Its exchanges and queues."""
        return Topology(self.exchanges, self.queues)

    @classmethod
    def from_app(cls, app: Flask) -> Config:
        """Read and validate every ``EVENTCOLLECTOR_`` key of ``app.config``.

        :raises ConfigurationError: a key is unknown or its value is invalid.
        """
        config = read_settings(app.config)
        if config.backlog == "spool":
            check_spool_dir(choose_spool_dir(config, app), f"{PREFIX}SPOOL_DIR")
        return config


def read_settings(settings: Mapping[str, Any]) -> Config:
    """Read and validate every ``EVENTCOLLECTOR_`` key of *settings*.

    :raises ConfigurationError: a key is unknown or its value is invalid.
    """
    config = Config(**dict(_read(settings)))
    _check_together(config)
    _check_login(config)
    _check_tls(config)
    return config


def choose_backlog(config: Config, app: Flask) -> str:
    """The kind of backlog, decided when the first event is enqueued.

    Tests neither write to the disk nor read from it, unless they use a real broker. The
    same holds for an app without a broker: what it read would be lost when it ends.
    """
    if config.broker_urls is None or (app.testing and not config.testing_broker):
        return "memory"
    return config.backlog


def choose_spool_dir(config: Config, app: Flask) -> Path:
    """The folder of the spool."""
    return config.spool_dir or Path(app.instance_path, OWN_NAME)


def choose_spool_name(config: Config, app: Flask) -> str:
    """The name that this app's files in the spool's folder have."""
    return config.spool_name or app.name


def choose_broker(config: Config, app: Flask) -> tuple[BrokerURL, ...]:
    """The brokers to try in turn, decided when the first event is enqueued.

    Not earlier, since tests often set ``TESTING`` after the factory has run.

    :raises ConfigurationError: no URL is set, and the app is neither in testing nor in
        debug mode.
    """
    if app.testing and not config.testing_broker:
        return (MEMORY,)
    if config.broker_urls:
        return config.broker_urls
    if app.debug and not app.testing:
        return (MEMORY,)
    raise ConfigurationError(
        f"{PREFIX}BROKER_URL is not set: use amqp://user:password@host:5672/vhost to"
        " publish to RabbitMQ, or memory:// to keep events in this process"
    )


def choose_credentials(config: Config) -> CredentialsSource | None:
    """What returns the credentials for a connection; ``None``: its URL has them."""
    if config.password_file is not None:
        return partial(password_from, config.password_file, f"{PREFIX}PASSWORD_FILE")
    return config.credentials


def _read(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if not key.startswith(PREFIX):
            continue
        name, read = _SETTINGS.get(key) or _unknown(key)
        try:
            yield name, read(key, value)
        except ConfigurationError as error:
            form = how_to_write(key, value, _default(name))
            raise ConfigurationError(f"{error}{form}") from None


def _default(name: str) -> object:
    (default,) = (f.default for f in fields(Config) if f.name == name)
    return default.value if isinstance(default, enum.Enum) else default


def _unknown(key: str) -> NoReturn:
    close = difflib.get_close_matches(key.upper(), _SETTINGS, n=1)
    known = ", ".join(_SETTINGS)
    cure = f"did you mean {close[0]}?" if close else f"the settings are {known}"
    raise ConfigurationError(f"{key} is not a setting: {cure}")


def _check_together(config: Config) -> None:
    if config.retry_max_delay < config.retry_delay:
        raise ConfigurationError(
            f"{PREFIX}RETRY_MAX_DELAY ({config.retry_max_delay} s) is less than"
            f" {PREFIX}RETRY_DELAY ({config.retry_delay} s): raise the former or lower"
            " the latter"
        )
    if config.max_event_bytes > config.max_bytes:
        raise ConfigurationError(
            f"{PREFIX}MAX_EVENT_BYTES ({config.max_event_bytes}) is more than"
            f" {PREFIX}MAX_BYTES ({config.max_bytes}), so such an event would never"
            " fit: lower the former or raise the latter"
        )
    check_topology(config.topology, f"{PREFIX}EXCHANGES", f"{PREFIX}QUEUES")
    exchange = config.exchanges.get(config.exchange)
    if exchange is not None and exchange.internal:
        raise ConfigurationError(
            f"{PREFIX}EXCHANGE is {config.exchange!r}, but {PREFIX}EXCHANGES says that"
            " only other exchanges may publish to it: leave out 'internal', or name"
            " another one"
        )
    if config.cloudevents and config.cloudevents_source is None:
        raise ConfigurationError(
            f"{PREFIX}CLOUDEVENTS is {config.cloudevents.value!r}, but"
            f" {PREFIX}CLOUDEVENTS_SOURCE is not set: name this app by a URI, such as"
            " 'https://example.com/shop', or a part of one, such as '/shop'"
        )


def _check_login(config: Config) -> None:
    """Check that there is one password for each URL."""
    if config.credentials is not None and config.password_file is not None:
        raise ConfigurationError(
            f"{PREFIX}CREDENTIALS and {PREFIX}PASSWORD_FILE are both set: remove one"
        )
    is_asked = choose_credentials(config) is not None
    for url in config.broker_urls or ():
        problem = _login_problem(url, is_asked=is_asked)
        if problem:
            raise ConfigurationError(f"{PREFIX}BROKER_URL ({url}) {problem}")


def _login_problem(url: BrokerURL, *, is_asked: bool) -> str:
    settings = f"{PREFIX}CREDENTIALS or {PREFIX}PASSWORD_FILE"
    if url.is_external:
        return f"has auth_mechanism=external: remove {settings}" if is_asked else ""
    if is_asked:
        # A URL without a user has guest's password.
        is_given = url.password and (url.username, url.password) != ("guest", "guest")
        return f"has a password, and so has {settings}: remove one" if is_given else ""
    if not url.password and url.scheme != "memory":
        return f"has no password: write user:password@, or set {settings}"
    return ""


def _check_tls(config: Config) -> None:
    for url in config.broker_urls or ():
        if url.scheme == "amqps":
            check_tls_files(url, config.keyfile_password)


def _invalid(key: str, value: object, cure: str) -> NoReturn:
    raise ConfigurationError(f"{key} is {_shown(value)}: {cure}") from None


def _shown(value: object) -> str:
    """The value if it can't contain a secret, else its type."""
    if isinstance(value, str):
        # A URL may have been assigned to the wrong key.
        return mask_url(value) if "@" in value or "//" in value else reprlib.repr(value)
    if value is None or isinstance(value, (bool, int, float)):
        return reprlib.repr(value)
    return f"of type {type_name(value)}"


# Readers: each converts one setting from app.config.


def _broker_urls(key: str, value: object) -> tuple[BrokerURL, ...] | None:
    return None if value is None else parse_broker_urls(value, key)


def _keyfile_password(key: str, value: object) -> Passphrase | None:
    if value is None or is_function(value):
        return value
    return checked_passphrase(key, value)


def _exchange(key: str, value: object) -> str:
    try:
        return check_name(value, "the exchange", allow_empty=True)
    except (TypeError, ValueError) as error:
        _invalid(key, value, str(error))


def _queues(key: str, value: object) -> Queues:
    return parse_queues(value, key)


def _exchanges(key: str, value: object) -> Exchanges:
    return parse_exchanges(value, key)


def _publish_on(key: str, value: object) -> PublishRule:
    if is_function(value):
        return value
    if isinstance(value, str) and value in _PUBLISH_RULES:
        return _PUBLISH_RULES[value]
    _invalid(
        key,
        value,
        "it must be 'success', 'always', or a function (status, exception) -> bool"
        " without async",
    )


def _function(form: str) -> Callable[[str, object], Callable[..., Any] | None]:
    """Reads a callable, or its import path; *form* shows how it is called."""

    def read(key: str, value: object) -> Callable[..., Any] | None:
        found = _imported(key, value) if isinstance(value, str) else value
        if found is None or is_function(found):
            return found
        _invalid(
            key,
            value,
            f"it must be a function {form} without async, or its import path"
            " 'module:name'",
        )

    return read


def _imported(key: str, path: str) -> object:
    try:
        return pkgutil.resolve_name(path)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        _invalid(
            key,
            path,
            f"it can't be imported ({reason}): name a function as 'module:name', in a"
            " module that does not import the app",
        )


def _backlog(key: str, value: object) -> str:
    if isinstance(value, str) and value in BACKLOGS:
        return value
    _invalid(key, value, f"it must be one of {', '.join(map(repr, BACKLOGS))}")


def _folder(key: str, value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        _invalid(key, value, "it must be the path of a folder")
    path = Path(value)
    if not path.is_absolute():
        _invalid(
            key,
            str(value),
            "it must be an absolute path, so that every process finds it",
        )
    return path


def _spool_name(key: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        _invalid(
            key,
            value,
            "it must be a name, as a str that is not empty (in an environment variable,"
            " digits alone need quotes); without it, the app's name counts",
        )
    try:
        too_long = len(quote(value, safe="")) > _LONGEST_SPOOL_NAME
    except UnicodeEncodeError:
        _invalid(key, value, "UTF-8 can't encode it, so no file can be named after it")
    if too_long:
        _invalid(
            key,
            value,
            f"file names start with it, so it can have {_LONGEST_SPOOL_NAME} characters"
            " (those other than ASCII letters and digits count several times)",
        )
    return value


def _one_of(kind: type[E]) -> Callable[[str, object], E]:
    def read(key: str, value: object) -> E:
        try:
            return kind(value)
        except ValueError:
            values = ", ".join(repr(member.value) for member in kind)
            _invalid(key, value, f"it must be one of {values}")

    return read


_CLOUDEVENTS_PREFIXES = PREFIXES[:2]


def _cloudevents(key: str, value: object) -> ContentMode | Literal[False]:
    if value is False:
        return False
    try:
        return ContentMode(value)
    except ValueError:
        _invalid(key, value, "it must be 'structured' or 'binary', or be left out")


def _cloudevents_source(key: str, value: object) -> str | None:
    if value is None:
        return None
    is_valid = isinstance(value, str) and value and is_uri_reference(value)
    if not is_valid or len(str(value)) > MAX_SHORT_BYTES:
        _invalid(
            key,
            value,
            "it must be a URI, such as 'https://example.com/shop', or a part of one,"
            f" such as '/shop', in at most {MAX_SHORT_BYTES} characters of ASCII",
        )
    return str(value)


def _cloudevents_prefix(key: str, value: object) -> str:
    if isinstance(value, str) and value in _CLOUDEVENTS_PREFIXES:
        return value
    known = " or ".join(map(repr, _CLOUDEVENTS_PREFIXES))
    _invalid(key, value, f"it must be {known}")


#: The packages that the metrics need, with the way to install them.
_METRICS_PACKAGES = {
    Metrics.PROMETHEUS: ("prometheus_client", "prometheus-client>=0.20"),
    Metrics.OPENTELEMETRY: ("opentelemetry.metrics", "opentelemetry-api"),
}


def _metrics(key: str, value: object) -> tuple[Metrics, ...]:
    given = value if isinstance(value, (list, tuple)) else [value]
    read = _one_of(Metrics)
    chosen = tuple(dict.fromkeys(read(key, item) for item in given))
    for metrics in chosen:
        module, package = _METRICS_PACKAGES[metrics]
        if not is_installed(module):
            raise ConfigurationError(
                f"{key} is {metrics.value!r}, but {module} is not installed: pip"
                f' install "{package}"'
            )
    return chosen


def is_installed(module: str) -> bool:
    """Whether *module* could be imported, or was; does not import it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        # Of its parent; or it was put into `sys.modules` by hand.
        return False


def _tracing(key: str, value: object) -> Tracing:
    if value is False:
        return Tracing.OFF
    if value in ("auto", "links"):
        return Tracing(value)
    _invalid(key, value, "it must be 'auto' or 'links', or it is turned off by false")


def _bool(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    _invalid(
        key,
        value,
        "it must be a bool (true or false in an environment variable)",
    )


def _number(key: str, value: object) -> float:
    if isinstance(value, str):
        _invalid(
            key,
            value,
            "it must be a number without quotes (from_prefixed_env converts environment"
            " variables)",
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _invalid(key, value, "it must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        _invalid(key, value, "it must be a finite number")
    return value


def _seconds(key: str, value: object) -> float:
    seconds = _number(key, value)
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        _invalid(key, value, f"it must be 0 to {threading.TIMEOUT_MAX:.0f} seconds")
    return float(seconds)


def _delay(key: str, value: object) -> float:
    # A delay of 0 would keep a processor busy while the broker is unreachable.
    return _seconds(key, value) or _invalid(
        key, value, "it must be more than 0 seconds"
    )


def _count(key: str, value: object) -> int:
    number = _number(key, value)
    if number < 1 or number != int(number):
        _invalid(key, value, "it must be a whole number of 1 or more")
    return int(number)


def _heartbeat(key: str, value: object) -> int:
    seconds = _count(key, value)
    if seconds > 65535:
        _invalid(
            key, value, "it must be 1 to 65535 seconds, since AMQP has 16 bits for it"
        )
    return seconds


_SETTINGS: Mapping[str, tuple[str, Callable[[str, object], Any]]] = {
    f"{PREFIX}{name.upper()}": (name if name != "broker_url" else "broker_urls", read)
    for name, read in {
        "broker_url": _broker_urls,
        "credentials": read_credentials,
        "password_file": read_password_file,
        "keyfile_password": _keyfile_password,
        "exchange": _exchange,
        "queues": _queues,
        "exchanges": _exchanges,
        "publish_on": _publish_on,
        "confirm_timeout": _seconds,
        "reconnect_timeout": _seconds,
        "backlog": _backlog,
        "spool_dir": _folder,
        "spool_name": _spool_name,
        "spool_sync": _one_of(SpoolSync),
        "max_events": _count,
        "max_bytes": _count,
        "max_dead_events": _count,
        "overflow": _one_of(Overflow),
        "max_in_flight": _count,
        "dead_after": _seconds,
        "retry_delay": _delay,
        "retry_max_delay": _delay,
        "outbox_relay": _one_of(OutboxRelay),
        "outbox_lease": _delay,
        "shutdown_timeout": _seconds,
        "max_event_bytes": _count,
        "encoder": _function("(payload, target_queue) -> (bytes, content_type)"),
        "before_enqueue": _function("(draft) -> None"),
        "batch_headers": _bool,
        "cloudevents": _cloudevents,
        "cloudevents_source": _cloudevents_source,
        "cloudevents_prefix": _cloudevents_prefix,
        "invalid_text": _one_of(InvalidText),
        "heartbeat": _heartbeat,
        "autoflush": _bool,
        "at_context_end": _one_of(AtContextEnd),
        "history_dir": _folder,
        "metrics": _metrics,
        "tracing": _tracing,
        "create_spans": _bool,
        "testing_broker": _bool,
    }.items()
}

#: The names of all settings.
KEYS = tuple(_SETTINGS)
