"""The one command, as a user runs it."""
