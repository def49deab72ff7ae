"""The commands of ``flask events topology``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import click
from flask import current_app
from flask.cli import with_appcontext

from ..brokers.rabbitmq.inspection import (
    BrokerUnreachable,
    Finding,
    Inspector,
    State,
    connecting,
)
from ..brokers.rabbitmq.logins import Logins
from ..config.broker_url import MEMORY, BrokerURL
from ..config.settings import choose_broker, choose_credentials
from ..config.topology import Topology, of_others, silent_losses
from ..errors import ConfigurationError
from . import as_json, formatting, options
from .context import app_state
from .exit_codes import Exit, Failure, end

#: Seconds that the broker may take for everything.
_PATIENCE = 60.0

_HELP = """Compare the broker's exchanges and queues with the settings.

AMQP shows whether an exchange or a queue exists, and whether the broker would accept
its declaration. It shows neither bindings, nor policies, nor what exists besides.
"""


@click.group("topology", help=_HELP)
def topology() -> None:
    """The group; its help is above."""


@topology.command("check")
@options.json
@with_appcontext
def _check(for_machines: bool) -> None:
    """Show each exchange, queue and binding of the settings, and how it stands.

    Also tells what in the settings may lose messages without a trace. Changes nothing.
    Exits with 3 if anything is missing, different or refused, and with 1 if the broker
    can't be reached.
    """
    result = _look(apply=False)
    if for_machines:
        as_json.write(result.as_json())
    else:
        _show_table(result.findings)
        _show_lines(result.details)
        _show_lines(f"Losses: {loss}." for loss in result.losses)
        if result.absent:
            count = len(result.absent)
            click.echo(f"Missing: {count}, which 'apply' declares and binds.")
        _show_unseen(result)
    _finish(result)


@topology.command("diff")
@options.json
@with_appcontext
def _diff(for_machines: bool) -> None:
    """Show only where the broker differs from the settings.

    '+' is missing, and 'apply' declares it. '!' differs or is refused, and remains so:
    correct the settings, or the broker. Changes nothing. For the exit code see 'check'.
    """
    result = _look(apply=False)
    if for_machines:
        as_json.write(result.as_json())
    else:
        _show_lines(result.changes)
        if not result.bad:
            click.echo("No differences.")
        _show_unseen(result)
    _finish(result)


@topology.command("apply")
@options.json
@with_appcontext
def _apply(for_machines: bool) -> None:
    """Declare and bind what is missing, as each worker does when it connects.

    Deletes nothing, and changes nothing that exists. For the exit code see 'check'.
    """
    result = _look(apply=True)
    if for_machines:
        as_json.write(result.as_json())
    else:
        _show_table(result.findings)
        _show_lines(result.details)
    _finish(result)


class _Result(NamedTuple):
    """How everything stands, and what in the settings may lose messages."""

    broker: str
    findings: Sequence[Finding]
    losses: Sequence[str]

    @property
    def bad(self) -> list[Finding]:
        """What is not as the settings say."""
        return [finding for finding in self.findings if finding.state.is_bad]

    @property
    def absent(self) -> list[Finding]:
        """What ``apply`` would declare or bind."""
        return [f for f in self.bad if f.state is State.MISSING and not f.reason]

    @property
    def unseen(self) -> int:
        """How many bindings may or may not exist."""
        return sum(finding.state is State.UNKNOWN for finding in self.findings)

    @property
    def details(self) -> list[str]:
        """What is wrong with each, as far as its state does not say it all."""
        found = [finding for finding in self.bad if finding not in self.absent]
        return [line for finding in found for line in _details(finding)]

    @property
    def changes(self) -> list[str]:
        """A line for each difference."""
        lines = []
        for finding in self.bad:
            if finding in self.absent:
                lines.append(f"+ {finding.kind} {finding.name}")
            else:
                lines += [f"! {line}" for line in _details(finding)]
        return lines

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "broker": self.broker,
            "findings": [_finding_as_json(finding) for finding in self.findings],
            "losses": list(self.losses),
            "unseen_bindings": self.unseen,
        }


def _details(finding: Finding) -> list[str]:
    what = f"{finding.kind} {finding.name}"
    lines = [f"{what}: {difference}" for difference in finding.differences]
    if finding.reason or not lines:
        lines.append(f"{what}: {finding.reason or finding.state}")
    return lines


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "name": finding.name,
        "state": finding.state.value,
        "differences": [
            {"argument": d.argument, "settings": d.given, "broker": d.present}
            for d in finding.differences
        ],
        "reason": finding.reason,
    }


def _show_table(findings: Sequence[Finding]) -> None:
    rows = [(f.kind, f.name, str(f.state)) for f in findings]
    if rows:
        _show_lines(formatting.table(("KIND", "NAME", "STATE"), rows))
    else:
        click.echo("The settings declare nothing.")


def _show_lines(lines: Any) -> None:
    for line in lines:
        click.echo(formatting.printable(line))


def _show_unseen(result: _Result) -> None:
    if result.unseen:
        bindings = formatting.count(result.unseen, "binding")
        click.echo(f"Not visible over AMQP: {bindings}, which 'apply' makes sure of.")


def _finish(result: _Result) -> None:
    if result.bad:
        end(Exit.WAITS)


# Asking the broker.


def _look(*, apply: bool) -> _Result:
    """Compare, or apply, within a minute.

    :raises Failure: the broker can't be reached, or does not respond.
    """
    config = app_state().config
    urls = _urls()
    inspector = _Inspection(config.topology, urls, config.exchange, apply)
    inspector.start()
    inspector.join(_PATIENCE)
    if inspector.is_alive():
        raise Failure(f"The broker did not respond within {_PATIENCE:.0f} s")
    if inspector.problem:
        raise Failure(f"Can't reach the broker: {inspector.problem}")
    losses = silent_losses(config.topology)
    return _Result("; ".join(map(str, urls)), inspector.found, losses)


class _Inspection(threading.Thread):
    """Asks the broker in a thread of its own, since pika has no timeouts for that."""

    def __init__(
        self, topology: Topology, urls: Sequence[BrokerURL], exchange: str, apply: bool
    ) -> None:
        super().__init__(name="eventcollector-topology", daemon=True)
        config, name = app_state().config, current_app.name
        logins = Logins(choose_credentials(config), config.keyfile_password, name)
        connect = connecting(urls, config.heartbeat, name, logins)
        self._inspector = Inspector(connect, topology)
        self._others = of_others(topology, exchange)
        self._apply = apply
        self.found: list[Finding] = []
        #: Why the broker can't be reached; ``""``: it can.
        self.problem = ""

    def run(self) -> None:
        try:
            found = self._inspector.findings(self._others, apply=self._apply)
            self.found.extend(found)
        except BrokerUnreachable as error:
            self.problem = str(error)


def _urls() -> tuple[BrokerURL, ...]:
    try:
        urls = choose_broker(app_state().config, current_app)
    except ConfigurationError as error:
        raise Failure(str(error)) from error
    if urls == (MEMORY,):
        raise Failure(
            "The broker is memory://, which has no exchanges and queues to compare: set"
            " EVENTCOLLECTOR_BROKER_URL to the broker that the workers use"
        )
    return urls
