"""What stack needs from the operating system: child processes, /proc, users, ports, log files, local HTTP."""
