"""The store in the application's own database: all that is SQL in it."""
