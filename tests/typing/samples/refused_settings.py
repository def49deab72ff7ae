"""Settings that type checkers must refuse."""

from __future__ import annotations

from pathlib import Path

from flask_eventcollector import Settings


def wrong_rule(status: int) -> bool:
    return True


settings: Settings = {}
settings["EVENTCOLLECTOR_BROKERURL"] = "amqp://localhost"  # refused
settings["EVENTCOLLECTOR_BROKER_URL"] = 5672  # refused
settings["EVENTCOLLECTOR_EXCHANGE"] = None  # refused
settings["EVENTCOLLECTOR_QUEUES"] = ["orders"]  # refused
settings["EVENTCOLLECTOR_PUBLISH_ON"] = "never"  # refused
settings["EVENTCOLLECTOR_PUBLISH_ON"] = wrong_rule  # refused
settings["EVENTCOLLECTOR_CONFIRM_TIMEOUT"] = "0.25"  # refused
settings["EVENTCOLLECTOR_BACKLOG"] = "disk"  # refused
settings["EVENTCOLLECTOR_BACKLOG"] = Path("/var/lib/shop")  # refused
settings["EVENTCOLLECTOR_SPOOL_DIR"] = True  # refused
settings["EVENTCOLLECTOR_SPOOL_SYNC"] = "off"  # refused
settings["EVENTCOLLECTOR_MAX_EVENTS"] = 1e6  # refused
settings["EVENTCOLLECTOR_OVERFLOW"] = "drop_oldest"  # refused
settings["EVENTCOLLECTOR_HEARTBEAT"] = 0.5  # refused
settings["EVENTCOLLECTOR_AUTOFLUSH"] = "true"  # refused
settings["EVENTCOLLECTOR_CLOUDEVENTS"] = True  # refused
settings["EVENTCOLLECTOR_CLOUDEVENTS_PREFIX"] = "ce_"  # refused

wrong: Settings = {"EVENTCOLLECTOR_BACKLOGS": "spool"}  # refused
also_wrong: Settings = {"EVENTCOLLECTOR_BACKLOG": "spools"}  # refused
