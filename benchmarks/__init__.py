"""What publishing costs, side by side with what one would write otherwise."""
