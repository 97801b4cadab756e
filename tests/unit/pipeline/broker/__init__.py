"""Unit tests of pipeline.broker."""
