"""Unit tests of pipeline.cache."""
