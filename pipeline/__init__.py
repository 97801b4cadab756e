"""The contract: what two or more of the processes must agree on, and nothing else."""
