"""RabbitMQ, over AMQP 0-9-1. Nothing outside this package imports pika."""

from .broker import RabbitMQBroker

__all__ = ["RabbitMQBroker"]
