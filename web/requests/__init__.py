"""What a request says: its operation, query, headers and JSON."""
