"""Unit tests of product_api."""
