"""Commands on a running system: demo, dead letters, replay, hooks, verify, repair, API keys."""
