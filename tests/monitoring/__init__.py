"""Tests of what an operator's systems are told."""
