"""The page, its data, and the responses to forms."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app.broker import broker_name
from example_app.publishing import events

from .conftest import OpenShop
from .support import order, state


def test_the_page_names_the_embedded_broker_and_its_faults(shop: Flask) -> None:
    page = shop.test_client().get("/").text

    assert "the embedded broker, inside this process" in page
    assert "Take it down" in page


def test_the_state_has_the_broker_and_balanced_books(visitor: FlaskClient) -> None:
    order(visitor)

    shown = state(visitor)
    assert shown["broker"]["state"] == "ready"
    assert shown["broker"]["meaning"] == "Connected and responding."
    kept = ("collected", "in_flight", "retained", "dead")
    ended = ("confirmed", "discarded", "dropped")
    assert shown["books"]["enqueued"] == sum(shown["books"][k] for k in kept + ended)


def test_the_state_holds_no_payload(visitor: FlaskClient) -> None:
    visitor.post("/broker/lose-queue")
    visitor.post("/orders/gift-cards")

    answer = visitor.get("/state.json")
    assert "order_id" not in answer.text
    assert "gift-card" not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_plain_browser_goes_back_to_the_page_and_reads_what_happened(
    shop: Flask,
) -> None:
    browser = shop.test_client()

    answer = browser.post("/orders", data={"product": 1, "quantity": 1})
    assert (answer.status_code, answer.location) == (303, "/")
    assert "Order 1 was placed." in browser.get("/").text


def test_a_plain_browser_sees_an_error_with_a_way_back(shop: Flask) -> None:
    answer = shop.test_client().post("/orders", data={"product": 1, "quantity": 99})

    assert answer.status_code == 409
    assert "there is not enough in stock" in answer.text
    assert "Back to the shop" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
    ],
)
def test_a_form_on_another_site_is_refused(
    visitor: FlaskClient, headers: dict[str, str]
) -> None:
    assert visitor.post("/broker/down", headers=headers).status_code == 403
    assert state(visitor)["broker"]["state"] != "down"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}],
)
def test_a_form_of_the_shop_is_accepted(
    visitor: FlaskClient, headers: dict[str, str]
) -> None:
    assert visitor.post("/broker/down", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("amqp://me:secret@mq.example/", "RabbitMQ at mq.example:5672"),
        ("amqps://me:secret@mq.example/", "RabbitMQ at mq.example:5671"),
        ("amqp://a:1/;amqp://b:2/", "RabbitMQ at a:1, b:2"),
        (["amqp://a:1/", "amqp://b:2/"], "RabbitMQ at a:1, b:2"),
    ],
)
def test_a_real_broker_is_named_without_credentials(
    open_shop: OpenShop, url: object, name: str
) -> None:
    config = {"EVENTCOLLECTOR_BROKER_URL": url, "EVENTCOLLECTOR_TESTING_BROKER": True}
    with open_shop(**config) as shop, shop.app_context():
        assert broker_name() == name


def test_on_a_real_broker_the_page_offers_no_faults(open_shop: OpenShop) -> None:
    url = "amqp://localhost:1/"
    config = {"EVENTCOLLECTOR_BROKER_URL": url, "EVENTCOLLECTOR_TESTING_BROKER": True}
    with open_shop(**config) as shop:
        visitor = shop.test_client()
        assert "Take it down" not in visitor.get("/").text
        assert visitor.post("/broker/down").status_code == 404


def test_two_shops_in_one_process_keep_their_books_apart(open_shop: OpenShop) -> None:
    with open_shop() as one, open_shop() as other:
        order(one.test_client())
        with one.app_context():
            assert events.stats().confirmed == 1
        with other.app_context():
            assert events.stats().confirmed == 0
        assert state(other.test_client())["events"] == []


def test_in_debug_mode_there_is_a_dashboard(
    open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for debug, status in (("1", 200), ("0", 404)):
        monkeypatch.setenv("FLASK_DEBUG", debug)
        # The panel for the toolbar is not what this is about.
        with open_shop(DEBUG_TB_ENABLED=False) as app:
            client = app.test_client()
            assert ("/eventcollector/" in client.get("/").text) == (status == 200)
            assert client.get("/eventcollector/").status_code == status


def test_in_debug_mode_the_page_has_a_toolbar_with_the_last_events(
    open_shop: OpenShop,
) -> None:
    pytest.importorskip("flask_debugtoolbar")
    with open_shop(DEBUG=True) as shop:
        visitor = shop.test_client()
        assert "0 events, 0 earlier" in visitor.get("/").text
        order(visitor)
        page = visitor.get("/").text
        assert "0 events, 1 earlier" in page
        assert "in place_order" in page
