"""Isolation: no event, queue, wait or destructor delays another."""
