"""GET of events: pages of the log, and streams that follow it."""
