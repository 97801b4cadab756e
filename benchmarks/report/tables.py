"""Tables of the results, as data, and as Markdown. Pure.

A run that is void or failed is in no figure, and always in the column that says how many runs there were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.report import goals, results
from benchmarks.report.number_format import NOTHING, low_to_high, ms, number, percent, times
from benchmarks.report.results import FEWER, SATURATED, SATURATION, Results, Run, accepted, end_to_end, select, spread

# Parts of all contenders, under the names of what they do. Whatever is not here is a worker.
COLUMNS = {
    "API": ("ingest_api", "api"),
    "RabbitMQ": ("rabbitmq",),
    "worker": ("persist_worker", "worker"),
    "stock worker": ("product_consumer",),
    "PostgreSQL": ("postgres",),
    "Redis": ("redis",),
}
AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Table:
    """`words`: the columns that hold words; the others hold figures and are set to the right."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: tuple[int, ...] = (0,)
    below: str = ""
    """A sentence that belongs under it."""


def markdown(table: Table) -> str:
    rule = "|".join("---" if place in table.words else "--:" for place in range(len(table.head)))
    lines = [_line(table.head), f"|{rule}|", *map(_line, table.rows)]
    return "\n".join([*lines, *(["", table.below] if table.below else [])])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def median(values: Iterable[float | None]) -> float | None:
    found = spread(it for it in values if it is not None)
    return found.median if found else None


def cpu_us(run: Run) -> float:
    """Of all parts, the generator left out."""
    return sum(us for part, us in run.cpu_us_per_order.items() if part != "generator")


def by_column(runs: Sequence[Run]) -> dict[str, float]:
    """CPU µs an order, the median of each part, under the names of COLUMNS."""
    found = results.median_by_part(runs)
    return {column: sum(found.get(part, 0.0) for part in parts) for column, parts in COLUMNS.items()}


def remarks(runs: Sequence[Run]) -> str:
    """How many runs there were, those that do not count included, and what is to be known of them."""
    return f"{len(runs)} ({found})" if (found := flaws(runs)) else str(len(runs))


def flaws(runs: Sequence[Run]) -> str:
    """Empty when there are none."""
    counted = [run for run in runs if run.counts]
    kinds = {
        "VOID": sum(run.void is not None or run.disturbed is not None for run in runs),
        "FAILED": sum(run.failed is not None for run in runs),
        "GENERATOR-BOUND": sum(run.generator_bound for run in counted),
    }
    errors = sum(run.errors for run in counted)
    return ", ".join(
        [*(f"{count} {kind}" for kind, count in kinds.items() if count), *[f"{errors:,} errors"] * bool(errors)]
    )


def title_of(found: Results, name: str) -> str:
    return next((it.title for it in found.contenders if it.name == name), name)


def guarantee_of(found: Results, name: str) -> str:
    return next((it.guarantee for it in found.contenders if it.name == name), "")


def of(found: Results, experiment: str, **wanted: str) -> list[Run]:
    """All runs, also those that do not count."""
    runs = [run for run in found.runs if run.experiment == experiment]
    return [run for run in runs if all(getattr(run, name) == value for name, value in wanted.items())]


def names_of(runs: Iterable[Run], field: str) -> list[str]:
    """In the order in which they were measured."""
    return list(dict.fromkeys(getattr(run, field) for run in runs))


def by_rate(found: Results, load: str = SATURATED) -> list[str]:
    """The contenders of the comparison, those that sustain most first; those without any valid run last."""
    runs = of(found, SATURATION, load=load)
    rates = {name: _rate(found, name, load) for name in names_of(runs, "contender")}
    return sorted(rates, key=lambda name: -rates[name])


def _rate(found: Results, name: str, load: str) -> float:
    return results.median_of(select(found.runs, SATURATION, name, load), end_to_end) or 0.0


# ── tables; None where nothing was measured


