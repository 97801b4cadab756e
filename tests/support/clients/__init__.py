"""Clients: honest, hostile, many at once, keyed, and raw sockets."""
