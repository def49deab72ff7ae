"""Text output, for people."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from ..backlog.backlog import Backlog, LeftAlone, Status, Waiting
from ..backlog.outbox import NO_RELAY, FoundRow
from ..events import Event
from ..messages.cloudevents import attributes_of, split_headers
from ..stores.filter import Filter
from ..stores.spool.admin.adopting import Adopted
from ..stores.spool.admin.changes import PATIENCE, Changed
from ..stores.spool.admin.draining import Drained, named
from ..stores.spool.admin.reading import Report, Unreadable, total
from ..stores.spool.folder import Folder
from ..stores.spool.strays import destination_name, how_to_adopt
from . import formatting

if TYPE_CHECKING:
    from ..stores.outbox.admin import Counts

# The state of the spool and the outbox.


def show_status(app: str, backlog: Backlog, status: Status) -> None:
    """Each file of the spool, with the totals, and the outbox."""
    if backlog.folder is not None:
        _show_spool(backlog.folder, status)
    if backlog.outbox is not None:
        click.echo(f"Outbox of {app!r}: {formatting.printable(backlog.outbox.name)}")
        _show_rows(status.rows)
        _show_relay(status)
        for name, counts in status.strays.items():
            _show_left(name, f"{rows_of(counts)} of {name!r}, which no process sends")


def _show_spool(folder: Folder, status: Status) -> None:
    click.echo(f"Spool of {folder.name!r}: {formatting.printable(str(folder.path))}")
    if status.files:
        _show_files(status.files)
    else:
        queue = str(folder.destination) if status.others else None
        show_none("waiting", queue, status.problems)
    if status.others:
        _show_others(folder, status.others)
    for name, left in status.apps.items():
        _show_left(name, f"{content(left)} of {name!r}, which has no process here")


def _show_left(name: str, text: str) -> None:
    """That events of the app *name* are left alone."""
    click.echo(
        f"Left alone: {formatting.printable(text)}. If this app was renamed, run"
        f" {formatting.printable(how_to_adopt(name))}."
    )


def _show_rows(counts: Counts | None) -> None:
    """How many rows the outbox has; ``None``: it can't be read."""
    if counts is None:
        click.echo("It can't be read.")
    elif any(counts[:4]):
        oldest = None if counts.oldest is None else formatting.age_of(counts.oldest)
        row = [*map(str, counts[:4]), formatting.age(oldest)]
        heads = ("FREE", "HELD", "DELAYED", "DEAD", "OLDEST", "SIZE OF EVENTS")
        row.append(formatting.size(counts.bytes))
        _write_lines(formatting.table(heads, [row], right=range(len(heads))))
    else:
        show_none("waiting", None, ())


def _show_relay(status: Status) -> None:
    """Which relay is active, or that one is needed."""
    if status.leader is not None:
        click.echo(f"Active relay: {formatting.printable(status.leader)}")
    elif status.lacks_relay:
        click.echo(f"{NO_RELAY}.")


def _show_others(folder: Folder, files: Sequence[Report]) -> None:
    click.echo(f"Left alone, since their events are not for {folder.destination}:")
    for file in files:
        click.echo(f"  {describe(file)}, of {file.owner}")
    if any(not file.owner.alive for file in files):
        click.echo(
            "To send the events of processes that are gone to this app's broker all the"
            " same, run 'flask events adopt FILE'."
        )


def content(files: Sequence[Report]) -> str:
    """For example ``5 events in 2 files``, or ``2 files`` if one can't be read."""
    number = formatting.count(len(files), "file")
    if any(file.problem for file in files):
        return number
    waiting, _, dead, *_ = total(files)
    return f"{formatting.events(waiting + dead)} in {number}"


def rows_of(counts: Counts) -> str:
    """For example ``5 events``."""
    return formatting.events(sum(counts[:4]))


