"""Unit tests of migrations."""
