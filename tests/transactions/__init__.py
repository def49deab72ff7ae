"""Sessions that were bound decide about the events enqueued in their transactions."""
