"""PostgreSQL, as every process uses it.

sessions, faults, clock               every process: set up connections, classify errors, measure clock skew
connection, copy_text, dead_letters   the two workers: one connection each, COPY, parked input
channels                              NOTIFY from the workers when orders are decided, LISTEN in ingest_api
"""
