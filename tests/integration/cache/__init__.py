"""Redis: what it refuses, and who may do what in it."""
