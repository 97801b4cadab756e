"""Reads metrics of this process, and how much they grow."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pipeline.process.metrics import REGISTRY


def sample(name: str, **labels: str) -> Callable[[], float]:
    """A function that reads a sample, named as in /metrics; 0 if it does not exist."""
    return lambda: REGISTRY.get_sample_value(name, labels) or 0


@asynccontextmanager
async def grown(*samples: Callable[[], float]) -> AsyncIterator[Callable[[], list[float]]]:
    """Yields a function: how much each sample has grown in the block."""
    before = [read() for read in samples]
    yield lambda: [read() - then for read, then in zip(samples, before, strict=True)]
