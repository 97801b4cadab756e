"""The reference of problems and of the reasons for which an order fails."""

from itertools import groupby

from pipeline.contract.reasons import table_rows
from web.problems.kinds import KINDS, TYPES, Kind

_PROBLEMS = f"""\
# Problems

Every error is `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)). `type` is
`{TYPES}/NAME`, with a name of this page. A name, once answered, keeps its meaning. Both APIs serve the same text at
that path.
"""
_REASONS = """\
# Reasons

Why an order is `FAILED`. A verdict is final. A [dead letter](../operate/dead-letters.md) is not: until an operator
discards it, a replay may still make the order `PROCESSED`.
"""


def problems() -> str:
    parts = [_PROBLEMS]
    for status, kinds in groupby(sorted(KINDS.values(), key=lambda it: it.status), key=lambda it: it.status):
        parts += [f"## {status}\n", *map(_section, kinds)]
    return "\n".join(parts)


def _section(kind: Kind) -> str:
    return f"### {kind.name}\n\n**{kind.title}.** {kind.meaning}\n\nWhat to do: {kind.remedy}\n"


def reasons() -> str:
    head = "| reason | meaning |\n|---|---|\n"
    verdicts, letters = ("\n".join(table_rows(verdicts=it)) for it in (True, False))
    return f"{_REASONS}\n## Verdicts\n\n{head}{verdicts}\n\n## Dead letters\n\n{head}{letters}\n"
