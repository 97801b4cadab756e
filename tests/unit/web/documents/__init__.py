"""Unit tests of web.documents."""
