"""Unit tests of what documents say."""
