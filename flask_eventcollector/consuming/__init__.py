"""The consumer's side: what a message says, and handling it once."""
