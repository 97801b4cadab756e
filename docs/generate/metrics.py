"""The reference of all metrics: name, type, labels and help of what `pipeline/process/metrics.py` registers."""

import inspect
import re
from collections.abc import Iterator

from prometheus_client.registry import Collector

from docs.generate.table import table
from pipeline.process import metrics

_HEAD = """\
# Metrics

Every process serves its metrics at `/metrics` of its [health listener](../operate/probes.md), for Prometheus.
A process reports only what it counts. Besides these, each has Python's own `process_*` and `python_*`.

`./headrace up --docker --profile observe` has a dashboard of them, and [alerts](../operate/alerts.md).
"""
_HEADING = re.compile(r"^# ── (.*)$")
_NAME = re.compile(r"^([A-Z_]+) = \w")


def page() -> str:
    parts = [_HEAD]
    for group, collectors in groups().items():
        rows = (row for it in collectors for row in _rows(it))
        title = group if "_" in group.partition(" ")[0] else group[0].upper() + group[1:]
        parts += [f"## {title}\n", table(("metric", "type", "labels", "what it is"), rows)]
    return "\n".join(parts)


def groups() -> dict[str, list[Collector]]:
    """Heading in the registry's source → the metrics below it, in its order."""
    found: dict[str, list[Collector]] = {}
    heading = ""
    for line in inspect.getsource(metrics).splitlines():
        if match := _HEADING.match(line):
            heading = match[1]
        elif heading and (match := _NAME.match(line)):
            found.setdefault(heading, []).append(vars(metrics)[match[1]])
    return found


def _rows(collector: Collector) -> Iterator[tuple[str, ...]]:
    labels = getattr(collector, "_labelnames", None) or filter(None, [getattr(collector, "_label", "")])
    for family in collector.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield f"`{name}`", family.type, ", ".join(f"`{it}`" for it in labels), family.documentation
