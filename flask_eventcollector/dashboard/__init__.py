"""The dashboard: pages that show what waits and why, and let an operator change it."""

from .access import Authorize, Viewer

__all__ = ["Authorize", "Viewer"]
