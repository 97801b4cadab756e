"""Unit tests of stack.run."""
