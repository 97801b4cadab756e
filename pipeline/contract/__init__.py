"""What the processes agree on: orders, ids, fields, reasons, queues, events, API keys."""
