"""RabbitMQ as tests want it: plain publishing and reading, queues as models, dead letters."""
