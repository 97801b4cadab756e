"""Unit tests of stack.services."""
