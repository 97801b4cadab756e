"""What the operating system gives: child processes, /proc, users, ports, log files, HTTP on the loopback."""
