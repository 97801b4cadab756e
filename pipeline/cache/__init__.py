"""Redis caches of products and lists of orders, and what a Redis outage means. Redis is never the authority."""
