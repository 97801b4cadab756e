"""The commands of `./headrace`: a module for each, with its options and its help. The work is elsewhere in stack."""
