"""The commands of `./headrace`: a module for each, with its options and its help. The work is elsewhere in stack.

The room grows by one module with each command, so it may be larger than the others.
"""
