"""Drives orders, accounts for each of them, audits the database. Needs only HTTP and PostgreSQL, not the stack."""
