"""What the processes agree on: orders and their columns, ids, fields, reasons, queues, events, hooks, API keys."""
