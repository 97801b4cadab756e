"""Benchmarks: the programs that measure, and the results that the documents quote."""
