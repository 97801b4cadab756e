"""Reads requests: their operation, query, headers and JSON."""
