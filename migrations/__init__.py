"""Plain SQL revisions. `python -m migrations` applies them in the order of their names."""
