"""persist_worker and product_consumer: each order stored and decided once."""
