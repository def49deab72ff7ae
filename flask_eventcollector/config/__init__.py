"""The settings of one app, read and checked once."""
