"""Reads the intact rows of a damaged spool file, without SQLite."""
