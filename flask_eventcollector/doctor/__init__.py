"""Examines how an app is set up, and changes nothing."""
