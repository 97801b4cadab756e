"""Redis, which is never the authority for anything: products, lists of orders, and what it means that it is away."""
