"""The traces that events belong to, and the spans of their way to the broker."""
