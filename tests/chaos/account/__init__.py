"""What must hold after a fault, and whether it did."""
