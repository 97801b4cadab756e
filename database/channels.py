"""Names for LISTEN and NOTIFY. What is said there is a hint, and may be lost: nothing rests on it but how soon."""

VERDICTS = "headrace_verdicts"
"""Orders have been decided, or parked: once for each batch, without saying which."""
