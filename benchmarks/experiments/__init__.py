"""The experiments, their steps, and the data that exists before them."""
