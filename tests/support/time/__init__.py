"""Waiting for conditions, and time that stands still."""
