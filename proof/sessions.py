"""How a command's session with PostgreSQL is set up: as the services' (database/sessions.py), but for the limits."""

from __future__ import annotations

# They outrank what the server, the database, the role and the URL say.
COMMAND_SETTINGS = {
    "default_transaction_isolation": "read committed",
    # `dead` marks letters, also where the default is read-only.
    "default_transaction_read_only": "off",
    # An audit of many orders takes minutes, and Ctrl-C ends it. A limit that is meant for services would end it first.
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    # Longer than a batch holds a lock. Whoever waits for longer waits for somebody's ALTER TABLE.
    "lock_timeout": "30s",
    # A command that is frozen between two statements keeps what it has locked from the services.
    "idle_in_transaction_session_timeout": "30s",
    "exit_on_error": "off",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
}
