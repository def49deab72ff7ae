"""A private RabbitMQ node for tests, which they may stop, kill, freeze and alarm.

It is made like the one of `flask events verify`, and does what is asked besides.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import pika
from pika.adapters.blocking_connection import BlockingChannel

from flask_eventcollector.verifying import node
from flask_eventcollector.verifying.node import (
    clean_environment,
    find_programs,
    start_kept,
    write_files,
)
from tests.helpers import freeze, unmeasured

START_TIMEOUT = 90.0
STOP_TIMEOUT = 30.0
CALL_TIMEOUT = 30.0

_T = TypeVar("_T")


class RabbitMQError(RuntimeError):
    """The node did not do what was requested."""


class Message(NamedTuple):
    """A message as a consumer receives it."""

    properties: pika.BasicProperties
    body: bytes

    @property
    def id(self) -> str | None:
        return self.properties.message_id

    def json(self) -> Any:
        return json.loads(self.body)


def find_version() -> str | None:
    """Return the version of RabbitMQ's programs; takes a second, starts no node."""
    programs = find_programs()
    if programs is None:
        return None
    (epmd,) = free_ports(1)
    with tempfile.TemporaryDirectory() as home:
        private = {"HOME": home, "ERL_EPMD_PORT": str(epmd)}
        command = [str(programs / "rabbitmqctl"), "version"]
        try:
            output = _run(command, clean_environment(unmeasured()) | private)
        finally:
            _end_port_mapper(epmd)
    found = re.search(r"^\d+\.\d+\S*", output, re.MULTILINE)
    return found.group() if found else "unknown"


def _end_port_mapper(port: int) -> None:
    """End the epmd that rabbitmqctl leaves behind when it finds none."""
    address = ("127.0.0.1", port)
    with contextlib.suppress(OSError), socket.create_connection(address, 5) as epmd:
        epmd.sendall(b"\x00\x01k")  # KILL_REQ
        epmd.recv(2)


