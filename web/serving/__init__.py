"""Sockets and connections: uvicorn with the limits that it lacks, bodies, health pages."""
