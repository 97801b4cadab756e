"""Logs of a process: one JSON object a line, bounded, and never in the way of the work that they report."""
