"""Load generators: our open-loop generator, wrk, k6, Locust."""
