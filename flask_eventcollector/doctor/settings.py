"""Checks the settings: unknown, late, contradictory and risky ones."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import fields

from ..config.settings import (
    KEYS,
    PREFIX,
    Config,
    choose_broker,
    read_settings,
)
from ..config.topology import silent_losses
from ..errors import ConfigurationError
from .case import Case
from .findings import Finding, ok, problem, split, warning

#: Seconds of a heartbeat: below, a busy machine misses it; above, a dead connection is
#: noticed late. https://www.rabbitmq.com/docs/heartbeats#false-positives
_HEARTBEATS = (5, 60)
#: Seconds that a request may wait for confirms.
_LONG_WAIT = 10.0
#: How alike a name must be to a setting's.
_ALIKE = 0.85


def names(case: Case) -> Iterator[Finding]:
    """Names in the configuration and the environment that are not read."""
    found = [*_unknown(case), *_unread(case)]
    given = sum(key in case.app.config for key in KEYS)
    are_set = "1 is set" if given == 1 else f"{given} are set"
    yield from found or [ok(f"{are_set}, and known")]


def _unknown(case: Case) -> Iterator[Finding]:
    """Names that look like a setting's, but are none."""
    for name in case.app.config:
        close = difflib.get_close_matches(name.upper(), KEYS, 1, _ALIKE)
        if name not in KEYS and (close or name.startswith(PREFIX)):
            hint = f"did you mean {close[0]}?" if close else "correct it, or remove it"
            yield problem(f"{name} is not a setting, so it has no effect", hint)


def _unread(case: Case) -> Iterator[Finding]:
    """Settings that are in the environment only."""
    for variable in sorted(os.environ):
        prefix, _, rest = variable.partition(PREFIX)
        key = f"{PREFIX}{rest.partition('__')[0]}"
        is_one = prefix in ("", "FLASK_") and key in KEYS and PREFIX in variable
        if is_one and key not in case.app.config:
            yield problem(
                f"{variable} is in the environment, but the app does not read it",
                "call app.config.from_prefixed_env() before init_app(), and give the"
                f" variable the prefix FLASK_: FLASK_{key}",
            )


def changes(case: Case) -> Iterator[Finding]:
    """Settings that were changed after ``init_app()`` had read them."""
    known = {key: v for key, v in case.app.config.items() if key in KEYS}
    try:
        now = read_settings(known)
    except ConfigurationError as error:
        yield problem(f"a later change is invalid: {error}", _EARLIER)
        return
    for field in fields(Config):
        if getattr(now, field.name) != getattr(case.config, field.name):
            key = PREFIX + field.name.upper().replace("BROKER_URLS", "BROKER_URL")
            yield problem(f"{key} was changed too late, without effect", _EARLIER)


_EARLIER = "set it before init_app(), which reads all settings"


def values(case: Case) -> Iterator[Finding]:
    """Values that contradict each other, or are risky."""
    found = [finding for check in _VALUES for finding in check(case)]
    yield from found or [ok("no contradictions, and nothing risky")]


def _broker(case: Case) -> Iterator[Finding]:
    config, app = case.config, case.app
    if app.testing and not config.testing_broker and config.broker_urls:
        yield problem(
            "TESTING is set, so events stay in this process, and in memory",
            "remove TESTING, or set EVENTCOLLECTOR_TESTING_BROKER to True",
        )
        return
    try:
        choose_broker(config, app)
    except ConfigurationError as error:
        what, cure = split(str(error))
        yield problem(f"{what}, so each event fails", cure)


def _memory(case: Case) -> Iterator[Finding]:
    is_meant = case.app.testing or case.app.debug
    if case.nodes and not case.has_broker and not is_meant:
        yield problem(
            "the broker is memory://, so events stay in this process and are lost",
            "set EVENTCOLLECTOR_BROKER_URL to amqp://user:password@host:5672/vhost",
        )


def _useless(case: Case) -> Iterator[Finding]:
    """Settings that have no effect without another one."""
    config = case.config
    has_spool = config.backlog == "spool"
    has_outbox = case.state.sessions.outbox is not None
    has_key = any("certfile" in url.options for url in config.broker_urls or ())
    for key, (has_effect, needed) in {
        "SPOOL_DIR": (has_spool, "EVENTCOLLECTOR_BACKLOG = 'spool'"),
        "SPOOL_NAME": (has_spool or has_outbox, "EVENTCOLLECTOR_BACKLOG = 'spool'"),
        "SPOOL_SYNC": (has_spool, "EVENTCOLLECTOR_BACKLOG = 'spool'"),
        "OUTBOX_RELAY": (has_outbox, "bind_session(…, outbox=…)"),
        "OUTBOX_LEASE": (has_outbox, "bind_session(…, outbox=…)"),
        "KEYFILE_PASSWORD": (has_key, "a keyfile in EVENTCOLLECTOR_BROKER_URL"),
    }.items():
        if case.app.config.get(f"{PREFIX}{key}") is not None and not has_effect:
            what = f"{PREFIX}{key} has no effect without {needed}"
            yield warning(what, "add that, or remove the setting")


def _numbers(case: Case) -> Iterator[Finding]:
    config = case.config
    is_chosen = f"{PREFIX}MAX_IN_FLIGHT" in case.app.config
    if is_chosen and config.max_in_flight > config.max_events:
        yield warning(
            f"{PREFIX}MAX_IN_FLIGHT ({config.max_in_flight}) is more than"
            f" {PREFIX}MAX_EVENTS ({config.max_events}), which limits it, too",
            "lower the former, or raise the latter",
        )
    if config.dead_after < config.retry_max_delay:
        yield warning(
            f"{PREFIX}DEAD_AFTER ({config.dead_after:g} s) is less than"
            f" {PREFIX}RETRY_MAX_DELAY ({config.retry_max_delay:g} s), so events are"
            " dead after few attempts",
            "raise the former",
        )


def _times(case: Case) -> Iterator[Finding]:
    config, (least, most) = case.config, _HEARTBEATS
    if not least <= config.heartbeat <= most:
        fault = "a busy machine may miss it" if config.heartbeat < least else _LATE
        yield warning(
            f"{PREFIX}HEARTBEAT is {config.heartbeat} s: {fault}",
            f"set it to {least} to {most}, or leave it out",
        )
    if config.confirm_timeout > _LONG_WAIT:
        yield warning(
            f"{PREFIX}CONFIRM_TIMEOUT is {config.confirm_timeout:g} s: while the broker"
            " is slow, each request waits that long",
            "lower it: events that are not confirmed by then are sent all the same",
        )
    if config.shutdown_timeout == 0 and config.backlog == "memory":
        yield warning(
            f"{PREFIX}SHUTDOWN_TIMEOUT is 0, so what is in flight when a process ends"
            " is lost",
            "raise it, or set EVENTCOLLECTOR_BACKLOG to 'spool'",
        )


_LATE = "a dead connection is noticed late"


def _tls(case: Case) -> Iterator[Finding]:
    for url in case.config.broker_urls or ():
        if url.options.get("verify") == "verify_none":
            yield warning(
                f"verify=verify_none: whoever can redirect connections to {url.host}"
                " gets the password and all events",
                "remove it, and set cacertfile to the authority's certificate",
            )


def _losses(case: Case) -> Iterator[Finding]:
    for loss in silent_losses(case.config.topology):
        yield warning(*split(loss))


_VALUES: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    _broker,
    _memory,
    _useless,
    _numbers,
    _times,
    _tls,
    _losses,
)
