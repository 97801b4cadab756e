"""One run: a contender deployed on servers of its own, loaded, drained, accounted for."""
