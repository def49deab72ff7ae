"""RabbitMQ over AMQP 0-9-1. Only this package imports pika."""

from .broker import RabbitMQBroker

__all__ = ["RabbitMQBroker"]
