"""Our own services: migrations, start, user, demo products, health check."""
