"""Errors as RFC 9457 problems: their kinds, the answers, and their log lines."""
