"""RabbitMQ: a connection that reconnects, publishing with confirms, consuming in batches."""
