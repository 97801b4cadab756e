"""What a stack leaves on disk: its directory, state, passwords and keys; and what the environment names."""
