"""Unit tests of web.requests."""
