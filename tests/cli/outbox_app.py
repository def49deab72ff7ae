"""An app with an outbox, whose settings come from the environment."""

import os

from flask import Flask
from sqlalchemy import MetaData, create_engine
from sqlalchemy.orm import sessionmaker

from flask_eventcollector import EventCollector, make_outbox_table

app = Flask("shop")
app.config.from_prefixed_env()
sessions = sessionmaker(create_engine(os.environ["DATABASE_URL"]))
table = make_outbox_table(MetaData())
events = EventCollector(app)
events.bind_session(sessions, outbox=table)
