"""Checks the way to the broker: network, login, rights, and a message's round trip."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..brokers.rabbitmq.declarations import Phase, Step, steps
from ..brokers.rabbitmq.questions import Blocked, Questions, Unreachable
from ..brokers.rabbitmq.reasons import Stage
from ..messages.wording import counted
from .case import Case, address
from .findings import Finding, ok, problem, warning

#: Seconds for a message to a queue and back.
_SLOW = 1.0
#: Days until a certificate ends that somebody has to renew.
_SOON = 14.0

_CURES = {
    Stage.SETTINGS: "correct the setting, or the file that it names",
    Stage.RESOLVE: "correct the host in EVENTCOLLECTOR_BROKER_URL, or the resolver's"
    " configuration",
    Stage.CONNECT: "see whether the broker runs, whether host and port in"
    " EVENTCOLLECTOR_BROKER_URL are right (5672, with TLS 5671), and whether a firewall"
    " is between",
    Stage.TLS: "see whether this port speaks TLS (usually 5671; one without it, usually"
    " 5672, needs amqp://), and in which versions",
    Stage.EXPIRED: "renew the broker's certificate, or that of its authority, whichever"
    " has ended ('openssl s_client -connect HOST:PORT' shows both), and have RabbitMQ"
    " read it again (rabbitmqctl eval 'ssl:clear_pem_cache().')",
    Stage.NOT_YET_VALID: "see whether this machine's clock is right; otherwise, have"
    " the broker use its former certificate until the new one begins",
    Stage.HOST_NAME: "use a host in EVENTCOLLECTOR_BROKER_URL that the certificate"
    " names, or have it issued for this one",
    Stage.AUTHORITY: "set cacertfile in EVENTCOLLECTOR_BROKER_URL to the authority that"
    " has issued the broker's certificate, and have the broker send its intermediate"
    " certificates, too",
    Stage.CLIENT_CERTIFICATE: "renew the certificate that certfile and keyfile in"
    " EVENTCOLLECTOR_BROKER_URL name, or set them to one whose authority the broker"
    " trusts",
    Stage.PROTOCOL: "see whether the port is the broker's own (5672), not that of its"
    " management UI (15672), whether it expects TLS (amqps://) and a certificate of the"
    " client (certfile), and whether the broker hangs",
    Stage.LOGIN: "correct the user and the password in EVENTCOLLECTOR_BROKER_URL,"
    " CREDENTIALS or PASSWORD_FILE; RabbitMQ lets 'guest' in from its own machine only",
    Stage.VHOST: "correct the virtual host in EVENTCOLLECTOR_BROKER_URL (write a / in"
    " its name as %2F), or have it created, and the user granted access (rabbitmqctl"
    " set_permissions)",
}
_BLOCKED = (
    "the broker has blocked publishers, since it lacks memory or disk space",
    "see 'rabbitmq-diagnostics alarms', and free what is short; events wait meanwhile",
)


def nodes(case: Case) -> Iterator[Finding]:
    """Whether each node can be reached, and lets the app in."""
    if not case.has_broker:
        return
    for node in case.nodes:
        began = time.perf_counter()
        try:
            with case.asking(node) as questions:
                server, days = questions.server(), questions.certificate_days()
        except Unreachable as error:
            yield problem(f"{address(node)}: {error}", _CURES[error.stage])
            continue
        case.node = case.node or node
        milliseconds = (time.perf_counter() - began) * 1000
        yield ok(f"{address(node)}: {server}, logged in after {milliseconds:.0f} ms")
        if days is not None and days < _SOON:
            left = counted(round(days), "day")
            yield warning(
                f"the certificate of {node.host}:{node.port} ends in {left}",
                "renew it, or no process can connect then",
            )


def round_trip(case: Case) -> Iterator[Finding]:
    """How long a message takes to a queue of the connection's own, and back."""
    if case.node is None:
        return
    with case.asking(case.node) as questions:
        try:
            seconds, why_without = questions.round_trip()
        except Blocked:
            case.node = None
            yield problem(*_BLOCKED)
            return
    way = "an answer takes" if why_without else "a message to a queue and back takes"
    took = f"{way} {seconds * 1000:.1f} ms"
    if seconds < _SLOW:
        yield ok(took)
    else:
        yield warning(took, "see what keeps the broker or the network busy")


def rights(case: Case) -> Iterator[Finding]:
    """Whether the user may publish, bind, and declare what is missing."""
    if case.node is None:
        return
    with case.asking(case.node) as questions:
        refused = dict.fromkeys(_refusals(case, questions))
    for text in refused:
        yield problem(text, _GRANT)
    if not refused:
        yield ok("the user may publish, and declare and bind what the settings say")


_GRANT = (
    "grant the user that right (rabbitmqctl set_permissions -p VHOST USER CONFIGURE"
    " WRITE READ)"
)


def _refusals(case: Case, questions: Questions) -> Iterator[str]:
    topology = case.config.topology
    internal = {name for name, o in topology.exchanges.items() if o.internal}
    for exchange in dict.fromkeys([case.config.exchange, *topology.exchanges]):
        if exchange not in internal:
            yield from filter(None, [questions.why_not_publish(exchange)])
    for step in steps(topology):
        yield from filter(None, [_why_not(step, questions)])


def _why_not(step: Step, questions: Questions) -> str:
    """Why the user may not take *step*; ``""``: it may."""
    if step.phase is Phase.EXCHANGES:
        is_there = questions.has_exchange(step.name)
    else:
        is_there = questions.has_queue(step.name)
    if step.phase is not Phase.BINDINGS:
        # What exists is compared with the settings, which needs the same right.
        return "" if is_there else questions.why_not_declare(step)
    is_there = is_there and questions.has_exchange(step.values["exchange"])
    return questions.why_not_bind(step) if is_there else ""


def unchecked(case: Case) -> Finding | None:
    """What to say if the broker can't be asked; ``None``: it can."""
    if case.node is not None or not case.has_broker:
        return None
    return warning("not examined, since the broker can't be asked", "mend that first")
