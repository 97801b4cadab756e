"""Decides orders: moves stock and writes a verdict for each, in one transaction a batch. Then busts the cache."""
