"""The machine of the operator's handbook: its service, its tools, and its folders.

Where it has what the pages name, such as /srv/shop, the tests have folders of their
own. `systemctl`, `journalctl`, `sudo` and `rabbitmqctl` are programs of the tests,
which reach the test's own servers.
"""

from __future__ import annotations

import configparser
import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.docs.reader import find_one
from tests.helpers import unmeasured, wait_until
from tests.rabbitmq import RabbitMQNode, free_ports

INDEX = "docs/handbook/index.md"
APP, ENVIRONMENT, UNIT = (
    find_one(page=INDEX, file=file)
    for file in ("shop.py", "/etc/shop.env", "/etc/systemd/system/shop.service")
)
#: What whoever runs commands does first.
SETUP = find_one(page=INDEX, language="sh")
UNITS = {
    "shop": UNIT,
    "shop-relay": find_one(
        page="docs/transactions.md", file="/etc/systemd/system/shop-relay.service"
    ),
}
#: What the service enqueues besides orders.
VIEWS = """

from flask import request


@app.post("/enqueue/<queue>")
def enqueue(queue):
    return events.enqueue_event(
        request.json["payload"], queue, headers=request.json["headers"]
    ).id
"""
#: Programs, as scripts of the shell.
TOOLS = {
    "flask": f'exec {shlex.quote(sys.executable)} -X utf8 -m flask "$@"',
    "sudo": 'exec "$@"',
    # The log of the unit after -u, without the time and the host.
    "journalctl": 'while [ "$1" != -u ]; do shift; done; cat "$LOGS/$2.log"',
}


