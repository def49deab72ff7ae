"""A blinker signal whose receivers are type-checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from blinker import ANY, NamedSignal

R = TypeVar("R", bound=Callable[..., object])


class TypedSignal(NamedSignal, Generic[R]):
    """A blinker signal; type checkers refuse a receiver that is not an ``R``."""

    if TYPE_CHECKING:
        # blinker accepts every callable.

        def connect(  # type: ignore[override]
            self, receiver: R, sender: Any = ANY, weak: bool = True
        ) -> R: ...

        def connect_via(  # type: ignore[override]
            self, sender: Any, weak: bool = False
        ) -> Callable[[R], R]: ...

        def connected_to(  # type: ignore[override]
            self, receiver: R, sender: Any = ANY
        ) -> AbstractContextManager[None]: ...
