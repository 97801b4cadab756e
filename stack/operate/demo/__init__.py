"""`./headrace demo`: sends orders, accounts for each, and reports."""
