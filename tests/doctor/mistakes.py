"""Mistakes that are planted, and what the doctor must say about each."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from flask_eventcollector import make_outbox_table
from flask_eventcollector.delivery.refusals import Refusal
from flask_eventcollector.doctor import (
    monitoring,
    outbox,
    spool,
    workers,
)
from flask_eventcollector.doctor.case import Case
from flask_eventcollector.doctor.findings import Finding, Level
from flask_eventcollector.events import BrokerState, TargetProblem
from flask_eventcollector.monitoring.history import files, records
from flask_eventcollector.stores.spool.admin import reading
from flask_eventcollector.stores.spool.destination import Destination
from flask_eventcollector.stores.spool.folder import claim_orphan
from flask_eventcollector.stores.spool.orphan import open_sound
from tests.doctor.support import Patient, say
from tests.faults.tls import Authority, TLSProxy
from tests.helpers import DEADLINE, unmeasured
from tests.parts import make_event
from tests.spool.support import ELSEWHERE, dead_rows, leave

WARNING, PROBLEM = Level.WARNING, Level.PROBLEM
#: What else is found if a mistake leaves events in a file.
LEFT = "of ended processes waits?, and no process of this app is seen here"
#: What else is found if the broker can't be asked.
NOT_EXAMINED = "^not examined, since the broker can't be asked$"


class Mistake(NamedTuple):
    """A mistake, and what must be found."""

    name: str
    plant: Callable[[Patient], object]
    level: Level
    about: str
    #: A pattern for what is found, and one for the cure.
    what: str
    cure: str
    #: A pattern for what else is found, since it follows.
    also: str

    def is_named_by(self, finding: Finding) -> bool:
        return (
            (finding.level, finding.about) == (self.level, self.about)
            and re.search(self.what, finding.what) is not None
            and re.search(self.cure, finding.cure) is not None
        )

    def explains(self, finding: Finding) -> bool:
        """Whether *finding* is no other mistake."""
        return (
            self.is_named_by(finding) or re.search(self.also, finding.what) is not None
        )


MISTAKES: list[Mistake] = []


def mistake(
    level: Level, about: str, what: str, cure: str, *, also: str = NOT_EXAMINED
) -> Callable[[Callable[[Patient], object]], None]:
    def note(plant: Callable[[Patient], object]) -> None:
        name = plant.__name__.replace("_", " ")
        MISTAKES.append(Mistake(name, plant, level, about, what, cure, also))

    return note


def change_later(patient: Patient, key: str, value: object) -> None:
    """Change a setting when the app has read it."""
    patient.later.append(lambda it: it.app.config.update({key: value}))


# Settings


@mistake(PROBLEM, "settings", "TIMEOUTS is not a setting", "mean .*CONFIRM_TIMEOUT")
def a_misspelt_setting(patient: Patient) -> None:
    change_later(patient, "EVENTCOLLECTOR_CONFIRM_TIMEOUTS", 1)


@mistake(PROBLEM, "settings", "EVENTCOLECTOR_OVERFLOW is not", "mean EVENTCOLLECTOR_OV")
def a_misspelt_prefix(patient: Patient) -> None:
    patient.app.config["EVENTCOLECTOR_OVERFLOW"] = "reject"


@mistake(PROBLEM, "settings", "FLASK_EVENTCOLLECTOR_OVERFLOW is in", "from_prefixed")
def an_environment_that_is_not_read(patient: Patient) -> None:
    patient.patch.setenv("FLASK_EVENTCOLLECTOR_OVERFLOW", "reject")


@mistake(PROBLEM, "settings", "_OVERFLOW was changed too late", "before init_app")
def a_setting_that_comes_too_late(patient: Patient) -> None:
    change_later(patient, "EVENTCOLLECTOR_OVERFLOW", "reject")


@mistake(PROBLEM, "settings", "later change .* is 'rejekt'", "before init_app")
def a_late_setting_that_is_wrong(patient: Patient) -> None:
    change_later(patient, "EVENTCOLLECTOR_OVERFLOW", "rejekt")


@mistake(PROBLEM, "settings", "TESTING is set", "TESTING_BROKER")
def TESTING_in_production(patient: Patient) -> None:
    patient.app.config["TESTING"] = True


@mistake(PROBLEM, "settings", "the broker is memory://", "amqp://user:password@")
def a_broker_in_memory(patient: Patient) -> None:
    patient.settings["BROKER_URL"] = "memory://"


@mistake(PROBLEM, "settings", "BROKER_URL is not set, so each event fails", "use amqp")
def no_broker(patient: Patient) -> None:
    patient.settings["BROKER_URL"] = None


@mistake(WARNING, "settings", "SPOOL_DIR has no effect without .*BACKLOG", "remove")
def a_folder_without_a_spool(patient: Patient) -> None:
    patient.settings["BACKLOG"] = "memory"


@mistake(WARNING, "settings", "OUTBOX_RELAY has no effect without bind_session", "add")
def a_relay_without_an_outbox(patient: Patient) -> None:
    patient.settings["OUTBOX_RELAY"] = "external"


@mistake(WARNING, "settings", r"MAX_IN_FLIGHT \(200\) is more than .*MAX_EV", "lower")
def more_in_flight_than_events(patient: Patient) -> None:
    patient.settings |= {"MAX_IN_FLIGHT": 200, "MAX_EVENTS": 100}


@mistake(WARNING, "settings", r"DEAD_AFTER \(5 s\) is less than .*DELAY \(60", "raise")
def dead_after_few_attempts(patient: Patient) -> None:
    patient.settings["DEAD_AFTER"] = 5


@mistake(WARNING, "settings", "HEARTBEAT is 2 s: a busy machine may miss", "5 to 60")
def a_nervous_heartbeat(patient: Patient) -> None:
    patient.settings["HEARTBEAT"] = 2


@mistake(WARNING, "settings", "HEARTBEAT is 600 s: a dead connection is not", "5 to 60")
def a_slow_heartbeat(patient: Patient) -> None:
    patient.settings["HEARTBEAT"] = 600


@mistake(WARNING, "settings", "CONFIRM_TIMEOUT is 25 s: .* each request", "lower it")
def requests_that_wait_long(patient: Patient) -> None:
    patient.settings["CONFIRM_TIMEOUT"] = 25


@mistake(WARNING, "settings", "SHUTDOWN_TIMEOUT is 0", "BACKLOG to 'spool'")
def no_time_to_shut_down(patient: Patient) -> None:
    patient.settings |= {"BACKLOG": "memory", "SHUTDOWN_TIMEOUT": 0, "SPOOL_DIR": None}


@mistake(WARNING, "settings", "verify=verify_none", "set cacertfile")
def TLS_without_verification(patient: Patient) -> None:
    url = behind_tls(patient)
    patient.settings["BROKER_URL"] = f"{url}?verify=verify_none"


@mistake(WARNING, "settings", "drops its oldest messages at 'x-max-length'", "overflow")
def a_queue_that_drops_silently(patient: Patient) -> None:
    patient.settings["QUEUES"][patient.queue]["x-max-length"] = 10
    with patient.node.channel() as channel:
        channel.queue_delete(patient.queue)
        arguments = {"x-max-length": 10}
        channel.queue_declare(patient.queue, durable=True, arguments=arguments)


# Threads


@mistake(
    PROBLEM,
    "threads",
    "no thread can be started, .*: can't start",
    "ulimit -u",
    also=f"RuntimeError in mistakes.py|{NOT_EXAMINED}",
)
def no_more_threads(patient: Patient) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    patient.later.append(lambda it: it.patch.setattr(threading.Thread, "start", refuse))


@mistake(PROBLEM, "threads", "gevent has patched .* after", "patch_all.. before all")
def gevent_that_patches_late(patient: Patient) -> None:
    class Local:
        """gevent's."""

    patient.later.append(lambda it: it.patch.setattr(threading, "local", Local))


