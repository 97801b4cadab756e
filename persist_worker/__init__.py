"""Stores orders: a batch of messages becomes one COPY, then one message for product_consumer, then one ack."""
