"""The page of alerts, from the rules of Prometheus."""

import re
from typing import Any

import yaml

from docs.generate import links
from docs.generate.table import table
from stack.home.directory import ROOT

RULES = ROOT / "deploy" / "observe" / "rules.yml"
_HEAD = """\
# Alerts

Prometheus of `--profile observe` has these rules ([rules.yml](../../deploy/observe/rules.yml)). Copy the file to a
Prometheus of your own. Each alert says that somebody should look: at once if its severity is `page`, on the same day if
it is `ticket`. Accepted orders are safe meanwhile, unless the
last column says otherwise.
"""


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def page() -> str:
    rows = (
        (
            f"`{it['alert']}`",
            it["annotations"]["summary"],
            it["labels"]["severity"],
            it.get("for", "at once"),
            remedy_of(it),
        )
        for it in alerts()
    )
    parts = [
        _HEAD,
        table(("alert", "what has happened", "severity", "for", "what to do"), map(_readable, rows)),
        "## Rules\n",
    ]
    parts += [f"**`{it['alert']}`**\n\n```text\n{it['expr']}\n```\n" for it in alerts()]
    return "\n".join(parts)


def remedy_of(alert: dict[str, Any]) -> str:
    (remedy,) = (text for name, text in alert["annotations"].items() if name != "summary")
    return links.of_names(remedy, ROOT)


def _readable(row: tuple[str, ...]) -> tuple[str, ...]:
    """A label's place, such as `{{ $labels.queue }}`, as `queue`."""
    return tuple(re.sub(r"\{\{ \$(?:labels\.)?(\w+) \}\}", r"`\1`", text) for text in row)
