"""The HTTP server: connections, access, pages."""
