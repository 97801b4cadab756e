"""What every process needs: settings, life cycle, logs, health, metrics, and fair shares between clients."""
