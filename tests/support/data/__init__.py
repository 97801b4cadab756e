"""Test data: orders, products, keys and results; and readers of documents and schemas."""
