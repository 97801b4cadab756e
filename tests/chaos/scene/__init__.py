"""One scenario: its clients, what they order and note down, and a watch over the services."""
