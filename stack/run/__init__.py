"""`up`, `down`, `status`, `logs` and `doctor`, on this machine without containers."""
