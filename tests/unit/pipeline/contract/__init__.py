"""Unit tests of pipeline.contract."""
