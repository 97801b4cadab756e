"""What the tests' keys in Redis begin with: services and tests look at the same ones."""

REDIS_NAMESPACE = "tests"
NAMESPACE = f"{REDIS_NAMESPACE}:"