# The broker


def behind_tls(patient: Patient, **about: Any) -> str:
    """The URL of the broker with TLS."""
    return trusted(patient, **about).partition("?")[0]


def trusted(patient: Patient, **about: Any) -> str:
    """The same, with the authority's certificate."""
    authority = Authority()
    proxy = TLSProxy(patient.node.port, authority.context(**about))
    patient.until_the_end.enter_context(proxy)
    file = patient.until_the_end.enter_context(authority.file())
    return f"amqps://guest:guest@localhost:{proxy.port}/?cacertfile={file}"


def url(patient: Patient, login: str = "guest:guest", vhost: str = "") -> str:
    return f"amqp://{login}@127.0.0.1:{patient.node.port}/{vhost}"


@mistake(PROBLEM, "broker", "Connection refused", "5672, with TLS 5671")
def a_closed_port(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    patient.settings["BROKER_URL"] = f"amqp://guest:guest@127.0.0.1:{port}/"


@mistake(PROBLEM, "broker", "host name resolution failed", "correct the host")
def a_host_that_does_not_exist(patient: Patient) -> None:
    patient.settings["BROKER_URL"] = "amqp://guest:guest@no-such-host.invalid/"


@mistake(PROBLEM, "broker", "wrong user name or password", "correct the user and the p")
def a_wrong_password(patient: Patient) -> None:
    patient.settings["BROKER_URL"] = url(patient, "guest:the-planted-password")


@mistake(PROBLEM, "broker", "nowhere", "correct the virtual host")
def an_unknown_virtual_host(patient: Patient) -> None:
    patient.settings["BROKER_URL"] = url(patient, vhost="nowhere")


@mistake(PROBLEM, "broker", "certificate verify failed", "set cacertfile .*authority")
def an_unknown_authority(patient: Patient) -> None:
    patient.settings["BROKER_URL"] = behind_tls(patient)


@mistake(PROBLEM, "broker", "certificate has expired", "renew the broker's certific")
def a_certificate_that_has_ended(patient: Patient) -> None:
    ends = datetime.now(timezone.utc) - timedelta(hours=1)
    begins = ends - timedelta(days=1)
    patient.settings["BROKER_URL"] = trusted(patient, begins=begins, ends=ends)


@mistake(PROBLEM, "broker", "certificate is not yet valid", "clock is right")
def a_certificate_that_begins_later(patient: Patient) -> None:
    begins = datetime.now(timezone.utc) + timedelta(days=1)
    patient.settings["BROKER_URL"] = trusted(patient, begins=begins)


@mistake(PROBLEM, "broker", "certificate is not valid for 'localhost'", "have it issue")
def a_certificate_for_another_host(patient: Patient) -> None:
    patient.settings["BROKER_URL"] = trusted(patient, name="rabbit.example")


@mistake(WARNING, "broker", "certificate of localhost:.* ends in 3 days", "renew it")
def a_certificate_that_ends_soon(patient: Patient) -> None:
    ends = datetime.now(timezone.utc) + timedelta(days=3, hours=1)
    patient.settings["BROKER_URL"] = trusted(patient, ends=ends)


@mistake(PROBLEM, "broker", "TLS failed", "speaks TLS")
def TLS_at_a_port_without(patient: Patient) -> None:
    patient.settings["BROKER_URL"] = url(patient).replace("amqp:", "amqps:")


class Silent(BaseHTTPRequestHandler):
    """Speaks HTTP only, and says nothing to whoever begins with a header of AMQP."""

    def handle(self) -> None:
        """Read the header, and end the connection."""
        self.rfile.read(8)


@mistake(PROBLEM, "broker", "does not speak AMQP", "management UI")
def the_port_of_the_management_UI(patient: Patient) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    patient.until_the_end.callback(server.server_close)
    patient.until_the_end.callback(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    patient.settings["BROKER_URL"] = f"amqp://guest:guest@127.0.0.1:{port}/"


def with_rights(patient: Patient, configure: str, write: str, read: str) -> None:
    """Let the app log in as a user with these rights."""
    user = f"user-{uuid4().hex}"
    rights = ", ".join(f'<<"{right}">>' for right in (configure, write, read))
    name = f'<<"{user}">>'
    patient.node.eval(
        f'rabbit_auth_backend_internal:add_user({name}, <<"secret">>, <<"test">>),'
        " rabbit_auth_backend_internal:set_permissions("
        f'{name}, <<"/">>, {rights}, <<"test">>).'
    )
    patient.until_the_end.callback(
        patient.node.eval,
        f'rabbit_auth_backend_internal:delete_user({name}, <<"test">>).',
    )
    patient.settings["BROKER_URL"] = url(patient, f"{user}:secret")


@mistake(PROBLEM, "broker", "access to exchange 'shop-.*' .*refused", "set_permissions")
def no_right_to_publish(patient: Patient) -> None:
    with_rights(patient, ".*", "^orders|^amq", ".*")


@mistake(
    PROBLEM,
    "broker",
    "access to queue 'new-.*refused",
    "set_permissions",
    also="queue 'new-.*' is missing",
)
def no_right_to_declare_what_is_missing(patient: Patient) -> None:
    with_rights(patient, f"^(amq|{patient.queue}|{patient.exchange})", ".*", ".*")
    patient.settings["QUEUES"][f"new-{patient.queue}"] = {"bind": ["amq.topic:#"]}


@mistake(PROBLEM, "broker", "access to exchange 'shop-.*' .*refused", "set_permissions")
def no_right_to_bind(patient: Patient) -> None:
    with_rights(patient, ".*", ".*", "^amq")


@mistake(PROBLEM, "broker", "blocked publishers", "rabbitmq-diagnostics alarms")
def a_broker_without_memory(patient: Patient) -> None:
    node = patient.fixture("private_rabbitmq")
    node.memory_alarm(True)
    patient.until_the_end.callback(node.memory_alarm, False)
    patient.settings["BROKER_URL"] = node.url


# Exchanges, queues and targets


@mistake(WARNING, "topology", "queue 'new' is missing", "flask events topology apply")
def a_queue_that_is_missing(patient: Patient) -> None:
    patient.settings["QUEUES"]["new"] = {"bind": [f"{patient.exchange}:new"]}


@mistake(PROBLEM, "topology", "queue .* differs: 'x-max-priority' is not set", "delete")
def a_queue_with_other_arguments(patient: Patient) -> None:
    patient.settings["QUEUES"][patient.queue]["x-max-priority"] = 5


@mistake(PROBLEM, "topology", "exchange .* differs: 'type' is topic", "delete the exch")
def an_exchange_of_another_type(patient: Patient) -> None:
    patient.settings["EXCHANGES"][patient.exchange]["type"] = "headers"


@mistake(PROBLEM, "topology", "exchange 'crm' is missing", "have others declare it")
def an_exchange_that_nobody_declares(patient: Patient) -> None:
    patient.settings["EXCHANGES"]["crm"] = {}


@mistake(
    PROBLEM,
    "targets",
    "1 event waits for queue 'theirs', which does not exist",
    "--queue theirs --to",
    also=f"queue 'theirs' is missing|{LEFT}",
)
def an_event_for_a_queue_that_others_have_not_declared(patient: Patient) -> None:
    patient.settings["QUEUES"]["theirs"] = {"declare": False}
    leave(patient.spool, [1], "theirs", destination=destination(patient))


@mistake(WARNING, "targets", "queue 'amq-like' is bound to nothing, but", "add 'bind'")
def a_queue_that_nothing_is_bound_to(patient: Patient) -> None:
    patient.settings["QUEUES"]["amq-like"] = {}
    patient.until_the_end.callback(patient.node.delete, "amq-like")
    patient.node.declare("amq-like")


def destination(patient: Patient) -> Destination:
    return Destination((f"amqp://127.0.0.1:{patient.node.port}/%2F",))


@mistake(
    PROBLEM,
    "targets",
    "2 events wait for queue 'ordres'",
    "--queue ordres --to",
    also=LEFT,
)
def events_for_a_queue_that_does_not_exist(patient: Patient) -> None:
    leave(patient.spool, [1, 2], "ordres", destination=destination(patient))


@mistake(
    PROBLEM, "targets", "1 event waits for exchange 'shoppe'", "EXCHANGES", also=LEFT
)
def an_event_for_an_exchange_that_does_not_exist(patient: Patient) -> None:
    leave(patient.spool, [1], destination=destination(patient), exchange="shoppe")


@mistake(
    WARNING,
    "targets",
    "key 'invoices', which no binding",
    "add it to the 'bind'",
    also=LEFT,
)
def an_event_that_no_binding_matches(patient: Patient) -> None:
    here, exchange = destination(patient), patient.exchange
    leave(patient.spool, [1], "invoices", destination=here, exchange=exchange)
    leave(patient.spool, [2], "orders.created", destination=here, exchange=exchange)


@mistake(
    PROBLEM,
    "targets",
    "4 events wait for exchange 'shop-.*' .*.sent 3 times, again in .*refused it$",
    "rabbitmqctl list_bindings.*whether the queue is full",
)
def a_full_queue_that_refuses_what_is_in_memory(patient: Patient) -> None:
    patient.settings |= {"BACKLOG": "memory", "SPOOL_DIR": None}
    held = refused("orders.x", 4, exchange=patient.exchange)
    say(patient, retained=4, problem_targets=1, problems=(held,))


@mistake(
    PROBLEM,
    "targets",
    "2 events wait for queue '.*.sent 3 times.: the queue refused it$",
    "whether the queue is full, and who consumes",
    also=LEFT,
)
def a_full_queue_that_refuses_what_is_on_disk(patient: Patient) -> None:
    here = destination(patient)
    path = leave(patient.spool, [1, 2], patient.queue, destination=here)
    refusal = Refusal("1", "", patient.queue, "the queue refused it", 3, 1.0, None)
    Path(f"{path}.refusals").write_text(json.dumps([refusal._asdict()]))


@mistake(
    PROBLEM,
    "targets",
    "1 event waits for exchange 'amq.topic' .*: access refused: grant it the permis",
    "mend that; they are sent again by themselves",
)
def an_exchange_that_the_user_may_not_write_to(patient: Patient) -> None:
    held = refused("orders.x", 1, exchange="amq.topic")
    held = replace(held, reason="access refused: grant it the permission 'write'")
    say(patient, retained=1, problem_targets=1, problems=(held,))


@mistake(
    PROBLEM,
    "targets",
    "1 event waits for queue 'ordres', which does not exist",
    "--queue ordres --to",
)
def an_event_in_memory_for_a_queue_that_does_not_exist(patient: Patient) -> None:
    patient.settings |= {"BACKLOG": "memory", "SPOOL_DIR": None}
    say(patient, retained=1, problem_targets=1, problems=(refused("ordres", 1),))


# The running processes


def refused(queue: str, events: int, exchange: str = "") -> TargetProblem:
    return TargetProblem(queue, exchange, events, "the queue refused it", 3, 1.0, 9.0)


@mistake(
    PROBLEM,
    "workers",
    "process 4711 can't use the broker, which lets .* in: .*wrong user name or pass",
    "restart what has old settings or credentials .the 2 events in memory would be",
)
def a_worker_with_an_old_password(patient: Patient) -> None:
    error = "authentication was refused: wrong user name or password"
    say(patient, broker=BrokerState.DOWN, broker_error=error, retained=2)


@mistake(
    PROBLEM,
    "workers",
    "processes 4711, 4712 can't use the broker, .*: no response",
    "restart what has old settings or credentials;",
)
def workers_that_wait_for_the_broker(patient: Patient) -> None:
    for pid in (4711, 4712):
        say(patient, pid, broker=BrokerState.STALLED, in_flight=1, spooled=1)


@mistake(
    PROBLEM,
    "workers",
    "process 4711: the spool: No space left .* .1 event in memory only",
    "the spool here, and the log",
)
def a_worker_that_can_t_write(patient: Patient) -> None:
    say(patient, spool_error="No space left on device", unspooled=1, retained=1)


@mistake(PROBLEM, "workers", "process 4711: the outbox: .*denied", "the outbox here")
def a_worker_that_can_t_use_its_database(patient: Patient) -> None:
    say(patient, outbox_error="permission denied for table eventcollector_outbox")


@mistake(PROBLEM, "workers", "process 4711: .*MAX_BYTES is reached", "see why they")
def a_worker_at_its_limit(patient: Patient) -> None:
    patient.settings["MAX_EVENTS"] = 10
    say(patient, retained=10)


@mistake(
    PROBLEM,
    "workers",
    "process 4711 sends nothing, and no reason is known: 3 events wait .* for 10 min",
    "py-spy dump --pid 4711.*restart it",
)
def a_worker_whose_threads_have_ended(patient: Patient) -> None:
    patient.patch.setattr(workers, "LOOK", 0.0)
    say(patient, retained=2, in_flight=1, oldest_age=600.0)


@mistake(WARNING, "workers", "not sent any more: 1 event in process 4711", "flask ev")
def a_dead_event_in_memory(patient: Patient) -> None:
    patient.settings |= {"BACKLOG": "memory", "SPOOL_DIR": None}
    say(patient, dead=1)


def other_process(patient: Patient, **more: Any) -> int:
    """The id of a process that does nothing, until the end of the test."""
    command = [sys.executable, "-c", "input()"]
    process = patient.until_the_end.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, env=unmeasured(), **more)
    )
    patient.until_the_end.callback(process.kill)
    return process.pid


