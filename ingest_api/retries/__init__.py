"""Orders with an Idempotency-Key: claims in Redis, what the store knows, and how far Redis is believed."""
