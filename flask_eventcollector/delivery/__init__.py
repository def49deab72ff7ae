"""The way of a handed-over event to its confirm."""
