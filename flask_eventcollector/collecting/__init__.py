"""What a unit of work collects, until it succeeds or fails."""
