"""Who may do what, how often, and under which host."""
