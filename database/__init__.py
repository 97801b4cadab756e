"""PostgreSQL for whoever needs it.

sessions, faults                      every process: how connections are set up, what errors mean
connection, copy_text, dead_letters   the two workers: one connection each, COPY, parked input
channels                              what the workers say when an order is decided, and ingest_api listens for
"""
