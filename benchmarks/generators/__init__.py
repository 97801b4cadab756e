"""What sends the load: our open-loop generator, wrk, k6, Locust."""