@mistake(PROBLEM, "workers", r"stopped by a signal .*: process \d+", r"kill -CONT \d+")
def a_worker_that_was_stopped(patient: Patient) -> None:
    pid = other_process(patient)
    os.kill(pid, signal.SIGSTOP)
    say(patient, pid)


@mistake(PROBLEM, "workers", r"process \d+ is running, but says nothing", "py-spy dump")
def a_worker_that_hangs(patient: Patient) -> None:
    say(patient, other_process(patient))
    patient.patch.setattr(records, "SILENT_AFTER", 0.0)


@mistake(
    WARNING,
    "workers",
    "history has nothing of process 4711, so",
    "see whether it can write there",
)
def a_worker_that_writes_no_history(patient: Patient) -> None:
    patient.patch.setattr(workers, "LOOK", 0.0)
    patient.patch.setattr(Case, "processes", lambda _: {4711})


@mistake(
    WARNING,
    "workers",
    r"shop@\d+@\S+ can't be read: Permission denied",
    "as the user that runs the app",
)
def a_history_of_another_user(patient: Patient) -> None:
    say(patient)

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    patient.patch.setattr(files, "read", refuse)


@mistake(
    PROBLEM,
    "workers",
    r"somebody has removed spool files that process \d+ still writes to",
    "flask events top",
)
def a_spool_that_was_removed(patient: Patient) -> None:
    patient.spool.mkdir(mode=0o700)
    path = patient.spool / "shop@1.spool"
    path.touch()
    with path.open() as file:
        pid = other_process(patient, pass_fds=[file.fileno()])
    path.unlink()
    say(patient, pid)


