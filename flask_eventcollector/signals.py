"""The blinker signals that report what becomes of events.

The sender is the app object. Receivers should take ``**extra``. What a caller of
``publish()`` waits for is told in the caller's thread, all else in the flusher's,
always with the app context pushed. A receiver that raises is logged and harms nothing.
What a receiver enqueues is handed over when it returns; nobody waits for it.

Of :data:`events_published`, :data:`events_discarded` and :data:`events_dropped`, each
event gets exactly one, as its last word in this process. One that is left on disk when
the process ends gets its last word in the process that adopts it.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

#: ``event``: it is in a collector now.
event_enqueued = _signals.signal("event-enqueued")

#: ``events, attempt, elapsed``: the broker has confirmed them; *elapsed* is the time
#: since the first of them was handed over, in seconds.
events_published = _signals.signal("events-published")

#: ``events, outcome, error, attempt``: they are retained. *outcome* is ``None`` when
#: nothing was tried, because the broker is known to be away.
publish_failed = _signals.signal("publish-failed")

#: ``events, reason``: thrown away on purpose.
events_discarded = _signals.signal("events-discarded")

#: ``events, reason``: lost to a limit.
events_dropped = _signals.signal("events-dropped")

#: ``events, reason``: set aside, because the broker goes on refusing them.
events_dead = _signals.signal("events-dead")

#: ``path, reason, rescued``: a file of the spool could not be read as a whole. It was
#: renamed to *path*; *rescued* of its events are delivered all the same.
spool_file_quarantined = _signals.signal("spool-file-quarantined")