def about_left_alone(left: LeftAlone) -> str:
    """How many events no process will adopt."""
    parts = []
    if left.files:
        files = content(left.files)
        parts.append(f"{files} for another broker, or of an app without a process")
    for name, counts in left.rows.items():
        text = f"{rows_of(counts)} of {name!r} in the outbox, which no process sends"
        parts.append(formatting.printable(text))
    return f"Left alone: {'; '.join(parts)}; see 'flask events status'."


def describe(file: Report) -> str:
    """The content of a file, and its destination."""
    count = formatting.events(file.waiting + file.dead)
    if file.problem:
        count = "events that can't be read"
    name = formatting.printable(file.path.name)
    return f"{name}: {count} for {destination_name(file.path)}"


def _show_files(files: Sequence[Report]) -> None:
    rows = [_file_as_row(file) for file in files]
    waiting, delayed, dead, oldest_age, size = total(files)
    rows.append(
        [
            "total",
            "",
            str(waiting),
            str(delayed),
            str(dead),
            formatting.age(oldest_age),
            formatting.size(size),
            formatting.count(len(files), "file"),
        ]
    )
    heads = (
        "PROCESS",
        "STATUS",
        "WAITING",
        "DELAYED",
        "DEAD",
        "OLDEST",
        "SIZE",
        "FILE",
    )
    hidden = () if delayed else (heads.index("DELAYED"),)
    _write_lines(formatting.table(heads, rows, right=range(2, 7), hidden=hidden))


def _file_as_row(file: Report) -> list[str]:
    numbers = (file.waiting, file.delayed, file.dead)
    counts = ["?" if file.problem else str(number) for number in numbers]
    return [
        str(file.owner.process or "?"),
        formatting.liveness(file.owner.alive),
        *counts,
        formatting.age(file.oldest_age),
        formatting.size(file.bytes),
        file.path.name,
    ]


# Events.


def show_list(found: Sequence[Waiting]) -> None:
    """One line for each event."""
    rows = [
        [
            event.id,
            f.state,
            formatting.age(formatting.age_of(event.enqueued_at)),
            str(event.target),
            _store(f),
            str(f.attempts or "-"),
            formatting.wait(f.next_try),
            f.reason or "-",
        ]
        for f in found
        for event in [f.event]
    ]
    heads = ["ID", "STATE", "AGE", "TARGET", "IN", "TRIES", "NEXT", "REASON"]
    hidden: set[int] = set()
    if not any(isinstance(f, FoundRow) for f in found):
        hidden.add(heads.index("IN"))
    if not any(f.reason for f in found):
        hidden.update(map(heads.index, ("TRIES", "REASON")))
        if not any(f.event.due_in for f in found):
            hidden.add(heads.index("NEXT"))
    _write_lines(formatting.table(heads, rows, right=[2, 5, 6], hidden=hidden))


def _store(found: Waiting) -> str:
    return "outbox" if isinstance(found, FoundRow) else "spool"


def show_none(state: str, queue: str | None, problems: Sequence[Unreadable]) -> None:
    """That no event in *state* was found; with *problems*, there may be some."""
    readable = "No events that can be read" if problems else "No events"
    subject = f"{readable} for {formatting.printable(queue)}" if queue else readable
    click.echo(f"{subject} are {state}.")


def show_none_of(wanted: Filter, problems: Sequence[Unreadable]) -> None:
    """That no *wanted* event was found."""
    if wanted.reason is None and wanted.older_than is None:
        show_none("dead" if wanted.dead else "waiting", wanted.queue, problems)
    else:
        # Others may be waiting or dead, which the conditions exclude.
        show_none("selected", None, problems)


def show_dead(found: Sequence[Waiting]) -> None:
    """Each event, with the reason why it is dead."""
    for f in found:
        event = f.event
        age = formatting.age(formatting.age_of(event.enqueued_at))
        where = ", in the outbox" * isinstance(f, FoundRow)
        text = f"{event.id}  {event.target}, {age} old{where}"
        click.echo(formatting.printable(text))
        click.echo(f"    {formatting.printable(f.reason or 'unknown reason')}")


