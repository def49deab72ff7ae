"""What processes write down of the life of events, and who reads it."""