@mistake(
    WARNING,
    "workers",
    r"_MAX_EVENTS is not the same here as in the environment of process \d+$",
    "correct them here",
)
def a_shell_with_other_settings(patient: Patient) -> None:
    name = "FLASK_EVENTCOLLECTOR_MAX_EVENTS"
    patient.settings["MAX_EVENTS"] = 9
    patient.patch.setenv(name, "the-planted-password")
    pid = other_process(patient)
    patient.patch.setenv(name, "9")
    say(patient, pid)


@mistake(
    WARNING,
    "workers",
    r"amqp://rabbit:5672/billing, .* not the broker .* of process 4711",
    "EVENTCOLLECTOR_SPOOL_NAME",
)
def a_worker_with_another_broker(patient: Patient) -> None:
    leave(patient.spool, [1], destination=ELSEWHERE)
    for module in (workers, reading):
        patient.patch.setattr(module, "holder_of", lambda path: 4711)


# The spool


@mistake(PROBLEM, "spool", "other users can enter it", "chmod 700")
def a_folder_that_all_can_enter(patient: Patient) -> None:
    patient.spool.mkdir(0o700)
    patient.later.append(lambda it: it.spool.chmod(0o755))


def on(patient: Patient, kind: str) -> None:
    """Let the spool be on another file system."""
    patient.patch.setattr(spool, "type_of", lambda path: kind)


