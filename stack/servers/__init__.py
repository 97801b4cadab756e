"""PostgreSQL, RabbitMQ and Redis: finding, installing, starting and watching them, and each service's rights."""
