"""Credentials are requested at each connect, renewed in time, and never shown."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from flask_eventcollector import BrokerState, Config, Credentials
from flask_eventcollector.brokers.rabbitmq import logins
from flask_eventcollector.brokers.rabbitmq.logins import Login, Logins
from flask_eventcollector.brokers.rabbitmq.renewal import Renewal
from flask_eventcollector.config.settings import choose_credentials
from flask_eventcollector.delivery.entries import Settlement
from flask_eventcollector.delivery.threads import OwnThread
from tests.helpers import DEADLINE, Shop, in_child, open_shop, unmeasured, wait_until
from tests.isolation.fake_broker import FakeBroker, Message
from tests.test_config import app_with, config_with, refusal

ROOT = Path(__file__).parents[1]
SECRET = "the-planted-password"


def url_of(node: FakeBroker, user: str = "shop") -> str:
    return f"amqp://{user}@127.0.0.1:{node.port}/"


@contextmanager
def shop_at(node: FakeBroker, **settings: Any) -> Iterator[Shop]:
    """A shop whose broker's URL has a user, and no password."""
    with open_shop(BROKER_URL=url_of(node), TESTING_BROKER=True, **settings) as shop:
        yield shop


def assert_delivered(shop: Shop, payload: str) -> None:
    shop.enqueue(payload)
    assert shop.events.publish(timeout=DEADLINE).complete


def lose_each_b(message: Message) -> str:
    """Lose the connection over the first copy of each ``"b"``."""
    is_first = message.body == b'"b"' and not message.is_marked
    return "drop connection" if is_first else "ack"


class Vault:
    """Counts its calls; each answer has a new password."""

    def __init__(self, **options: Any) -> None:
        self.calls = 0
        #: Raised instead of answering.
        self.error: BaseException | None = None
        #: The first call that fails.
        self.fails_from: int | None = None
        #: Each call waits until it is set.
        self.opened = threading.Event()
        self.opened.set()
        #: The options of all answers, and of the first ones.
        self.options = options
        self.first: list[dict[str, Any]] = []

    def __call__(self) -> Credentials:
        self.calls += 1
        options = self.first.pop(0) if self.first else self.options
        password = f"{SECRET}-{self.calls}"
        self.opened.wait(4 * DEADLINE)
        if self.error is not None:
            raise self.error
        if self.fails_from is not None and self.calls >= self.fails_from:
            raise LookupError(f"no lease for {password}")
        return Credentials(password=password, **options)

    @contextmanager
    def closed(self) -> Iterator[None]:
        self.opened.clear()
        try:
            yield
        finally:
            self.opened.set()