@mistake(PROBLEM, "spool", r"is in memory \(tmpfs\)", "a folder on a disk")
def a_spool_in_memory(patient: Patient) -> None:
    on(patient, "tmpfs")


@mistake(PROBLEM, "spool", r"network file system \(nfs4\)", "local disk")
def a_spool_on_NFS(patient: Patient) -> None:
    on(patient, "nfs4")


@mistake(WARNING, "spool", r"container's own layer \(overlay\)", "mount a volume")
def a_spool_in_a_container(patient: Patient) -> None:
    on(patient, "overlay")


@mistake(PROBLEM, "spool", "only 1 MiB are free .* may hold 64 MiB", "free some space")
def a_full_disk(patient: Patient) -> None:
    patient.patch.setattr(spool, "free_bytes", lambda path: 1 << 20)


@mistake(PROBLEM, "spool", "nobody sends the 1 event in .* for amqp://rabbit", "adopt")
def a_file_for_another_broker(patient: Patient) -> None:
    leave(patient.spool, [1], destination=ELSEWHERE)


@mistake(PROBLEM, "spool", "the 3 events in 2 files for amqp://rabbit", "--from shop")
def files_for_another_broker(patient: Patient) -> None:
    leave(patient.spool, [1], destination=ELSEWHERE)
    leave(patient.spool, [2, 3], destination=ELSEWHERE)


