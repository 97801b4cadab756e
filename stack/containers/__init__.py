"""The stack in containers: Compose, its passwords, its replicas."""
