"""Unit tests of persist_worker."""