def show_details(found: Waiting, *, payload: bool) -> None:
    """Everything known about one event."""
    show_about(found)
    event = found.event
    _, headers = split_headers(event.headers)
    _show_pairs(
        [
            *[("property", f"{k}: {v}") for k, v in event.properties.as_dict().items()],
            *[("attribute", f"{k}: {v}") for k, v in attributes_of(event).items()],
            *[("header", f"{key}: {value}") for key, value in headers.items()],
        ]
    )
    if payload:
        click.echo("payload")
        lines = _payload_as_text(event).splitlines()
        _write_lines(formatting.printable(line) for line in lines)


def show_about(found: Waiting) -> None:
    """What is known about one event, but for what it says, which may be secret."""
    event = found.event
    age = formatting.age(formatting.age_of(event.enqueued_at))
    moment = formatting.moment_of(event.microseconds / 1e6)
    _show_pairs(
        [
            ("id", event.id),
            ("state", found.state),
            *_about_refusal(found),
            *_about_time(event),
            ("queue", event.target_queue),
            ("exchange", event.exchange or "(default)"),
            ("enqueued", f"{moment}, {age} ago"),
            ("size", formatting.size(len(event.body))),
            *_about_place(found),
        ]
    )


def _show_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    for name, value in pairs:
        click.echo(formatting.printable(f"{name:10}{value}"))


def _payload_as_text(event: Event) -> str:
    """The payload as JSON; what is not JSON as text, or else in hexadecimal digits."""
    payload = event.payload
    if not isinstance(payload, bytes):
        return json.dumps(payload, ensure_ascii=False, indent=2)
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload.hex(" ")


def _about_time(event: Event) -> list[tuple[str, str]]:
    """When an event is due, and when it expires or has expired."""
    about = [("due", formatting.wait(event.due_in))] * bool(event.due_in)
    if event.time_left:
        about.append(("expires", formatting.wait(event.time_left)))
    elif event.properties.expires_in is not None:
        since = formatting.age_of(event.enqueued_at) - event.properties.expires_in
        about.append(("expired", f"{formatting.age(since)} ago"))
    return about


def _about_refusal(found: Waiting) -> list[tuple[str, str]]:
    """Why an event is dead, or what is known about its last refusal."""
    if found.reason is None:
        return []
    about = [("reason", found.reason or "-")]
    if found.attempts:
        about.append(("sent", _tries(found.attempts, found.last_try)))
    if found.next_try is not None:
        about.append(("next try", formatting.wait(found.next_try)))
    return about


def _tries(attempts: int, last_try: float | None) -> str:
    tries = formatting.count(attempts, "time")
    if last_try is None:
        return tries
    ago = formatting.age(max(0.0, time.time() - last_try))
    return f"{tries}, the last time {ago} ago"


def _about_place(found: Waiting) -> list[tuple[str, str]]:
    if isinstance(found, FoundRow):
        held = "held by a process, which sends it" if found.row.is_held else ""
        return [("outbox", found.place), *[("lease", held)] * bool(held)]
    owner = found.owner
    process = f"{owner.process or '?'}, {formatting.liveness(owner.alive)}"
    return [("process", process), ("file", found.place)]


#: How many events a preview shows.
_SAMPLE = 3


def preview(found: Sequence[Waiting]) -> None:
    """How many events each target has among *found*, and the oldest ones."""
    events = {f.event.id: f.event for f in found}.values()
    for target, count in Counter(event.target for event in events).most_common():
        text = f"{target}: {formatting.events(count)}"
        click.echo(formatting.printable(text), err=True)
    for event in itertools.islice(events, _SAMPLE):
        age = formatting.age(formatting.age_of(event.enqueued_at))
        text = f"  {event.id}  {event.target}, {age} old"
        click.echo(formatting.printable(text), err=True)
    if len(events) > _SAMPLE:
        click.echo(f"  … and {len(events) - _SAMPLE} more", err=True)


# What a command has done.


