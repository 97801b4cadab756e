"""GET: single orders, lists, and waiting for a verdict."""
