"""What waits in the spool and in the outbox, as an operator sees it."""
