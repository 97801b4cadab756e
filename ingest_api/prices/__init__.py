"""Prices at acceptance: the catalogue, and how it asks Redis and PostgreSQL."""
