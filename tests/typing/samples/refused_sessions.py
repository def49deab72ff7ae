"""What is no session, which type checkers must refuse to bind."""

from __future__ import annotations

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine

from flask_eventcollector import EventCollector

events = EventCollector()

events.bind_session(SQLAlchemy())  # refused
events.bind_session(create_engine("sqlite://"))  # refused
events.bind_session("sqlite://")  # refused
events.bind_session(None)  # refused
events.bind_session(lambda: "session")  # refused
