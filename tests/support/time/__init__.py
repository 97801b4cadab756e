"""Waits for conditions, and freezes time."""