def summary(found: Results) -> Table | None:
    """The comparison for those who have no time: no more than fits."""
    rows = []
    for name in by_rate(found):
        counted = select(found.runs, SATURATION, name, SATURATED)
        rate = spread(map(end_to_end, counted))
        ratio = _ratio(found, name, SATURATED)
        cells = number(rate.median if rate else None), low_to_high(rate), ratio, number(median(map(cpu_us, counted)))
        p99, runs = median(run.latency_ms.p99 for run in counted), of(found, SATURATION, contender=name, load=SATURATED)
        rows.append((_bold(found, name), *cells, ms(p99), remarks(runs)))
    head = ("", "orders/s, end to end", "lowest to highest", "Headrace ÷ this", "CPU µs/order", "p99 ms", "runs")
    return Table(head, rows, words=(0, 6)) if rows else None


def comparison(found: Results, load: str = SATURATED) -> Table | None:
    rows = []
    for name in by_rate(found, load):
        counted = select(found.runs, SATURATION, name, load)
        rate = spread(map(end_to_end, counted))
        p50, p99 = (median(getattr(run.latency_ms, it) for run in counted) for it in ("p50", "p99"))
        decided, drain = median(run.decided_ms.p99 for run in counted), median(run.drain_s for run in counted)
        rows.append(
            (
                *(_bold(found, name), number(rate.median if rate else None), low_to_high(rate)),
                *(_ratio(found, name, load), number(median(map(cpu_us, counted))), ms(p50), ms(p99)),
                *(ms(decided), number(drain, 1), remarks(of(found, SATURATION, contender=name, load=load))),
                guarantee_of(found, name),
            )
        )
    figures = (
        "orders/s",
        "lowest to highest",
        "Headrace ÷ this",
        "CPU µs",
        "p50 ms",
        "p99 ms",
        "decided p99 ms",
        "drain s",
    )
    return Table(("", *figures, "runs", "what its 2xx guarantees"), rows, words=(0, 9, 10)) if rows else None


def _ratio(found: Results, name: str, load: str) -> str:
    """How many times as fast Headrace is, the median of the pairs."""
    ours, theirs = (select(found.runs, SATURATION, it, load) for it in ("headrace", name))
    return NOTHING if name == "headrace" else times(results.median_ratio(ours, theirs, end_to_end))


def _bold(found: Results, name: str) -> str:
    title = title_of(found, name)
    return f"**{title}**" if name == "headrace" else title


def fewer_connections(found: Results) -> Table | None:
    return comparison(found, FEWER)


def cpu(found: Results) -> Table | None:
    """By part; the columns of a contender add up."""
    rows = []
    for name in sorted(by_rate(found), key=lambda it: _together(found, it)):
        counted = select(found.runs, SATURATION, name, SATURATED)
        if counted:
            parts = by_column(counted)
            generator = median(run.cpu_us_per_order.get("generator") for run in counted)
            cells = [number(us) if us else NOTHING for us in parts.values()]
            rows.append((_bold(found, name), *cells, number(sum(parts.values())), number(generator)))
    return Table(("", *COLUMNS, "together", "generator"), rows) if rows else None


def _together(found: Results, name: str) -> float:
    return sum(by_column(select(found.runs, SATURATION, name, SATURATED)).values())


def goals_table(found: Sequence[Results]) -> Table:
    rows = []
    for judged in goals.judge(found):
        met = {True: "met", False: "**missed**", None: NOTHING}[judged.met]
        rows.append((judged.goal.words, judged.goal.bound_words, judged.value_words, met))
    below = "From a quick run, whose loads are shorter than the goals say." if found and found[0].quick else ""
    return Table(("goal", "bound", "measured", ""), rows, words=(0, 3), below=below)


