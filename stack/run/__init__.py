"""Start a stack on this machine, look at it, stop it."""
