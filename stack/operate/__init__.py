"""Commands on a running system: demo, dead letters, replay, verify, repair, API keys."""