@pytest.fixture
def renewed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that expire are renewed as soon as the connection is ready."""
    monkeypatch.setattr(logins, "_RENEWED_AFTER", (0, 0))


# At each connect


def test_a_callable_is_called_at_each_connect() -> None:
    with FakeBroker(lose_each_b) as node, shop_at(node, CREDENTIALS=Vault()) as shop:
        assert_delivered(shop, "a")
        assert_delivered(shop, "b")

        assert node.logins == [("shop", f"{SECRET}-1"), ("shop", f"{SECRET}-2")]


def test_a_callable_may_name_the_user() -> None:
    vault = Vault(username="shop-17")
    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop:
        assert_delivered(shop, "a")

        assert node.logins == [("shop-17", f"{SECRET}-1")]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_file_is_read_at_each_connect(tmp_path: Path, ending: str) -> None:
    file = tmp_path / "password"
    file.write_text(f"old{ending}", newline="")
    with FakeBroker(lose_each_b) as node, shop_at(node, PASSWORD_FILE=file) as shop:
        assert_delivered(shop, "a")
        file.write_text(f"new{ending}", newline="")
        assert_delivered(shop, "b")

        assert node.logins == [("shop", "old"), ("shop", "new")]


def test_a_file_that_is_gone_is_a_problem_until_it_is_back(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    with FakeBroker() as node, shop_at(node, PASSWORD_FILE=file) as shop:
        file.unlink()
        shop.enqueue("a")
        shop.events.publish()
        assert_down(shop, "EVENTCOLLECTOR_PASSWORD_FILE names a file that can't be")

        file.write_text(SECRET)
        assert shop.events.flush(DEADLINE)


def test_an_outage_does_not_ask_again_with_each_attempt() -> None:
    vault = Vault()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    settings = {"BROKER_URL": f"amqp://shop@127.0.0.1:{port}/", "CREDENTIALS": vault}
    with open_shop(TESTING_BROKER=True, **settings) as shop:
        shop.enqueue("a")
        shop.events.publish()
        for _ in range(3):
            assert not shop.events.flush(0.2)

        assert shop.events.stats().broker is BrokerState.DOWN
        assert vault.calls == 1


def test_where_no_thread_can_be_started_it_is_called_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As at the end of the process, from Python 3.12 on.
    start = OwnThread.start

    def start_few(thread: OwnThread) -> None:
        if "credentials" in thread.name:
            raise RuntimeError("can't start new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(OwnThread, "start", start_few)
    with FakeBroker() as node, shop_at(node, CREDENTIALS=Vault()) as shop:
        assert_delivered(shop, "a")


# What goes wrong in the callable


def assert_down(shop: Shop, because: str) -> None:
    def error() -> str:
        return shop.events.stats().broker_error

    wait_until(lambda: because in error(), f"{because!r} is the broker's problem")
    assert SECRET not in error()
    assert shop.books() in ({"retained": 1}, {"in_flight": 1})


def test_its_error_is_the_brokers_problem_without_the_errors_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    vault = Vault()
    vault.error = LookupError(f"no lease for {SECRET}")
    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop:
        shop.enqueue("a")
        assert shop.events.publish().retained == 1
        assert_down(shop, "EVENTCOLLECTOR_CREDENTIALS raised LookupError (test_cred")
        wait_until(lambda: "LookupError" in caplog.text, "it is logged")
        assert shop.events.stats().broker is BrokerState.DOWN

        vault.error = None
        assert shop.events.flush(DEADLINE)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_exit_in_it_ends_no_thread(error: BaseException) -> None:
    vault = Vault()
    vault.error = error
    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop:
        shop.enqueue("a")
        shop.events.publish()
        assert_down(shop, f"raised {type(error).__name__}")

        vault.error = None
        assert shop.events.flush(DEADLINE)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "returned a value of type NoneType: it must be flask_eventcollector."),
        (("shop", SECRET), "returned a value of type tuple: it must be flask_eventco"),
        (Credentials(password=""), "returned a password that is empty, no str, or"),
        (Credentials(password=f"{SECRET}\ud800"), "returned a password that is"),
        (Credentials(password=f"{SECRET}\0"), "returned a password that is"),
        (Credentials(password=SECRET, username=""), "returned a user name that is"),
        (Credentials(password=SECRET, expires_in=0), "an expires_in that is not a"),
        (Credentials(password=SECRET, expires_in=float("nan")), "an expires_in that"),
        (Credentials(password=SECRET, expires_in=10**400), "an expires_in that is"),
        (Credentials(password=SECRET, expires_in=True), "an expires_in that is not"),
    ],
)
def test_what_it_returns_is_checked(value: Any, problem: str) -> None:
    with FakeBroker() as node, shop_at(node, CREDENTIALS=lambda: value) as shop:
        shop.enqueue("a")
        shop.events.publish()
        assert_down(shop, problem)
        assert node.connections == 0


def test_one_that_hangs_delays_no_request_and_is_called_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logins, "PATIENCE", 0.1)
    vault = Vault()
    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop:
        with vault.closed():
            shop.enqueue("a")
            shop.events.publish()
            assert_down(shop, "EVENTCOLLECTOR_CREDENTIALS has not returned for")
            began = time.monotonic()
            shop.enqueue("b")
            assert shop.events.publish().retained == 1
            assert time.monotonic() - began < DEADLINE / 4
            for _ in range(3):
                assert not shop.events.flush(0.2)
            assert vault.calls == 1

        assert shop.events.flush(DEADLINE)
        assert node.logins == [("shop", f"{SECRET}-1")]


def test_one_that_hangs_does_not_delay_a_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "PATIENCE", 3600)
    vault = Vault()
    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop, vault.closed():
        shop.enqueue("a")
        wait_until(lambda: vault.calls, "it is called")
        began = time.monotonic()
        shop.events.close(0.5)

        assert time.monotonic() - began < DEADLINE / 4
        broker: Any = shop.events.broker
        assert broker._thread.join(DEADLINE)


def test_one_that_hangs_does_not_delay_the_end_of_the_process() -> None:
    script = """
import threading, time
from tests.helpers import Shop

began = threading.Event()

def hang():
    began.set()
    time.sleep(3600)

shop = Shop(
    BROKER_URL="amqp://shop@127.0.0.1:1/",
    TESTING_BROKER=True,
    CREDENTIALS=hang,
    SHUTDOWN_TIMEOUT=0.5,
)
with shop.app_context():
    shop.enqueue("a")
    shop.events.publish()