@mistake(PROBLEM, "spool", "the 2 events of app 'bookshop'", "adopt --from bookshop")
def an_app_that_was_renamed(patient: Patient) -> None:
    leave(patient.spool, [1, 2], destination=destination(patient), app="bookshop")


#: Another program that uses a file of SQLite, until its standard input ends.
LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode = EXCLUSIVE")
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


def lock(patient: Patient, path: Path) -> None:
    """Let another program use *path*, until the end of the test."""
    program = patient.until_the_end.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", LOCK, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=unmeasured(),
        )
    )
    patient.until_the_end.callback(program.terminate)
    assert program.stdout is not None
    assert program.stdout.readline() == b"locked\n"


#: A file that can't be read, of which nobody knows how many events it has.
UNKNOWN = r"nobody sends the events in shop@\S+ "


@mistake(
    PROBLEM,
    "spool",
    f"{UNKNOWN}for amqp://rabbit.*, and it can't be read: another program uses it",
    "'fuser' names; then, if the broker was moved, run 'flask events adopt shop@",
)
def a_locked_file_for_another_broker(patient: Patient) -> None:
    lock(patient, leave(patient.spool, [1], destination=ELSEWHERE))


@mistake(
    PROBLEM,
    "spool",
    r"nobody sends the events in bookshop@\S+ of app 'bookshop', and it can't be read",
    "then, if this app was renamed, run 'flask events adopt --from bookshop'",
)
def a_locked_file_of_an_app_that_was_renamed(patient: Patient) -> None:
    lock(
        patient,
        leave(patient.spool, [1], destination=destination(patient), app="bookshop"),
    )


@mistake(
    WARNING,
    "spool",
    "2 events of ended processes wait, and no process of this app is seen here",
    "start it, or run 'flask events flush'",
)
def events_that_no_process_sends(patient: Patient) -> None:
    leave_for(patient, [1, 2])


def leave_for(patient: Patient, payloads: Iterable[int]) -> Path:
    """Leave events that only need a process."""
    here, exchange = destination(patient), patient.exchange
    return leave(
        patient.spool, payloads, "orders.x", destination=here, exchange=exchange
    )


@mistake(
    PROBLEM,
    "spool",
    r"process 4711 sends nothing of shop@\S+: 2 events wait, the oldest for",
    "old settings or credentials",
)
def a_worker_that_does_not_send_what_is_on_disk(patient: Patient) -> None:
    patient.settings["HISTORY_DIR"] = None
    leave_for(patient, [1, 2])
    patient.patch.setattr(spool, "LONG", -DEADLINE)
    patient.patch.setattr(spool, "LOOK", 0.0)
    patient.patch.setattr(reading, "holder_of", lambda path: 4711)


@mistake(
    WARNING,
    "spool",
    "dead, so not sent any more: 2 events",
    "flask events dead",
    also="2 events wait for queue 'q'",
)
def dead_events(patient: Patient) -> None:
    path = leave_for(patient, [])
    claim = claim_orphan(path)
    assert claim is not None
    journal = open_sound(path)
    assert journal is not None
    journal.write(dead_rows(["a", "b"]))
    journal.close()
    claim.release()


@mistake(PROBLEM, "spool", "is quarantined, so no process reads it", "quarantine list")
def a_file_in_quarantine(patient: Patient) -> None:
    claim = claim_orphan(leave(patient.spool, [1], destination=destination(patient)))
    assert claim is not None
    claim.quarantine()


@mistake(PROBLEM, "spool", "can't be read: it is damaged", "events flush")
def a_damaged_file(patient: Patient) -> None:
    path = leave(patient.spool, [1], destination=destination(patient))
    path.write_bytes(path.read_bytes()[:4096] + b"?" * 8192)


@mistake(PROBLEM, "spool", "the backlog is in memory, so nobody sends", "'spool'")
def events_that_a_former_spool_has_left(patient: Patient) -> None:
    folder = patient.folder / "eventcollector-spool"
    leave(folder, [1], destination=destination(patient))
    patient.settings |= {"BACKLOG": "memory", "SPOOL_DIR": None}


# The outbox


def with_outbox(patient: Patient, url: str, **options: Any) -> Any:
    """Give the app an outbox in the database at *url*; returns its engine."""
    import sqlalchemy
    from sqlalchemy.orm import sessionmaker

    from tests.transactions.support import obey_savepoints

    engine = sqlalchemy.create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        obey_savepoints(engine)
    patient.until_the_end.callback(engine.dispose)
    patient.table = make_outbox_table(sqlalchemy.MetaData())
    patient.table.metadata.create_all(engine)
    patient.events.bind_session(sessionmaker(engine), outbox=patient.table)
    return engine


def sqlite(patient: Patient) -> str:
    return f"sqlite:///{patient.folder / 'shop.sqlite3'}"


@mistake(PROBLEM, "outbox", "There is no table eventcollector_outbox", "migrations")
def an_outbox_without_a_table(patient: Patient) -> None:
    engine = with_outbox(patient, sqlite(patient))
    patient.table.metadata.drop_all(engine)


