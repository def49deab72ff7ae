"""The command ``why``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from flask.cli import with_appcontext

from ..backlog.backlog import Backlog, Waiting
from ..backlog.opening import Inaccessible, open_backlog
from ..backlog.present import not_searched, present_of
from ..backlog.story import Story
from ..monitoring.history.reader import OTHER_USER, History
from ..monitoring.history.records import Line
from ..stores.spool.admin.reading import Unreadable
from . import as_json, as_text, formatting, options
from .context import app_name, app_state
from .exit_codes import Failure, finish, tell
from .history import line_as_text, no_folder, problems_of
from .selection import SHORTEST_ID, in_full


@click.command("why")
@click.argument("id")
@options.json
@with_appcontext
def why(id: str, for_machines: bool) -> None:
    """Say what has happened to one event, where it is now, and what comes next.

    The first characters of the ID are enough, at least four. What has happened is in
    EVENTCOLLECTOR_HISTORY_DIR, where each process writes it down; without that setting,
    only where the event waits is known. Exits with 3 if the event is not delivered, or
    if something about it can't be read, and with 1 if nothing is known about it.
    """
    if len(id) < SHORTEST_ID:
        raise Failure(f"{id!r} is too short: give at least {SHORTEST_ID} characters")
    problems: list[Unreadable] = []
    story = _story(id, problems)
    if not story:
        tell(problems)
        raise Failure(
            f"Nothing is known about an event {id!r}. {_why_unknown(problems)}",
            unreadable=problems,
        )
    if for_machines:
        unreadable = as_json.unreadable(problems)
        as_json.write(_as_json(story) | {"unreadable": unreadable})
    else:
        _tell(story)
    finish(problems, is_left=not story.is_over)


def _story(id: str, problems: list[Unreadable]) -> Story[Waiting]:
    """All that is known of the event whose id begins with *id*.

    :param problems: gets what can't be read.
    :raises Failure: there are several such events.
    """
    # First where it waits: it may be delivered before its life is read, which says so.
    places = _places(problems)
    ids = set[str]() if places is None else places.ids_from(id)
    waiting = [] if places is None else places.with_ids([*ids] or [id], problems)
    history, lines = _lives(id, problems)
    ids |= {one for line in lines for one in line.ids if one.startswith(id)}
    id = in_full(id, ids)
    lines = [line for line in lines if id in line.ids]
    copies = (one for one in waiting if one.event.id == id)
    # A copy of it may be in the file of a process that is gone.
    found = min(copies, key=lambda one: one.is_left, default=None)
    if found is None and places is not None:
        problems += not_searched(places)
    return Story(lines, found, present_of(lines, history, places, problems))


def _places(problems: list[Unreadable]) -> Backlog | None:
    """Where events wait; ``None``: in memory, or it can't be read."""
    try:
        places = open_backlog(app_state())
    except Inaccessible as error:
        problems += error.unread
        return None
    click.get_current_context().call_on_close(places.close)
    return places


def _lives(id: str, problems: list[Unreadable]) -> tuple[History | None, list[Line]]:
    """What has happened to the events whose ids begin with *id*."""
    folder = app_state().config.history_dir
    if folder is None:
        return None, []
    history = History(folder, app_name())
    try:
        return history, history.of(id)
    except FileNotFoundError:
        click.echo(f"There is no history: {no_folder(folder)}", err=True)
        return None, []
    except OSError as error:
        problems.append(Unreadable(folder, f"{error.strerror}: {OTHER_USER}"))
        return None, []
    finally:
        problems += problems_of(history)


def _why_unknown(problems: Sequence[Unreadable]) -> str:
    if problems:
        return "It may be in what can't be read"
    folder = app_state().config.history_dir
    if folder is None:
        return "Processes write down what happens if EVENTCOLLECTOR_HISTORY_DIR is set"
    if not folder.exists():
        return f"There is no history, either: {no_folder(folder)}"
    return "It is older than what the processes have written down, or of another app"


def _as_json(story: Story[Waiting]) -> dict[str, Any]:
    waiting = story.waiting
    return {
        "history": [{**line._asdict(), "ids": len(line.ids)} for line in story.lines],
        "waiting": None if waiting is None else as_json.event(waiting),
        "next": story.next,
        "now": story.trouble or None,
        "lost": story.is_lost,
    }


def _tell(story: Story[Waiting]) -> None:
    for line in story.lines:
        click.echo(line_as_text(line, with_ids=False))
    if story.waiting is not None:
        as_text.show_about(story.waiting)
    now = f"; now: {story.trouble}" if story.trouble else ""
    click.echo(f"Next: {formatting.printable(story.next + now)}")
