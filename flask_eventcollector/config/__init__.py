"""The validated settings of one app."""
