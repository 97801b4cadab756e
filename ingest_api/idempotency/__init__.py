"""Orders with an Idempotency-Key: claims in Redis, look-ups in the store, and how far Redis is believed."""
