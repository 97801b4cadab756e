"""Errors as RFC 9457: their kinds, the answers, and what is logged of them."""
