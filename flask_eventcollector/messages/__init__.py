"""Turns a payload into the parts of an AMQP message."""
