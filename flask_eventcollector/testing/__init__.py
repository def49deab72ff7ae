"""The test kit."""

from ..monitoring.origin import Origin
from .capture import Captured
from .captured import CapturedEvent, CapturedEvents, Fate
from .expected import ExpectedEvent, event
from .fault_injector import Fault, FaultInjector
from .lookup import capture_app
from .mixin import CapturedEventsMixin

__all__ = [
    "Captured",
    "CapturedEvent",
    "CapturedEvents",
    "CapturedEventsMixin",
    "ExpectedEvent",
    "Fate",
    "Fault",
    "FaultInjector",
    "Origin",
    "capture_app",
    "event",
]