def execute(engine: Any, statement: str) -> None:
    import sqlalchemy

    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(statement))


@mistake(PROBLEM, "outbox", "There is no index eventcollector_outbox_due", "CREATE IND")
def an_outbox_without_its_index(patient: Patient) -> None:
    engine = with_outbox(patient, sqlite(patient))
    execute(engine, "DROP INDEX eventcollector_outbox_due")


@mistake(WARNING, "outbox", "SQLite commits when the first savepoint", "'autocommit'")
def SQLite_in_its_legacy_mode(patient: Patient) -> None:
    import sqlalchemy
    from sqlalchemy.orm import sessionmaker

    engine = sqlalchemy.create_engine(sqlite(patient))
    patient.until_the_end.callback(engine.dispose)
    table = make_outbox_table(sqlalchemy.MetaData())
    table.metadata.create_all(engine)
    patient.events.bind_session(sessionmaker(engine), outbox=table)


@mistake(PROBLEM, "outbox", r"no relay is active.*\(0 rows wait", "flask events relay")
def an_outbox_without_its_relay(patient: Patient) -> None:
    with_outbox(patient, sqlite(patient))
    patient.settings["OUTBOX_RELAY"] = "external"


@mistake(
    PROBLEM,
    "outbox",
    "1 row waits; the oldest, for 'shop-.*/orders.x', was not sent in",
    "with this database and this broker",
)
def a_row_that_nobody_sends(patient: Patient) -> None:
    add_row(patient, None)
    patient.patch.setattr(outbox, "LONG", -DEADLINE)
    patient.patch.setattr(outbox, "LOOK", 0.0)


@mistake(PROBLEM, "outbox", "it can't be used: .*efused", "whether the database runs")
def a_database_that_is_down(patient: Patient) -> None:
    import sqlalchemy
    from sqlalchemy.orm import sessionmaker

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    engine = sqlalchemy.create_engine(f"mysql+pymysql://test@127.0.0.1:{port}/x")
    table = make_outbox_table(sqlalchemy.MetaData())
    patient.events.bind_session(sessionmaker(engine), outbox=table)


@mistake(PROBLEM, "outbox", "isolation level is AUTOCOMMIT", "remove isolation_level")
def an_engine_that_commits_each_statement(patient: Patient) -> None:
    with_outbox(patient, sqlite(patient), isolation_level="AUTOCOMMIT")


@mistake(PROBLEM, "outbox", "driver commits each statement", "remove autocommit")
def a_driver_that_commits_each_statement(patient: Patient) -> None:
    import sqlalchemy
    from sqlalchemy.orm import sessionmaker

    engine = sqlalchemy.create_engine(
        sqlite(patient), connect_args={"isolation_level": None}
    )
    patient.until_the_end.callback(engine.dispose)
    table = make_outbox_table(sqlalchemy.MetaData())
    table.metadata.create_all(engine)
    patient.events.bind_session(sessionmaker(engine), outbox=table)


@mistake(WARNING, "outbox", "dead, so not sent any more: 1 row", "flask events dead")
def a_dead_row(patient: Patient) -> None:
    add_row(patient, "no")


def add_row(patient: Patient, dead: str | None) -> None:
    """Give the app an outbox with one row; *dead* is why it is dead."""
    from flask_eventcollector.stores.outbox.admin import OutboxAdmin
    from flask_eventcollector.stores.outbox.database import Database

    engine = with_outbox(patient, sqlite(patient))
    database = Database(engine, patient.table)
    event = make_event(1, "orders.x", exchange=patient.exchange)
    OutboxAdmin(database, "shop").add([(event, dead)])
    database.close()


@mistake(WARNING, "outbox", "rows of app 'bookshop'", "adopt --from bookshop")
def rows_of_an_app_that_was_renamed(patient: Patient) -> None:
    from sqlalchemy import insert

    engine = with_outbox(patient, sqlite(patient))
    row = {"app": "bookshop", "maybe_sent": False, "exchange": "", "size": 1}
    row |= {"target_queue": "q", "event_id": "1", "enqueued_at": 1}
    with engine.begin() as connection:
        statement = insert(patient.table).values(row | {"headers": "{}", "body": b"1"})
        connection.execute(statement)


@mistake(WARNING, "outbox", "clock differs from this machine's by .*s, so", "NTP")
def a_database_in_another_time(patient: Patient) -> None:
    from flask_eventcollector.stores.outbox import surroundings

    with_outbox(patient, sqlite(patient))
    patient.patch.setattr(surroundings, "clock_offset", lambda database: -90.0)


@mistake(PROBLEM, "outbox", "vacuumed by the database's defaults", "ALTER TABLE")
def an_outbox_that_is_vacuumed_late(patient: Patient) -> None:
    engine = with_outbox(patient, patient.fixture("postgresql").new_database())
    execute(engine, "ALTER TABLE eventcollector_outbox RESET (autovacuum_enabled)")
    execute(
        engine,
        "ALTER TABLE eventcollector_outbox RESET (autovacuum_vacuum_threshold)",
    )


