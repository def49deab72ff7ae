"""An app like a user's, whose settings come from the environment."""

from flask import Flask

from flask_eventcollector import EventCollector

app = Flask("shop")
app.config.from_prefixed_env()
events = EventCollector(app)
