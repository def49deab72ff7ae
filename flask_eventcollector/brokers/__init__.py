"""What takes events: one module or package for each kind of broker."""
