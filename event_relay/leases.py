"""Leases: of several relays, the one that holds a hook, or the exchange, sends."""

# Another relay takes over this long after the last extension: longer than a request may take.
LEASE_S = 10.0
EXTEND_EVERY_S = 3.0
# With less of the lease than this left, nothing is sent.
LEAST_TIMEOUT_S = 1.0
# Between our last byte and the first of another relay: clocks of two machines run at different speeds.
MARGIN_S = 0.5
