"""A key makes one order of all its requests, whatever is lost meanwhile."""
