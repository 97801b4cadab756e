"""Commands for work on Headrace itself: checks, test suites, benchmarks."""
