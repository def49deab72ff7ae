"""From a payload to the parts of an AMQP message."""
