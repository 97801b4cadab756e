"""How a fault shows: words in a log, a sample in /metrics. I8 looks for those that were not there before it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.deployment import SERVICES, Deployment
from tests.processes import Service

ANY = ""
"""In place of a service: whichever had to do with it."""


@dataclass(frozen=True)
class Says:
    """A service has these words in its log, or those, where it depends on what it was at when the fault came."""

    service: str
    words: str
    or_words: str | None = None


@dataclass(frozen=True)
class Counts:
    """A sample of a service's metrics has grown."""

    service: str
    sample: str


Sign = Says | Counts


@dataclass
class Before:
    """What logs and metrics held before the fault. A process that is new began with nothing."""

    logs: dict[Service, int] = field(default_factory=dict)
    """Their length."""
    metrics: dict[Service, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    async def of(cls, deployment: Deployment) -> "Before":
        services = deployment.services.values()
        return cls({it: len(it.log()) for it in services}, {it: await it.metrics() for it in services})


async def seen(deployment: Deployment, before: Before, signs: Iterable[Sign]) -> list[Sign]:
    """Those of the signs that are there now. Asks the metrics of the services that run."""
    now = {name: await deployment.services[name].metrics() for name in SERVICES}
    return [it for it in signs if _is_seen(deployment, before, now, it)]


def _is_seen(deployment: Deployment, before: Before, now: Mapping[str, Mapping[str, float]], sign: Sign) -> bool:
    if isinstance(sign, Counts):
        earlier = before.metrics.get(deployment.services[sign.service], {})
        return now[sign.service].get(sign.sample, 0) > earlier.get(sign.sample, 0)
    processes = [it for it in (*deployment.former, *deployment.services.values()) if sign.service in (it.name, ANY)]
    either = [words for words in (sign.words, sign.or_words) if words]
    return any(words in it.log()[before.logs.get(it, 0) :] for it in processes for words in either)
