"""What the tests of one part share: the part itself, running in the test, with what it needs."""
