"""Unit tests of deploy and docker-compose.yml."""
