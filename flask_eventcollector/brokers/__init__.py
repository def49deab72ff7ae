"""The brokers: one module or package for each kind."""
