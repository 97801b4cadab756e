"""`./headrace dead`: lists, shows, replays and discards dead letters."""
