"""The processes that keep a stack alive: the keeper, its supervisor, and the command that listens to both."""
