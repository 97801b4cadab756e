"""Unit tests of stack.containers."""
