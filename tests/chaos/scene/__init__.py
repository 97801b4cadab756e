"""One scenario: its clients, what they order, their records of the answers, and a watch over the services."""
