"""All four services at once: orders from the request to the stock."""
