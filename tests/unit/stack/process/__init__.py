"""Unit tests of stack.process."""
