"""The command line, ``flask events``."""
