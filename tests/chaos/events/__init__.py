"""The event log, event_relay and its receivers fail."""
