"""Metrics of this process, by what is added to them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pipeline.process.metrics import REGISTRY


def sample(name: str, **labels: str) -> Callable[[], float]:
    """What reads a sample, written as in /metrics; 0 if it is not there."""
    return lambda: REGISTRY.get_sample_value(name, labels) or 0


@asynccontextmanager
async def grown(*samples: Callable[[], float]) -> AsyncIterator[Callable[[], list[float]]]:
    """What says by how much each sample has grown since the block began."""
    before = [read() for read in samples]
    yield lambda: [read() - then for read, then in zip(samples, before, strict=True)]
