"""Helpers that tests share, grouped by what they are."""
