"""Sessions to bind, which type checkers must accept."""

from __future__ import annotations

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flask_eventcollector import EventCollector, PublishResult

events = EventCollector()
engine = create_engine("sqlite://")
db = SQLAlchemy()


class OwnSession(Session):
    """A session of an application."""


def current() -> Session | None:
    return None


def current_of_asyncio() -> AsyncSession:
    return AsyncSession()


events.bind_session(db.session)
events.bind_session(scoped_session(sessionmaker(engine)))
events.bind_session(sessionmaker(engine))
events.bind_session(Session)
events.bind_session(OwnSession)
events.bind_session(Session(engine))
events.bind_session(current)
events.bind_session(lambda: db.session)
events.bind_session(AsyncSession)
events.bind_session(AsyncSession())
events.bind_session(async_sessionmaker())
events.bind_session(async_scoped_session(async_sessionmaker(), current))
events.bind_session(current_of_asyncio)

held: int = PublishResult().held
