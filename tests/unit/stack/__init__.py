"""Unit tests of stack."""
