"""Unit tests of pipeline.process."""
