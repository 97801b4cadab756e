"""Session settings for a command: those of the services (database/sessions.py), except the time limits."""

from __future__ import annotations

# They outrank the server, the database, the role and the URL.
COMMAND_SETTINGS = {
    "default_transaction_isolation": "read committed",
    # `dead` marks letters, even where the default is read-only.
    "default_transaction_read_only": "off",
    # An audit of many orders takes minutes, and Ctrl-C ends it. A limit meant for services would end it first.
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    # Longer than a batch holds a lock. A command that waits longer waits for an ALTER TABLE.
    "lock_timeout": "30s",
    # A command that freezes between two statements withholds its locks from the services.
    "idle_in_transaction_session_timeout": "30s",
    "exit_on_error": "off",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
}
