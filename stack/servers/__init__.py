"""PostgreSQL, RabbitMQ and Redis: found, installed, started and watched, and who may do what on each."""
