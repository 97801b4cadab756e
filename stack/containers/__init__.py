"""Runs the stack in containers: Compose, its passwords, its replicas."""
