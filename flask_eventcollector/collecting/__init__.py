"""Collects the events of a unit of work until it succeeds or fails."""
