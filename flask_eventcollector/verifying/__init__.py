"""Checks the guarantee against a real broker, for ``flask events verify``."""
