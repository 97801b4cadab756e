"""Services under test: as processes, as deployments, and as parts in this process."""
