"""What two or more of the four processes must agree on: the contract, and nothing else."""
