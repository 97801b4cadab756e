"""Takes orders: validates, prices, mints the id, publishes, and answers 202 once the broker has them on disk."""