assert began.wait(20)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**unmeasured(), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert "Dropped 1 event for q" in done.stderr


def test_a_child_that_is_forked_during_a_call_asks_by_itself() -> None:
    vault = Vault()

    def deliver() -> bool:
        vault.opened.set()
        shop.enqueue("b")
        return shop.events.publish(timeout=DEADLINE).complete

    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop, vault.closed():
        shop.enqueue("a")
        shop.events.publish()
        wait_until(lambda: vault.calls, "it is called")

        assert in_child(deliver) is True


# Renewal


@pytest.mark.usefixtures("renewed_at_once")
def test_a_token_is_renewed_on_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    vault = Vault()
    vault.first = [{"expires_in": 3600}]
    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop:
        assert_delivered(shop, "a")
        wait_until(lambda: node.secrets, "the token is renewed")
        assert_delivered(shop, "b")

        assert node.secrets == [f"{SECRET}-2"]
        assert node.connections == 1
        assert vault.calls == 2
    assert SECRET not in caplog.text


@pytest.mark.usefixtures("renewed_at_once")
def test_a_token_that_is_refused_brings_a_new_connection() -> None:
    vault = Vault()
    vault.first = [{"expires_in": 3600}]

    def confirm_later(message: Message) -> str:
        # The first connection ends while the event is in flight.
        return "ack" if message.connection > 1 else "nothing"

    with FakeBroker(confirm_later) as node, shop_at(node, CREDENTIALS=vault) as shop:
        node.refused_secrets = {f"{SECRET}-2"}
        settled = settlements(shop)
        shop.enqueue("a")
        shop.events.publish()
        wait_until(lambda: settled, "the connection has ended")
        assert shop.events.flush(DEADLINE)

        assert node.secrets == [f"{SECRET}-2"]
        assert node.logins[-1] == ("shop", f"{SECRET}-3")
        # It was not the event's fault.
        assert not settled[0].suspect


def settlements(shop: Shop) -> list[Settlement]:
    """What the shop's broker reports about events from now on."""
    relay = shop.events.broker.relay
    found: list[Settlement] = []
    settle = relay.settle

    def note(settlements: Iterable[Settlement]) -> bool:
        settled = list(settlements)
        found.extend(settled)
        return settle(settled)

    relay.settle = note  # type: ignore[method-assign]
    return found


@pytest.mark.usefixtures("renewed_at_once")
def test_another_user_brings_a_new_connection_silently(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "flask_eventcollector")
    vault = Vault(username="shop-2")
    vault.first = [{"username": "shop-1", "expires_in": 3600}]
    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop:
        assert_delivered(shop, "a")
        wait_until(lambda: len(node.logins) == 2, "it has connected again")
        assert_delivered(shop, "b")

        users = [user for user, _ in node.logins]
        assert users == ["shop-1", "shop-2"]
        assert node.secrets == []
    assert caplog.text == ""


@pytest.mark.usefixtures("renewed_at_once")
def test_a_renewal_that_fails_is_reported_while_events_go_on() -> None:
    vault = Vault()
    vault.first, vault.fails_from = [{"expires_in": 3600}], 2
    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop:
        assert_delivered(shop, "a")
        stats = shop.events.stats
        wait_until(
            lambda: "can't be renewed: EVENTCOLLECTOR_CRED" in stats().broker_error,
            "it is reported",
        )
        assert_delivered(shop, "b")
        assert stats().broker is BrokerState.READY

        vault.fails_from = None
        wait_until(lambda: node.secrets, "it is renewed")
        wait_until(lambda: stats().broker_error == "", "it is no problem any more")


@pytest.mark.usefixtures("renewed_at_once")
def test_a_renewal_that_fails_is_tried_again_with_backoff() -> None:
    vault = Vault()
    vault.error = LookupError()
    asked = Logins(vault, None, "test")
    problems: list[str] = []
    renewal = Renewal(
        cast(Any, None),
        asked,
        Login(Credentials(password=SECRET, expires_in=3600), None),
        delay=lambda failures: 3600,
        report=problems.append,
    )
    while not problems:
        assert renewal.look_after() == ""

    for _ in range(3):
        renewal.look_after()
    assert vault.calls == 1


def test_expired_credentials_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    vault = Vault()
    # On a busy machine, the first ones may expire before they are used.
    vault.first = [{"expires_in": 2} for _ in range(100)]
    with FakeBroker() as node, shop_at(node, CREDENTIALS=vault) as shop:
        assert_delivered(shop, "a")
        vault.fails_from = vault.calls + 1
        stats = shop.events.stats
        wait_until(lambda: "raised LookupError" in stats().broker_error, "it fails")
        wait_until(lambda: stats().broker is BrokerState.DOWN, "the connection ends")
        shop.enqueue("b")
        shop.events.publish()
        assert node.copies(b'"b"') == 0

        connections = node.connections
        vault.first, vault.fails_from = [], None
        assert shop.events.flush(DEADLINE)
        assert node.connections == connections + 1
    assert SECRET not in caplog.text


