"""Unit tests of stack.servers."""
