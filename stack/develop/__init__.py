"""Work on Headrace itself: checks, test suites, benchmarks."""
