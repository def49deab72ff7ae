"""The benchmarks work; what they measure depends on the machine."""
