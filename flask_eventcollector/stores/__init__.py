"""What keeps events that are not confirmed: one module or package for each kind."""
