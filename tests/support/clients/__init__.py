"""Clients: honest, hostile, many at once, and a connection with no idea of HTTP."""
