"""RabbitMQ: one connection kept up, publishing with confirms, consuming in batches."""
