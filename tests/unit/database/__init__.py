"""Unit tests of database."""
