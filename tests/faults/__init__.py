"""Proof of what the library promises, one fault at a time."""
