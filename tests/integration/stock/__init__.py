"""The decision on orders: product_consumer, its ledger, its cache."""