class RabbitMQNode:
    """A node with its own folders: `start()` it, and `close()` it in the end."""

    def __init__(
        self,
        programs: Path | None = None,
        *,
        epmd: int | None = None,
        cookie: str | None = None,
        plugins: Sequence[str] = (),
        config: str = "",
    ) -> None:
        """Nodes of one cluster share the port of an *epmd*, and a *cookie*.

        :param config: more lines for its ``rabbitmq.conf``.
        """
        programs = programs or find_programs()
        if programs is None:
            raise RabbitMQError("RabbitMQ's programs were not found")
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="eventcollector-rabbitmq-"))
        self.port, self._control_port, distribution, own_epmd = free_ports(4)
        self._environment = _environment(self.folder, distribution, epmd or own_epmd)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid = 0
        write_files(self.folder, self.port, plugins, config)
        (self.folder / "control.escript").write_text(_CONTROL % self._control_port)
        if cookie is not None:
            (self.folder / ".erlang.cookie").write_text(cookie)
            (self.folder / ".erlang.cookie").chmod(0o400)

    def __repr__(self) -> str:
        return f"<RabbitMQNode {self.url} of {self.programs}>"

    @property
    def name(self) -> str:
        """Its name in a cluster."""
        return self._environment["RABBITMQ_NODENAME"]

    @property
    def environment(self) -> dict[str, str]:
        """What its programs, such as rabbitmqctl, need."""
        return self._environment

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """The process id of the node itself, valid while it runs."""
        return self._pid

    @property
    def version(self) -> str:
        return self.eval("rabbit_misc:version().").strip('"')

    @property
    def log(self) -> str:
        """The node's log since its first start."""
        return self._log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    # Life

    def start(self) -> None:
        """Start the node, with its earlier data; return when it accepts connections."""
        if self.is_running:
            return
        server = self.programs / "rabbitmq-server"
        self._keeper = start_kept(self.folder, server, self._environment, self._log)
        self._pid = int(self._wait_until_ready().strip('"'))

    def stop(self) -> None:
        """Stop the node gracefully."""
        self.thaw()
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the node; its data stays for the next `start()`."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Kill the node and remove its data."""
        if self._pid:
            self.kill()
        elif self._keeper is not None:
            # It never became ready: the keeper leads its own process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait(STOP_TIMEOUT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def restore(self) -> None:
        """Restore the node's initial state, and run it."""
        self.thaw()
        self.start()
        self.start_app()
        self.memory_alarm(False)
        self.close_all_connections()
        self.delete_everything()

    def freeze(self) -> None:
        """Suspend the node's process: connections stay open, without a response."""
        if self.is_running and self._pid:
            freeze(self._pid)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    # Control

    def ctl(self, *args: str) -> str:
        """Run rabbitmqctl, which takes many seconds if the machine is busy.

        `eval` takes milliseconds.
        """
        if not self.is_running:
            # Otherwise it would start a port mapper as a daemon, which would be left
            # running.
            raise RabbitMQError(f"{self} is not running")
        return _run([str(self.programs / "rabbitmqctl"), *args], self._environment)

    def eval(self, source: str, timeout: float = CALL_TIMEOUT) -> str:
        """Evaluate Erlang in the node, as `rabbitmqctl eval` does; return the value."""
        address = ("127.0.0.1", self._control_port)
        with socket.create_connection(address, timeout) as connection:
            connection.sendall(source.encode())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile(encoding="utf-8") as reply:
                outcome, value = reply.readline().strip(), reply.read()
        if outcome != "ok":
            raise RabbitMQError(f"{source}: {outcome or 'no answer'} {value}")
        return value

    def stop_app(self) -> None:
        """Stop the broker, but not its process; faster than `stop()`."""
        self.eval("rabbit:stop().")

    def start_app(self) -> None:
        self.eval("rabbit:start().")

    def memory_alarm(self, on: bool) -> None:
        """Make the node believe that it is out of memory; it then blocks publishers."""
        self.eval(
            f"vm_memory_monitor:set_vm_memory_high_watermark({0 if on else 0.4})."
        )
        self._wait_for(lambda: self._has_memory_alarm() == on, "the memory alarm")

    def close_all_connections(self) -> None:
        """Make the node close each client's connection, with an error code."""
        # A connection that is just ending would also end the call.
        self.eval(
            '[catch rabbit_networking:close_connection(Pid, "closed by a test")'
            " || Pid <- rabbit_networking:connections()]."
        )

    def delete_everything(self) -> None:
        """Delete all queues and all exchanges that tests made."""
        self.eval(
            '[rabbit_amqqueue:delete(Q, false, false, <<"test">>)'
            " || Q <- rabbit_amqqueue:list()],"
            '[rabbit_exchange:delete(Name, false, <<"test">>)'
            " || {_, _, _, Kind} = Name <- rabbit_exchange:list_names(), Kind =/= <<>>,"
            ' not lists:prefix("amq.", binary_to_list(Kind))].'
        )

    # Users

    def add_user(self, name: str, password: str) -> None:
        self._change_users(f'add_user(<<"{name}">>, <<"{password}">>, <<"test">>)')

    def set_permissions(self, name: str, configure: str, write: str, read: str) -> None:
        """Allow a user what these regular expressions match."""
        strings = (f'<<"{text}">>' for text in (name, "/", configure, write, read))
        self._change_users(f'set_permissions({", ".join(strings)}, <<"test">>)')

    def change_password(self, name: str, password: str) -> None:
        self._change_users(
            f'change_password(<<"{name}">>, <<"{password}">>, <<"test">>)'
        )

    def delete_user(self, name: str) -> None:
        self._change_users(f'delete_user(<<"{name}">>, <<"test">>)')

    def _change_users(self, call: str) -> None:
        self.eval(f"ok = rabbit_auth_backend_internal:{call}.")

    # Queues

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A channel on a new connection, for operations without a helper here."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def declare(self, queue: str, **arguments: str | int | bool) -> str:
        """Declare a durable queue; `x_max_length=1` means `x-max-length`."""
        self._declare(queue, **arguments)
        # The node buffers its metadata of queues for a second or two. If it were killed
        # within that time, it would lose the queue with all confirmed messages.
        self.eval("catch mnesia:sync_log().")
        return queue

    def _declare(self, queue: str, **arguments: str | int | bool) -> str:
        table = {name.replace("_", "-"): value for name, value in arguments.items()}
        with self.channel() as channel:
            channel.queue_declare(queue, durable=True, arguments=table)
        return queue

    def delete(self, queue: str) -> None:
        """Delete a queue, which need not exist."""
        with self.channel() as channel:
            channel.queue_delete(queue)

    def count(self, queue: str) -> int:
        """Return how many messages are ready in the queue."""
        with self.channel() as channel:
            declared = channel.queue_declare(queue, passive=True)
        return declared.method.message_count

    def is_finished(self, queue: str) -> bool:
        """Whether consumers have acknowledged all messages of the queue."""
        found = self.eval(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue,'
            f' <<"{queue}">>)), rabbit_amqqueue:info(Q, [messages]).'
        )
        return found == "[{messages,0}]"

    def publish(self, queue: str, *bodies: bytes) -> None:
        """Publish persistent messages with ids, and wait for each confirm."""
        with self.channel() as channel:
            channel.confirm_delivery()
            for body in bodies:
                properties = pika.BasicProperties(
                    delivery_mode=2, message_id=str(uuid4())
                )
                channel.basic_publish("", queue, body, properties, mandatory=True)

    def get_all(self, queue: str) -> list[Message]:
        """Consume all ready messages of the queue, the oldest first."""
        with self.channel() as channel:
            return list(_take(channel, queue))

    # Inside

    @property
    def _log(self) -> Path:
        return self.folder / "node.log"

    def _has_memory_alarm(self) -> bool:
        return "memory" in self.eval("rabbit_alarm:get_alarms().")

    def _wait_until_ready(self) -> str:
        """Return the node's process id once it has booted completely."""
        return self._wait_for(self._answer_to_process_id, "its start", START_TIMEOUT)

    def _answer_to_process_id(self) -> str | None:
        if not self.is_running:
            raise RabbitMQError(f"{self} ended while it started:\n{self._log_tail()}")
        try:
            return self.eval("os:getpid().", timeout=1)
        except OSError:
            return None

    def _log_tail(self) -> str:
        return self.log[-4000:]

    def _wait_for(
        self, ask: Callable[[], _T | None], what: str, timeout: float = CALL_TIMEOUT
    ) -> _T:
        """Evaluate until the result is true; return it."""
        deadline = time.monotonic() + timeout
        while not (answer := ask()):
            if time.monotonic() > deadline:
                raise RabbitMQError(f"{self}: {what} took over {timeout} s")
            time.sleep(0.02)
        return answer

    def _end(self, number: signal.Signals) -> None:
        """End the node by a signal; then the keeper ends."""
        if self._keeper is None:
            return
        self._signal(number)
        try:
            self._keeper.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._keeper.wait(STOP_TIMEOUT)
            raise
        finally:
            self._pid = 0

    def _signal(self, number: signal.Signals) -> None:
        # An id of 0 would mean this process group.
        if self.is_running and self._pid:
            os.kill(self._pid, number)


