"""The HTTP server, its doors and its pages."""
