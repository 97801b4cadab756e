"""Decides orders: moves stock and writes a verdict for each, in one transaction a batch, then busts the cache."""