def _take(channel: BlockingChannel, queue: str) -> Iterator[Message]:
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None or properties is None or body is None:
            return
        yield Message(properties, body)


def free_ports(number: int) -> list[int]:
    """Return unused ports; two test runs get different ones."""
    return node.free_ports(number, _own_ports())


def _own_ports() -> range:
    """The ports of this worker of pytest-xdist: two must not choose the same one."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    # A worker that replaces a crashed one has a higher number than the count.
    return node.PORTS[int(worker) % int(workers) :: int(workers)]


def _environment(folder: Path, distribution: int, epmd: int) -> dict[str, str]:
    environment = node.environment_in(folder, unmeasured(), distribution, epmd)
    environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += (
        f' -eval file:script("{folder / "control.escript"}")'
    )
    return environment


def _run(command: list[str], environment: dict[str, str]) -> str:
    result = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
        check=False,
    )
    if result.returncode:
        raise RabbitMQError(f"{command}: {result.stdout}{result.stderr}")
    return result.stdout


# Runs in the node after its boot. It takes one expression per connection, and responds
# with a line "ok" or the error, then the value.
_CONTROL = """
Read = fun Read(Socket, Read_) ->
    case gen_tcp:recv(Socket, 0, 30000) of
        {ok, More} -> Read(Socket, [Read_, More]);
        {error, closed} -> unicode:characters_to_list(iolist_to_binary(Read_))
    end
end,
Evaluate = fun(Source) ->
    try
        {ok, Tokens, _} = erl_scan:string(Source),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        {value, Value, _} = erl_eval:exprs(Expressions, []),
        {ok, Value}
    catch Kind:Reason -> {Kind, Reason} end
end,
Answer = fun(Socket) ->
    {Outcome, Value} = Evaluate(Read(Socket, [])),
    Text = io_lib:format("~p~n~tp", [Outcome, Value]),
    gen_tcp:send(Socket, unicode:characters_to_binary(Text)),
    gen_tcp:close(Socket)
end,
Serve = fun Serve(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Answerer = spawn(fun() -> receive go -> Answer(Socket) end end),
    ok = gen_tcp:controlling_process(Socket, Answerer),
    Answerer ! go,
    Serve(Listener)
end,
spawn(fun() ->
    {ok, Listener} = gen_tcp:listen(%d, [
        binary, {ip, {127,0,0,1}}, {active, false}, {reuseaddr, true},
        {exit_on_close, false}
    ]),
    Serve(Listener)
end).
"""
