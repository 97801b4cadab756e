"""The processes that keep a stack alive: the keeper, its child the supervisor, and the command that follows both."""
