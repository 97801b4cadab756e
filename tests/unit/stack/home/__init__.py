"""Unit tests of stack.home."""