@mistake(WARNING, "outbox", r"transaction of process \d+ \(idle in", "idle_in_trans")
def an_old_transaction(patient: Patient) -> None:
    engine = with_outbox(patient, patient.fixture("postgresql").new_database())
    level = engine.execution_options(isolation_level="REPEATABLE READ")
    connection = patient.until_the_end.enter_context(level.connect())
    connection.exec_driver_sql("SELECT 1 FROM pg_class LIMIT 1").all()
    patient.patch.setattr(outbox, "OLD", 0.0)


@mistake(WARNING, "outbox", "the prepared transaction forgotten", "end it")
def a_forgotten_prepared_transaction(patient: Patient) -> None:
    engine = with_outbox(patient, patient.fixture("postgresql").new_database())
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE orders ()")
        connection.exec_driver_sql("PREPARE TRANSACTION 'forgotten'")
        connection.commit()
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    connection = patient.until_the_end.enter_context(alone.connect())
    patient.until_the_end.callback(
        connection.exec_driver_sql, "ROLLBACK PREPARED 'forgotten'"
    )
    patient.patch.setattr(outbox, "OLD", 0.0)


@mistake(WARNING, "outbox", "a pooler such as PgBouncer", "'prepare_threshold': None")
def prepared_statements_behind_PgBouncer(patient: Patient) -> None:
    with_outbox(patient, patient.fixture("pgbouncer").new_database())


# History and metrics


@mistake(PROBLEM, "history", "is not a folder, so 'flask events why'", "HISTORY_DIR")
def a_history_in_a_file(patient: Patient) -> None:
    Path(patient.settings["HISTORY_DIR"]).write_text("")


@mistake(WARNING, "history", r"other users can write to .* \(its mode is 777\)", "700")
def a_history_that_all_can_write(patient: Patient) -> None:
    folder = patient.folder / "history"
    folder.mkdir()
    folder.chmod(0o777)


@mistake(PROBLEM, "history", "is full, so the processes can't write", "restart nothing")
def a_full_disk_for_the_history(patient: Patient) -> None:
    (patient.folder / "history").mkdir(mode=0o700)
    patient.patch.setattr(monitoring, "free_bytes", lambda path: 1 << 10)


@mistake(PROBLEM, "metrics", "whose disk is full: there, .* kill", "free some space")
def a_full_disk_for_metrics(patient: Patient) -> None:
    patient.patch.setenv("PROMETHEUS_MULTIPROC_DIR", str(patient.folder))
    patient.patch.setattr(monitoring, "free_bytes", lambda path: 1 << 10)


@mistake(PROBLEM, "metrics", "PROMETHEUS_MULTIPROC_DIR is empty", "or remove it")
def metrics_in_the_working_directory(patient: Patient) -> None:
    patient.patch.setenv("PROMETHEUS_MULTIPROC_DIR", "")


@mistake(PROBLEM, "metrics", "4 workers, but PROMETHEUS_MULTIPROC_DIR", "before guni")
def several_workers_with_metrics_of_their_own(patient: Patient) -> None:
    patient.patch.setenv("GUNICORN_CMD_ARGS", "--workers 4 shop:app")


@mistake(PROBLEM, "metrics", "it does not exist", "create it before the app starts")
def a_folder_for_metrics_that_is_missing(patient: Patient) -> None:
    patient.patch.setenv("PROMETHEUS_MULTIPROC_DIR", str(patient.folder / "none"))


@mistake(WARNING, "metrics", "no meter provider", "opentelemetry-instrument")
def metrics_that_nobody_collects(patient: Patient) -> None:
    patient.settings["METRICS"] = ["prometheus", "opentelemetry"]


# The host


@mistake(PROBLEM, "host", "ends a worker after 5 s .* may wait 8 s", "raise --timeout")
def a_worker_that_is_ended_while_it_waits(patient: Patient) -> None:
    (patient.folder / "gunicorn.conf.py").write_text("timeout = 5\nworkers = len('x')")
    patient.settings["CONFIRM_TIMEOUT"] = 8


@mistake(WARNING, "host", "kills a worker 1 s after", "graceful-timeout")
def a_last_flush_that_is_cut_off(patient: Patient) -> None:
    patient.patch.setenv("GUNICORN_CMD_ARGS", "--graceful-timeout=1")


@mistake(WARNING, "host", "enqueued while the app is created", "in a request")
def an_event_while_the_app_is_created(patient: Patient) -> None:
    def enqueue(it: Patient) -> None:
        with it.app.app_context():
            it.events.enqueue_event(1, "orders.created")
            it.events.clear_events_to_publish()

    patient.later.append(enqueue)


@mistake(WARNING, "host", "may open 64 files here", "ulimit -n")
def few_files(patient: Patient) -> None:
    patient.patch.setattr(resource, "getrlimit", lambda kind: (64, 64))


@mistake(PROBLEM, "host", "clock is wrong: a file was written .* later", "NTP")
def a_clock_that_was_set_back(patient: Patient) -> None:
    path = Path(patient.settings["HISTORY_DIR"]) / "shop@1@x.jsonl"
    path.parent.mkdir()
    path.write_text("")
    os.utime(path, (time.time() + 7200, time.time() + 7200))
