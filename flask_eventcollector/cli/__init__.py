"""The ``flask events`` command line."""
