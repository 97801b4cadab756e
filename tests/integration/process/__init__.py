"""A service as a process: start, stop, clocks, wrong settings."""
