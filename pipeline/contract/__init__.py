"""What is agreed on between processes: orders, ids, fields, reasons, queues, events, API keys."""
