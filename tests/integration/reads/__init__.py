"""Reading orders: one, a list, and waiting for a verdict."""
