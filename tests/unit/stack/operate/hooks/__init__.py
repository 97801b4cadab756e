"""Unit tests of stack.operate."""
