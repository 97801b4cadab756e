"""unit: no sockets. integration: one of ours against real servers. system: all processes."""
