"""Tests of the library's promises, one fault at a time."""
