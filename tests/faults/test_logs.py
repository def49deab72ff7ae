"""No log contains a payload or a credential, however noisy the fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.faults.proxy import Proxy
from tests.faults.rig import EVENTS, Rig, Trial
from tests.faults.rows_refusals import PASSWORD, user
from tests.rabbitmq import RabbitMQNode

#: A word in each payload, but in no name.
PAYLOAD = "the-planted-payload"
#: Erlang code that returns the broker's users.
USERS = "rabbit_auth_backend_internal:list_users()."


@pytest.fixture
def rig(private_rabbitmq: RabbitMQNode) -> Iterator[Rig]:
    with Proxy(private_rabbitmq.port) as proxy:
        yield Rig(private_rabbitmq, proxy)


def broker_stops(trial: Trial) -> None:
    trial.node.stop_app()
    trial.requests(20)
    trial.node.start_app()
    trial.settle()


def connection_is_cut(trial: Trial) -> None:
    for count in (10, 400, 2_000):
        trial.proxy.cut_after([count])
        trial.proxy.cut()
        trial.requests(20)
    trial.settle()


def no_such_queue(trial: Trial) -> None:
    trial.requests(5, queue="nowhere")
    trial.wait_until("dead", lambda: trial.stats("dead") == 5 * EVENTS)


def too_many(trial: Trial) -> None:
    trial.proxy.hold()
    trial.requests(20, events=50)
    trial.expect("some are dropped", trial.stats("dropped") > 0)
    trial.expect_bounded_exit()


def locked_out(trial: Trial) -> None:
    change = "rabbit_auth_backend_internal:change_password"
    [name] = re.findall(r'<<"(user\.[^"]+)">>', trial.node.eval(USERS))
    trial.node.eval(f'{change}(<<"{name}">>, <<"another">>, <<"test">>).')
    trial.node.close_all_connections()
    trial.requests(20)
    trial.wait_until("refused", lambda: "refused" in trial.stats("broker_error"))
    trial.expect_bounded_exit()


FAULTS = (broker_stops, connection_is_cut, no_such_queue, too_many, locked_out)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_neither_payload_nor_password_is_logged_under(
    fault: Callable[[Trial], None], rig: Rig
) -> None:
    with user(rig) as name:
        url = rig.proxy.url.replace("guest:guest", f"{name}:{PASSWORD}")
        with rig.trial(
            asks={"PLANTED": PAYLOAD},
            BROKER_URL=url,
            MAX_EVENTS=500,
            DEAD_AFTER=0.5,
        ) as trial:
            trial.requests(5)
            trial.settle()
            fault(trial)

    assert PAYLOAD in trial.arrived[0].json()["planted"]
    assert trial.figures.broken == []
    assert re.search("events? for |Broker unavailable", trial.log)
    assert PAYLOAD not in trial.log
    assert PASSWORD not in trial.log
