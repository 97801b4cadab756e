"""How a process tells what it does: one JSON object a line, bounded, and never in the way of the work it tells of."""
