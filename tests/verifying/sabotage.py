"""A worker that breaks promises, so that `flask events verify` must find that.

Of one order each, it acknowledges an event without enqueuing it, sends an event twice,
and sends what a refused request has enqueued.
"""

from __future__ import annotations

from typing import Any, cast

from flask import Flask, jsonify, request

from flask_eventcollector import EventCollector
from flask_eventcollector.app_state import state_of
from flask_eventcollector.verifying.side_file import note
from flask_eventcollector.verifying.worker import (
    Job,
    create_app,
    new_name,
    read_job,
    serve,
)

LOST, TWICE, GHOST = "/orders/3", "/orders/5", "/orders/10/refused"


def create_false_app(job: Job) -> Flask:
    app = create_app(job)
    state = state_of(app)
    assert state is not None
    events = cast(EventCollector, state.events)

    @app.before_request
    def break_a_promise() -> Any:
        if request.path == GHOST:
            with events.auto_publish():
                events.enqueue_event({"key": "ghost"}, job.queue)
        if request.path not in (LOST, TWICE):
            return None
        key = f"{new_name(0)}.0"
        note(job.side_file, key, "-")
        for _ in range(2 if request.path == TWICE else 0):
            events.enqueue_event({"key": key}, job.queue)
        return jsonify([key]), 201

    return app


if __name__ == "__main__":
    job = read_job()
    serve(create_false_app(job), job)
