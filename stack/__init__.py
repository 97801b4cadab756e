"""The `./headrace` command: installs or finds the servers, starts the stack, supervises it, and operates it."""
