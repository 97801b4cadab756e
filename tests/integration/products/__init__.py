"""product_api, and the prices that ingest_api reads."""