class Machine:
    """A host on which the service runs."""

    def __init__(
        self,
        root: Path,
        node: RabbitMQNode,
        app: str = APP.code + VIEWS,
        *,
        disk: Path | None = None,
    ) -> None:
        """Nothing runs on it yet.

        :param disk: another folder for /var/lib/shop.
        """
        self.node = node
        #: Whether it is asked once a second if it is ready, as a load balancer does.
        self.is_probed = True
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        #: What the pages name, and what takes its place.
        self.means = {
            "/etc/shop.env": str(root / "etc" / "shop.env"),
            "/srv/shop": str(root / "srv" / "shop"),
            "/var/lib/shop": str(disk or root / "var" / "lib" / "shop"),
            "/var/log/shop": str(root / "var" / "log" / "shop"),
            "127.0.0.1:8000": f"127.0.0.1:{port}",
            "amqp://shop:secret@127.0.0.1:5672/": node.url,
            "127.0.0.1:5672": f"127.0.0.1:{node.port}",
            "rabbit@localhost": node.name,
            "relay: web-1,": f"relay: {socket.gethostname()},",
        }
        self._logs, self._tools = root / "logs", root / "bin"
        self._units: dict[str, subprocess.Popen[bytes]] = {}
        for folder in ("/srv/shop", "/var/lib/shop", "/var/log/shop"):
            self.folder(folder)
        self._write_tools()
        self._write_service(app)

    def __enter__(self) -> Machine:
        self.start("shop")
        return self

    def __exit__(self, *_: object) -> None:
        for unit in [*self._units]:
            self.stop(unit)

    def translated(self, text: str) -> str:
        """*text* of a page, as it is on this machine."""
        for shown, ours in self.means.items():
            text = text.replace(shown, ours)
        return text

    def folder(self, shown: str) -> Path:
        """A folder of a page, which there is from now on."""
        path = Path(self.translated(shown))
        path.mkdir(0o700, parents=True, exist_ok=True)
        return path

    def shown(self, text: str) -> str:
        """*text* of this machine, as a page has it."""
        for shown, ours in self.means.items():
            text = text.replace(ours, shown)
        return text

    # Its tools

    def run(self, command: str) -> str:
        """Run *command* of a page in a new shell; returns what it says."""
        words = shlex.split(command)
        if words[:2] == ["sudo", "systemctl"]:
            for unit in words[3:]:
                self.systemctl(words[2], unit)
            return ""
        run = subprocess.run(
            ["bash", "-c", self.translated(SETUP.code) + command],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return run.stdout

    def systemctl(self, verb: str, unit: str) -> None:
        """Start, stop or restart a unit."""
        if verb != "start":
            self.stop(unit)
        if verb != "stop":
            self.start(unit)

    def start(self, unit: str) -> None:
        if unit == "rabbitmq-server":
            self.node.start()
        elif unit not in self._units:
            self._units[unit] = self._started(unit)
            if unit == "shop":
                wait_until(lambda: self._get("/ready"), "the service responds")
                threading.Thread(target=self._probe, daemon=True).start()

    def stop(self, unit: str) -> None:
        if unit == "rabbitmq-server":
            self.node.stop()
        elif (process := self._units.pop(unit, None)) is not None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(30)

    def pids(self, unit: str) -> list[int]:
        """The unit's main process, and its children."""
        pid = self._units[unit].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def add_tool(self, name: str, code: str) -> None:
        """Add a program, as a script of the shell."""
        (self._tools / name).write_text(f"#!/bin/sh\n{code}\n")
        (self._tools / name).chmod(0o755)

    def set(self, **settings: str) -> None:
        """Add lines to /etc/shop.env, which hold for what is started afterwards."""
        with Path(self.means["/etc/shop.env"]).open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())

    # Its service

    def order(self, *numbers: int) -> None:
        """Place orders."""
        for number in numbers:
            self._post(f"/orders/{number}", None)

    def enqueue(self, queue: str, payload: Any, **headers: Any) -> str:
        """Enqueue an event; returns its id."""
        about = {"payload": payload, "headers": headers}
        return self._post(f"/enqueue/{queue}", about)

    def health(self) -> Any:
        """What it says of itself; nothing if it does not respond in time."""
        return json.loads(self._get("/ready") or "{}")

    def _post(self, path: str, payload: Any) -> str:
        request = urllib.request.Request(
            self.url + path,
            json.dumps(payload).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return str(response.read().decode())

    def _get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(self.url + path, timeout=20) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except OSError:
            return ""

    def _probe(self) -> None:
        stopped, process = threading.Event(), self._units["shop"]
        while process.poll() is None:
            if self.is_probed:
                self._get("/ready")
            stopped.wait(1)

    # What is on its disk

    def _write_tools(self) -> None:
        self._logs.mkdir()
        self._tools.mkdir()
        sets = [shlex.quote(f"{k}={v}") for k, v in self.node.environment.items()]
        of_node = {
            name: f'exec env -i {" ".join(sets)} {self.node.programs / name} "$@"'
            for name in ("rabbitmqctl", "rabbitmq-diagnostics")
        }
        for name, code in (TOOLS | of_node).items():
            self.add_tool(name, code)

    def _write_service(self, app: str) -> None:
        environment = Path(self.means["/etc/shop.env"])
        environment.parent.mkdir()
        environment.write_text(self.translated(ENVIRONMENT.code))
        (self.folder("/srv/shop") / APP.file).write_text(app)

    def _started(self, unit: str) -> subprocess.Popen[bytes]:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(self.translated(UNITS[unit].code))
        service = parser["Service"]
        program, *arguments = shlex.split(service["ExecStart"])
        lines = Path(service["EnvironmentFile"]).read_text().splitlines()
        settings = dict(line.split("=", 1) for line in lines if "=" in line)
        with (self._logs / f"{unit}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", Path(program).name, *arguments],
                cwd=service["WorkingDirectory"],
                env=self._environment() | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _environment(self) -> dict[str, str]:
        inherited = {
            k: v for k, v in unmeasured().items() if not k.startswith("FLASK_")
        }
        path = f"{self._tools}:{inherited['PATH']}"
        return inherited | {"PATH": path, "LOGS": str(self._logs)}
