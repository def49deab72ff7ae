"""Benchmarks: this library, its peers, and what is possible at best."""
