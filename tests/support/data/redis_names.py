"""The prefix of the tests' keys in Redis, shared by services and tests."""

REDIS_NAMESPACE = "tests"
NAMESPACE = f"{REDIS_NAMESPACE}:"
