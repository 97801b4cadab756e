"""RabbitMQ for tests: publishing, reading, the management API, a model of a queue, dead letters."""
