"""Unit tests of web.serving."""
