"""The state directory of a stack: paths, state, passwords, API keys; and what the environment variables name."""
