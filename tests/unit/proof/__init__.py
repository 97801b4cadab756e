"""Unit tests of proof, and of what the chaos suite concludes."""
