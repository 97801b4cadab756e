"""Signs of a fault: words in a log, a sample in /metrics. I8 looks for signs that were not there before."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.services.deployment import Deployment
from tests.support.services.processes import Service

ANY = ""
"""Stands for any service."""
_STARTED = "process_start_time_seconds"


@dataclass(frozen=True)
class Logged:
    """A service or server logged one of these texts. Which one depends on what it was doing when the fault came."""

    service: str
    words: str
    or_words: str | None = None


@dataclass(frozen=True)
class Counts:
    """A sample of a service's metrics has grown; with ANY, of any service. In a new process, it is above 0."""

    service: str
    sample: str
    """As in /metrics. Without labels: the sum over all labels."""


@dataclass(frozen=True)
class Restarts:
    """The service's process was replaced, by its metrics."""

    service: str


Sign = Logged | Counts | Restarts


@dataclass
class Before:
    """Logs and metrics before the fault."""

    logs: dict[Service | Path, int] = field(default_factory=dict)
    """Log → length."""
    metrics: dict[Service, Mapping[str, float]] = field(default_factory=dict)
    started_s: dict[str, float] = field(default_factory=dict)
    """Service → start of its process, Unix seconds."""

    @classmethod
    async def of(cls, deployment: Deployment, server_logs: Mapping[str, Path]) -> "Before":
        services = deployment.services.values()
        metrics: dict[Service, Mapping[str, float]] = {it: await it.metrics() for it in services}
        return cls(
            {**{it: len(it.log()) for it in services}, **{it: len(_read(it)) for it in server_logs.values()}},
            metrics,
            {it.name: found[_STARTED] for it, found in metrics.items()},
        )


async def seen(
    deployment: Deployment,
    server_logs: Mapping[str, Path],
    besides: Sequence[tuple[str, str]],
    before: Before,
    signs: Iterable[Sign],
) -> list[Sign]:
    """The signs that have appeared. Asks the metrics of running services.

    `besides`: names and logs of other processes of the scenario.
    """
    now = {name: await service.metrics() for name, service in deployment.services.items()}
    processes = (*deployment.former, *deployment.services.values())
    new = [
        *((it.name, it.log()[before.logs.get(it, 0) :]) for it in processes),
        *((name, _read(log)[before.logs.get(log, 0) :]) for name, log in server_logs.items()),
        *besides,
    ]
    return [it for it in signs if _is_seen(deployment, new, before, now, it)]


def _is_seen(
    deployment: Deployment,
    new: Sequence[tuple[str, str]],
    before: Before,
    now: Mapping[str, Mapping[str, float]],
    sign: Sign,
) -> bool:
    if isinstance(sign, Restarts):
        return now[sign.service][_STARTED] > before.started_s[sign.service]
    if isinstance(sign, Counts):
        names = tuple(now) if sign.service == ANY else (sign.service,)
        return any(
            _sum(now[name], sign.sample) > _sum(before.metrics.get(deployment.services[name], {}), sign.sample)
            for name in names
        )
    texts = [text for name, text in new if sign.service in (name, ANY)]
    return any(words in text for text in texts for words in (sign.words, sign.or_words) if words)


def _sum(metrics: Mapping[str, float], sample: str) -> float:
    return sum(value for it, value in metrics.items() if it == sample or it.startswith(sample + "{"))


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""
