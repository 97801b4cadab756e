"""Unit tests of web.access."""
