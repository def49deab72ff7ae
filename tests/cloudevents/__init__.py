"""CloudEvents, with the official SDK for Python as the oracle."""
