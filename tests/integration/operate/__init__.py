"""The operator's commands: verify, repair, dead letters."""