def ablations(found: Results) -> Table | None:
    whole = select(found.runs, "ablations", variant=AS_IT_IS)
    rows = []
    for variant in names_of(of(found, "ablations"), "variant"):
        counted, runs = select(found.runs, "ablations", variant=variant), of(found, "ablations", variant=variant)
        rate, against = spread(map(end_to_end, counted)), results.median_ratio(counted, whole, end_to_end)
        loses = guarantee_of(found, variant)
        figures = number(rate.median if rate else None), low_to_high(rate), percent(against)
        more = number(median(map(cpu_us, counted))), ms(median(run.latency_ms.p99 for run in counted))
        rows.append((variant, *figures, *more, remarks(runs), loses or "none"))
    head = ("Headrace", "orders/s", "lowest to highest", "of it as it is", "CPU µs", "p99 ms", "runs", "promise lost")
    return Table(head, rows, words=(0, 6, 7)) if rows else None


def growth(found: Results) -> Table | None:
    return _by_variant(found, "growth", "stored before", "of the first")


def hot_product(found: Results) -> Table | None:
    return _by_variant(found, "hot_product", "orders spread over", "of the widest", first=goals.SPREAD)


def _by_variant(found: Results, experiment: str, what: str, against: str, first: str | None = None) -> Table | None:
    variants = names_of(of(found, experiment), "variant")
    rows = []
    for variant in variants:
        counted, base = (select(found.runs, experiment, variant=it) for it in (variant, first or variants[0]))
        rate, ratio = spread(map(end_to_end, counted)), results.median_ratio(counted, base, end_to_end)
        database = median(run.cpu_us_per_order.get("postgres") for run in counted)
        figures = number(rate.median if rate else None), low_to_high(rate), percent(ratio)
        more = number(median(map(cpu_us, counted))), number(database), ms(median(run.latency_ms.p99 for run in counted))
        rows.append((variant, *figures, *more, remarks(of(found, experiment, variant=variant))))
    head = (what, "orders/s", "lowest to highest", against, "CPU µs", "PostgreSQL µs", "p99 ms", "runs")
    return Table(head, rows, words=(0, 7)) if rows else None


def backlog(found: Results) -> Table | None:
    rows = []
    for variant in names_of(of(found, "backlog"), "variant"):
        runs, counted = of(found, "backlog", variant=variant), select(found.runs, "backlog", variant=variant)
        took = median(run.seconds + run.drain_s for run in counted)
        memory = [median(run.rss_mb.get(part) for run in counted) for part in goals.OURS[1:]]
        rate, cost = median(map(end_to_end, counted)), median(map(cpu_us, counted))
        rows.append(
            (
                f"{runs[0].load}, {variant}",
                number(rate),
                number(took, 1),
                number(cost),
                *map(number, memory),
                remarks(runs),
            )
        )
    memories = ("persist_worker MB, all", "product_consumer MB")
    head = ("", "orders/s, stored and decided", "drained in s", "CPU µs", *memories, "runs")
    return Table(head, rows, words=(0, 6)) if rows else None


def limits(found: Results) -> Table | None:
    """Each part beside what is left of its work when all else is taken away."""
    alone = select(found.runs, "ingest", "headrace-ingest")
    rows = [
        _share(found, "ingest_api alone", alone, select(found.runs, "ingest", "noop")),
        _share(found, "ingest_api alone", alone, select(found.runs, "limits", "amqp-publish")),
        _share(found, "the whole pipeline", _sustained(found), select(found.runs, "limits", "psql-copy")),
        _share(found, "the whole pipeline, bulk", _bulk(found), select(found.runs, "limits", "psql-copy")),
    ]
    measured = [row for row in rows if row]
    head = ("part", "orders/s", "its limit", "orders/s", "share")
    return Table(head, measured, words=(0, 2)) if measured else None


def _sustained(found: Results) -> list[Run]:
    return select(found.runs, SATURATION, "headrace", SATURATED)


def _bulk(found: Results) -> list[Run]:
    return select(found.runs, "bulk", "headrace-bulk")


def _share(found: Results, part: str, these: Sequence[Run], limit: Sequence[Run]) -> tuple[str, ...] | None:
    figure = accepted if these and these[0].experiment == "ingest" else end_to_end
    rate, most = results.median_of(these, figure), results.median_of(limit, accepted)
    if rate is None or not most:
        return None
    return part, number(rate), title_of(found, limit[0].contender), number(most), percent(rate / most)
