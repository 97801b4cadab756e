"""What is measured, and the orders that are there before."""
