"""Unit tests of web.problems."""
