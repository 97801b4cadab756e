"""Channel names for LISTEN and NOTIFY. Notifications are hints and may be lost: a lost one only costs time."""

VERDICTS = "headrace_verdicts"
"""Orders were decided or parked: one notification a batch, without their ids."""
