"""Redis: refusals, and each service's permissions."""
