"""Consumers: what a type checker accepts."""

from pika import BasicProperties
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session

from flask_eventcollector import (
    EventCollector,
    Received,
    make_inbox_table,
    received,
)

events = EventCollector()


def bind(sessions: scoped_session[Session], metadata: MetaData) -> None:
    events.bind_session(sessions, inbox=make_inbox_table(metadata))


def handle(session: Session, properties: BasicProperties) -> bool:
    message: Received = received(properties)
    subject: str | None = message.attributes.get("subject", message.type)
    with events.once(session, message.id, consumer="billing") as first:
        return first and subject is not None


async def handle_async(session: AsyncSession, properties: BasicProperties) -> bool:
    async with events.once(session, "7", consumer="billing") as first:
        return first
