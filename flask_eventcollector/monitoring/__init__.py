"""What an operator's systems are told: metrics, and the health of a process."""
