"""Drives orders, accounts for each of them, audits the database. Knows HTTP and PostgreSQL, and nothing of a stack."""
