"""What belongs to one app, and how it is made from the app's settings."""

from __future__ import annotations

from .state import EXTENSION_KEY, AppState, state_of

__all__ = ["EXTENSION_KEY", "AppState", "state_of"]