# Settings


def broker_login() -> Credentials:
    return Credentials(password=SECRET)


PATH = f"{__name__}:broker_login"


def test_a_callable_may_be_named() -> None:
    assert config_with(CREDENTIALS=PATH).credentials is broker_login


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (7, "is of type int: it must be a plain function"),
        (SECRET, "is not an import path: write it as myapp.vault:broker_login"),
        (f"user:{SECRET}", "is not an import path"),
        ("no_such_module:f", "can't be imported: there is no such module; write it"),
        ("json.no_such_module:f", "can't be imported: there is no such module"),
        ("json:hunter2", "names a function that its module does not have"),
        ("json:__name__", "is of type str: it must be a plain function"),
    ],
)
def test_what_is_no_callable_is_refused_and_not_shown(value: Any, problem: str) -> None:
    message = refusal(CREDENTIALS=value)
    assert message.startswith(f"EVENTCOLLECTOR_CREDENTIALS {problem}")
    assert SECRET not in message
    assert "hunter2" not in message


def test_an_error_of_the_module_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_vault.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    message = refusal(CREDENTIALS="broken_vault:broker_login")
    assert "ModuleNotFoundError: No module named 'no_such_library'" in message


def test_a_coroutine_function_is_refused() -> None:
    async def login() -> Credentials:
        return Credentials(password=SECRET)

    assert "it must be a plain function" in refusal(CREDENTIALS=login)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "names a file that can't be read: No such file or directory"),
        (b"", "names a file with a password that is empty, no str, or not UTF-8"),
        (b"\n", "names a file with a password that is empty"),
        (b"\xff", "names a file that is not UTF-8"),
    ],
)
def test_a_file_without_a_password_is_refused(
    tmp_path: Path, text: bytes | None, problem: str
) -> None:
    file = tmp_path / "password"
    if text is not None:
        file.write_bytes(text)
    message = refusal(PASSWORD_FILE=file)
    assert message.startswith(f"EVENTCOLLECTOR_PASSWORD_FILE {problem}")


@pytest.mark.parametrize(
    ("value", "problem"),
    [(7, "is of type int: it must be the path"), ("x/y", "is not an absolute path")],
)
def test_what_is_no_path_is_refused(value: Any, problem: str) -> None:
    assert problem in refusal(PASSWORD_FILE=value)


def test_there_is_one_place_for_the_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    url, both = "amqp://shop@h", {"CREDENTIALS": broker_login, "PASSWORD_FILE": file}
    assert "CREDENTIALS and EVENTCOLLECTOR_PASSWORD_FILE are both" in refusal(**both)
    for key, value in both.items():
        config = config_with(BROKER_URL=url, **{key: value})
        source = choose_credentials(config)
        assert source is not None
        assert source().password == SECRET
        message = refusal(BROKER_URL=f"amqp://shop:{SECRET}@h", **{key: value})
        assert "(amqp://shop:***@h:5672/) has a password, and so has EVENT" in message
        assert "remove one" in message


def test_a_url_without_a_password_needs_another_place_for_it() -> None:
    message = refusal(BROKER_URL="amqp://shop@h")
    assert message == (
        "EVENTCOLLECTOR_BROKER_URL (amqp://shop@h:5672/) has no password: write"
        " user:password@, or set EVENTCOLLECTOR_CREDENTIALS or"
        " EVENTCOLLECTOR_PASSWORD_FILE"
    )


def test_no_repr_shows_a_password() -> None:
    config = Config.from_app(app_with(CREDENTIALS=broker_login))
    assert SECRET not in f"{Credentials(password=SECRET)!r}{config!r}"
    assert "broker_login" not in repr(config)


def test_external_takes_the_user_from_the_certificate() -> None:
    url = f"amqps://h?certfile={__file__}&auth_mechanism=external"
    for settings, problem in (
        ({"BROKER_URL": "amqps://h?auth_mechanism=external"}, "add certfile=…"),
        ({"BROKER_URL": url.replace("//h", "//u:p@h")}, "remove one"),
        ({"BROKER_URL": url, "CREDENTIALS": broker_login}, "=external: remove EVENT"),
    ):
        assert problem in refusal(**settings)
