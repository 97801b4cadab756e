"""One run: deploys a contender on private servers, loads it, drains it, and accounts for its orders."""
