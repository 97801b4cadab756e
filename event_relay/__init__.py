"""Follows the event log, and pushes events to RabbitMQ and to webhooks."""
