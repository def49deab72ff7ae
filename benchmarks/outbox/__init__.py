"""The outbox: what it costs a transaction, and how fast its rows are sent."""