def show_drained(drained: Drained) -> None:
    """What a flush delivered and what it left."""
    parts = [f"{formatting.events(drained.delivered)} delivered"]
    parts += [f"{drained.unrouted} that no queue gets"] * bool(drained.unrouted)
    parts += [f"{drained.dropped} dropped"] * bool(drained.dropped)
    parts += [f"{drained.waiting} waiting"] * bool(drained.waiting)
    parts += [f"{drained.delayed} delayed"] * bool(drained.delayed)
    parts += [f"{drained.dead} dead"] * bool(drained.dead)
    click.echo(f"{', '.join(parts)}.")
    if drained.dead:
        click.echo("For the reasons, run 'flask events dead'. See also 'retry'.")
    if drained.quarantined:
        files = formatting.count(drained.quarantined, "damaged file")
        click.echo(
            f"{files} quarantined. The intact events were copied or delivered before"
            " that, and count above. See 'flask events quarantine list'."
        )
    if drained.others:
        others = formatting.count(drained.others, "more event")
        owners = formatting.count(drained.processes, "running process")
        deliver = "delivers" if drained.processes == 1 else "deliver"
        click.echo(f"{others} in the files of {owners}, which {deliver} them.")
    if drained.held:
        others = formatting.count(drained.held, "more event")
        click.echo(f"{others} in the outbox, held by processes, which deliver them.")
    if drained.refused:
        reasons = (f"{target}: {why}" for target, why in drained.refused.items())
        some = named(map(formatting.printable, reasons), len(drained.refused))
        click.echo(f"The broker refuses some of these: {some}")


def show_changed(what: str, changes: Iterable[Changed]) -> None:
    """The results of a ``"retry"``, ``"purge"`` or ``"redirect"``, by place."""
    for changed in changes:
        _show_changed(what, changed)


def _show_changed(what: str, changed: Changed) -> None:
    owner = changed.owner
    if changed.done:
        count = formatting.events(len(changed.done))
        did = "Redirected" if what == "redirect" else "Retried"
        if what == "purge":
            click.echo(f"Dropped {count} of {owner or 'the outbox'}.")
        elif owner is None:
            click.echo(f"{did} {count} of the outbox.")
        elif owner.alive:
            click.echo(f"{did} {count} through {owner}.")
        else:
            what = "the new queue" if what == "redirect" else "retry"
            click.echo(
                f"Marked {count} of {owner} for {what}. The next worker sends them, or"
                " run 'flask events flush' now."
            )


def why_left(what: str, changed: Changed) -> str:
    """Why a command has not changed a running process's events."""
    if changed.owner is None:
        return (
            "a process holds them to send them, so stop it first, such as the relay,"
            f" which gives them back then: {abbreviated(changed.left)}"
        )
    cause = "the events may be in flight"
    if what == "retry":
        cause = "the broker may have refused the events again"
    return (
        f"no response from {changed.owner} within {PATIENCE:.0f} s ({cause}, or the"
        f" process hangs): {abbreviated(changed.left)}"
    )


def show_adopted(
    adopted: Sequence[Adopted], rows: int, *, needs_relay: bool = False
) -> None:
    """The result of an ``adopt``, also of *rows* of the outbox.

    :param needs_relay: whether only a relay sends these.
    """
    count = formatting.events(sum(file.events for file in adopted))
    parts = [f"{count} of {formatting.count(len(adopted), 'file')}"]
    parts = parts * bool(adopted or not rows)
    parts += [f"{formatting.events(rows)} of the outbox"] * bool(rows)
    text = f"Adopted {', and '.join(parts)}."
    if adopted or rows:
        text += f" {_who_sends(rows, adopted, needs_relay)}, or run"
        text += " 'flask events flush' now."
    click.echo(text)


def _who_sends(rows: int, files: Sequence[Adopted], needs_relay: bool) -> str:
    if not (rows and needs_relay):
        return "The next worker sends them"
    if not files:
        return "'flask events relay' sends them"
    return "The next worker and 'flask events relay' send them"


# Anywhere.


def abbreviated(ids: Iterable[str]) -> str:
    """At most ten *ids*, separated by commas."""
    first = list(itertools.islice(ids, 11))
    return ", ".join([*first[:10], "…"] if len(first) > 10 else first)


def _write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
