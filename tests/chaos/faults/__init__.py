"""What breaks servers and processes, at an exact moment or at random."""
