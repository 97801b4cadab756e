"""Plain SQL revisions, applied in the order of their names by `python -m migrations`."""
