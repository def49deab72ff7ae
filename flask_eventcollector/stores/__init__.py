"""The stores of unconfirmed events: one module or package for each kind."""
