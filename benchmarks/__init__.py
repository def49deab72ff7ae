"""Benchmarks: this library and handwritten alternatives."""
