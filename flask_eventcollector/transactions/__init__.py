"""Lets the transactions of bound sessions decide about the events enqueued in them."""
