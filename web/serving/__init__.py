"""Sockets and connections: uvicorn with the bounds that it lacks, bodies, health pages."""
