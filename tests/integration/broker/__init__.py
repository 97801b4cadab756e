"""RabbitMQ: connections, publishing, batches, and what goes wrong there."""
