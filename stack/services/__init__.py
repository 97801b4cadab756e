"""Our own services: migrated for, started as a user of their own, seeded."""
