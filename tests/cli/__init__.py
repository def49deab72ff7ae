"""Tests of `flask events`."""
