"""A process: its settings, its life from start to exit code, its health, metrics, and shares between clients."""
