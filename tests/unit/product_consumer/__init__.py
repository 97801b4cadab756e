"""Unit tests of product_consumer."""
