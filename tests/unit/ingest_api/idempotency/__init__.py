"""Unit tests of ingest_api.idempotency."""
