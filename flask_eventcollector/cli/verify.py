"""The command ``flask events verify``."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import click
from click.core import ParameterSource
from flask import current_app
from flask.cli import with_appcontext

from ..app_state import state_of
from ..config.broker_url import MEMORY, BrokerURL, parse_broker_urls
from ..errors import ConfigurationError
from ..stores.spool.destination import Destination
from ..verifying.endings import Interrupted, ending
from ..verifying.management import (
    Management,
    ManagementFailed,
    parse_management_url,
)
from ..verifying.node import NodeFailed, find_programs, private_node
from ..verifying.report import Figures
from ..verifying.restarts import RestartCommand, restarting
from ..verifying.run import NotRun, Plan, Run
from . import as_json, formatting, options
from .exit_codes import Exit, Failure, confirm, end
from .verify_output import Output, report_as_json, show_report

_MOST_SEED = 1_000_000


def _restart_command(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> RestartCommand | None:
    try:
        return None if value is None else RestartCommand(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a command: {error}") from error


def _urls(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[BrokerURL, ...] | None:
    if value is None:
        return None
    try:
        urls = parse_broker_urls(value, "The URL")
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None
    if urls == (MEMORY,):
        raise click.BadParameter("memory:// is no broker: write amqp:// or amqps://")
    return urls


def _management(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Management | None:
    try:
        return None if value is None else parse_management_url(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("verify")
@click.option(
    "--url",
    "urls",
    metavar="URL",
    envvar="FLASK_EVENTS_VERIFY_URL",
    callback=_urls,
    help="The broker, with a virtual host that is empty:"
    " amqp://user:password@host:5672/vhost. To keep the password out of the list of"
    " processes, set FLASK_EVENTS_VERIFY_URL instead. Without it, a private RabbitMQ is"
    " started, if its programs are found.",
)
@click.option("--private", is_flag=True, help="Start a private RabbitMQ.")
@click.option(
    "--minutes",
    type=click.FloatRange(0.1, 60),
    default=2.0,
    show_default=True,
    help="How long the load lasts; what comes before and after takes about a minute.",
)
@click.option(
    "--backlog",
    type=click.Choice(["spool", "memory"]),
    default="spool",
    show_default=True,
    help="Where the workers keep events. In memory, those of a killed worker are lost.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 16),
    default=3,
    show_default=True,
    help="The number of processes.",
)
@click.option(
    "--rate",
    type=click.IntRange(1, 200),
    default=50,
    show_default=True,
    help="Requests a second, with five events each.",
)
@click.option(
    "--queue-type",
    type=click.Choice(["classic", "quorum"]),
    help="The type of the queue; by default, what the virtual host has as its own.",
)
@click.option(
    "--restart-command",
    metavar="COMMAND",
    callback=_restart_command,
    help="Restarts the broker, for example 'systemctl restart rabbitmq-server'. Run at"
    " random moments, without a shell, for two minutes at most.",
)
@click.option(
    "--management-url",
    metavar="URL",
    callback=_management,
    help="Ask RabbitMQ's management API, for example at http://host:15672, whether the"
    " virtual host is empty.",
)
@click.option(
    "--seed", type=click.IntRange(0), help="Of the faults; by default a random one."
)
@click.option(
    "--yes", is_flag=True, help="Use the virtual host even if it may not be empty."
)
@options.json
@with_appcontext
def verify(
    urls: tuple[BrokerURL, ...] | None,
    private: bool,
    minutes: float,
    backlog: str,
    workers: int,
    rate: int,
    queue_type: str | None,
    restart_command: RestartCommand | None,
    management_url: Management | None,
    seed: int | None,
    yes: bool,
    for_machines: bool,
) -> None:
    """Check against a real broker that nothing is lost.

    Runs an app of its own under load, in worker processes that it kills with kill -9,
    behind a proxy that cuts connections, drops data and falls silent. Restarts the
    broker, if it is private, or if there is a command for that. Then reads all back
    from its own queue, and compares it with what was sent. Needs nothing of this app,
    and leaves nothing behind.

    AMQP does not tell what else a virtual host has. So this asks before it uses one,
    unless the management API says that it is empty.

    The first Ctrl-C ends the load, and what was sent until then is judged. A second one
    ends the command at once, and so does SIGTERM.

    Exits with 0 if every promise was kept, with 5 if one was broken, with 3 if nothing
    is lost, but not everything was delivered in time, and with 1 if it could not be
    run.
    """
    if os.name != "posix":  # pragma: no cover - Windows
        raise Failure("This needs signals that Windows lacks: run it on Linux or macOS")
    if private and (_is_url_argument() or restart_command):
        raise click.UsageError("--private takes no --url and no --restart-command.")
    if private:
        urls = None
    if restart_command and not urls:
        raise click.UsageError("--restart-command requires --url.")
    if urls and not yes:
        _check_vhost(urls, management_url)
    seed = random.randrange(_MOST_SEED) if seed is None else seed  # noqa: S311
    plan = Plan(
        urls=urls or (),
        seconds=60 * minutes,
        seed=seed,
        backlog=backlog,
        workers=workers,
        rate=rate,
        queue_type=queue_type,
        restart=restart_command,
    )
    figures, broker = _carried_out(plan)
    if for_machines:
        as_json.write(report_as_json(plan, broker, figures))
    else:
        show_report(plan, broker, figures)
    if not figures.is_kept:
        end(Exit.BROKEN)
    if figures.is_left:
        end(Exit.WAITS)


def _is_url_argument() -> bool:
    """Whether the URL is an argument, rather than in the environment."""
    source = click.get_current_context().get_parameter_source("urls")
    return source is ParameterSource.COMMANDLINE


def _carried_out(plan: Plan) -> tuple[Figures, str]:
    """What the run has shown, and the broker's product and version.

    :raises Failure: it could not be run.
    """
    shown = Output(plan)
    try:
        with ending(plan.longest) as stop, ExitStack() as stack:
            if not plan.urls:
                plan = _with_private_broker(plan, stack)
            run = Run(plan, stop, shown.show, shown.warn)
            try:
                return run.carry_out(), run.broker
            finally:
                shown.clear()
    except (NotRun, NodeFailed, OSError) as error:
        raise Failure(f"Not verified: {error}") from error
    except Interrupted as error:
        raise Failure(f"Not verified: {error}") from None


def _with_private_broker(plan: Plan, stack: ExitStack) -> Plan:
    programs = find_programs()
    if programs is None:
        raise Failure(
            "There is no --url, and RabbitMQ's programs were not found: add --url, or"
            " set RABBITMQ_BIN to the folder of rabbitmq-server"
        )
    click.echo("Starting a private RabbitMQ …", err=True)
    node = stack.enter_context(private_node(programs))
    return replace(plan, urls=(node.url,), restart=restarting(node))


# The virtual host.


def _check_vhost(urls: Sequence[BrokerURL], management: Management | None) -> None:
    """Ask before a virtual host is used that is not known to be empty.

    :raises Failure: the answer is no, or nobody can answer.
    """
    why = _why_not_empty(urls, management)
    if why:
        hosts = ", ".join(f"{url.host}:{url.port}" for url in urls)
        place = formatting.printable(f"virtual host {urls[0].vhost} of {hosts}")
        click.echo(why, err=True)
        confirm(f"Use {place} all the same?")


def _why_not_empty(urls: Sequence[BrokerURL], management: Management | None) -> str:
    """Why the virtual host may not be empty; ``""``: it is."""
    if _is_of_app(urls):
        return "This app publishes its own events to this virtual host."
    if management is None:
        return (
            "AMQP does not tell whether this virtual host is empty; with"
            " --management-url, RabbitMQ does. What is there would share the load."
        )
    try:
        found = management.queues(urls[0])
    except ManagementFailed as error:
        raise Failure(f"Is the virtual host empty? {error}") from error
    if not found.number:
        return ""
    names = ", ".join(map(formatting.printable, found.names))
    more = ", …" if found.number > len(found.names) else ""
    count = formatting.count(found.number, "queue")
    return f"This virtual host is not empty. It has {count}: {names}{more}"


def _is_of_app(urls: Sequence[BrokerURL]) -> bool:
    state = state_of(current_app)
    if state is None or not state.config.broker_urls:
        return False
    return Destination.of(urls).is_same(Destination.of(state.config.broker_urls))
