"""The event log and those who follow it: readers, queues, webhooks' receivers."""
