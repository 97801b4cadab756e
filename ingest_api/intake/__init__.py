"""From a request to a confirmed message: single orders, bulks, the group commit."""
