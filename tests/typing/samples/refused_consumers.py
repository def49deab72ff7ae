"""Consumers: what a type checker refuses."""

from pika import BasicProperties
from sqlalchemy.orm import Session

from flask_eventcollector import EventCollector, received

events = EventCollector()


def handle(session: Session, properties: BasicProperties) -> None:
    message = received(properties)
    message.id = "7"  # refused
    with events.once(session, properties.message_id, consumer="a"):  # refused
        pass
    events.once(session, message.id)  # refused
    events.purge_seen(older_than=14)  # refused
