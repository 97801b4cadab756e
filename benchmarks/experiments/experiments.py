"""The experiments, most important first. Each is a list of steps; steps to compare are neighbours in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.contenders import CONTENDERS as OTHERS
from benchmarks.contenders import SYNC_TUNED, headrace
from benchmarks.contenders.contender import Contender
from benchmarks.experiments.ablations import ABLATIONS, ablated
from benchmarks.experiments.limits import LIMITS, Limit
from benchmarks.experiments.steps import AROUND_S, under_loads
from benchmarks.experiments.stored import backlog, growth, soak
from benchmarks.generators import k6
from benchmarks.generators.generators import Load
from benchmarks.report.results import GENERATORS, KNEE, OPEN_LOOP, SATURATION, Run
from benchmarks.run.measure import Place
from benchmarks.run.plan import Report, Scale, Step
from benchmarks.run.servers import PRODUCTS, Servers

CONTENDERS = (*headrace.CONTENDERS, *OTHERS, headrace.NOOP)
BULK_CONNECTIONS = 8
RATES = (250, 500, 1_000, 2_000, 4_000, 8_000)
# Past one of these bounds lies the knee. A disturbed run says nothing about it.
KNEE_P99_MS = 1_000.0
KNEE_ERRORS = 0.01

Experiment = Callable[[Scale], list[Step]]


def at_limit(limit: Limit, pair: int, seconds: float) -> Step:
    """One of the limits, which are no contenders: see limits."""

    async def run(servers: Servers, report: Report) -> None:
        report(await limit.measure(servers, pair, seconds))

    return Step(Place(limit.experiment, pair), limit.contender, limit.load, seconds + AROUND_S, run)


def pairs(scale: Scale) -> range:
    return range(1, scale.pairs + 1)


def is_past_knee(run: Run) -> bool:
    """Whether the contender no longer keeps up with the rate."""
    late = run.latency_ms.p99 is None or run.latency_ms.p99 > KNEE_P99_MS
    return (
        run.void is not None or run.failed is not None or late or run.errors > KNEE_ERRORS * (run.accepted + run.errors)
    )


def saturation(scale: Scale) -> list[Step]:
    """All contenders with 256 connections; the first pairs with 64 as well."""
    taking_part = [it for it in CONTENDERS if it.stores and it.request != "bulk" and it.name not in scale.left_out]
    return [_saturated(scale, contender, pair) for pair in pairs(scale) for contender in taking_part]


def _saturated(scale: Scale, contender: Contender, pair: int) -> Step:
    loads = [(Load(scale.load_s, 256), ""), *[(Load(scale.load_s / 2, 64), "")] * (pair <= scale.few_pairs)]
    return under_loads(SATURATION, contender, pair, loads, warm_up_s=scale.warm_up_s)


def single(scale: Scale) -> list[Step]:
    """One connection, one order at a time, beside one bare confirmed publish of the same bytes at a time."""
    load_s = scale.other_s / 2
    steps = []
    for pair in pairs(scale):
        steps.append(at_limit(LIMITS["bare-publish"], pair, load_s))
        steps.append(under_loads("single", headrace.HEADRACE, pair, [(Load(load_s, 1), "")], warm_up_s=1))
    return steps


def open_loop(scale: Scale) -> list[Step]:
    """1,000 orders/s that arrive at random."""
    load = Load(scale.open_loop_s, rate=1_000)
    return [
        under_loads(OPEN_LOOP, headrace.HEADRACE, pair, [(load, "")], warm_up_s=scale.warm_up_s)
        for pair in open_pairs(scale)
    ]


def knee(scale: Scale) -> list[Step]:
    """Growing rates until latency or errors pass a bound."""
    return _knee(scale, (headrace.HEADRACE, SYNC_TUNED))


def _knee(scale: Scale, contenders: Sequence[Contender]) -> list[Step]:
    loads = [(Load(scale.knee_s, rate=rate), "") for rate in RATES]
    return [
        under_loads(KNEE, contender, pair, loads, warm_up_s=scale.warm_up_s, until=is_past_knee)
        for pair in open_pairs(scale)
        # The others once: they show where their knee is, and no figure is quoted of them.
        for contender in contenders[: 1 if pair > 1 else None]
    ]


def open_pairs(scale: Scale) -> range:
    """The runs of an open loop: several, because one may meet a bad moment."""
    return range(1, scale.open_pairs + 1)


def generators(scale: Scale) -> list[Step]:
    """Our open-loop generator and k6, on an endpoint that does nothing, so that only the generators differ."""
    loads = [(Load(scale.knee_s, rate=1_000, by_k6=by_k6), k6.NAME if by_k6 else "ours") for by_k6 in (False, True)]
    return [
        under_loads(GENERATORS, headrace.NOOP, pair, loads if pair % 2 else loads[::-1], warm_up_s=1)
        for pair in open_pairs(scale)
    ]


def latency(scale: Scale) -> list[Step]:
    """All open loops of Headrace alone, and the generators beside each other: what a client waits, in eight minutes."""
    return [*open_loop(scale), *_knee(scale, (headrace.HEADRACE,)), *generators(scale)]


def ingest(scale: Scale) -> list[Step]:
    """ingest_api without its workers, beside an endpoint that does nothing."""
    load = [(Load(scale.other_s, 256), "")]
    late = (headrace.PERSIST, headrace.CONSUMER)
    steps = []
    for pair in pairs(scale):
        steps.append(under_loads("ingest", headrace.NOOP, pair, load, warm_up_s=1))
        steps.append(under_loads("ingest", headrace.ALONE, pair, load, warm_up_s=1, late=late))
    return steps


def limits(scale: Scale) -> list[Step]:
    """Each part alone: publishing without HTTP, COPY without a pipeline."""
    names = ("amqp-publish", "psql-copy")
    return [at_limit(LIMITS[name], pair, scale.other_s / 2) for pair in pairs(scale) for name in names]


def bulk(scale: Scale) -> list[Step]:
    """500 orders a request."""
    load = [(Load(scale.other_s, BULK_CONNECTIONS), "")]
    return [under_loads("bulk", headrace.BULK, pair, load, warm_up_s=1) for pair in pairs(scale)]


def hot_product(scale: Scale) -> list[Step]:
    """All orders on one product, beside orders for 10,000; each comes first every other time."""
    hot = (Load(scale.other_s, 256, products=1), "1 product")
    spread = (Load(scale.other_s, 256, products=PRODUCTS), f"{PRODUCTS:,} products")
    orders = {pair: [hot, spread] if pair % 2 else [spread, hot] for pair in pairs(scale)}
    return [
        under_loads("hot_product", headrace.HEADRACE, pair, loads, warm_up_s=scale.warm_up_s)
        for pair, loads in orders.items()
    ]


def ablations(scale: Scale) -> list[Step]:
    """Headrace as it is, then with one feature removed or added, each in turn."""
    load = Load(scale.ablation_s, 256)
    return [
        under_loads("ablations", contender, pair, [(load, variant)], warm_up_s=1)
        for pair in range(1, scale.ablation_pairs + 1)
        for variant, contender in [("as it is", headrace.HEADRACE), *((it.title, ablated(it)) for it in ABLATIONS)]
    ]


def by_itself(contender: Contender, scale: Scale) -> list[Step]:
    """One contender, under the load that the verdict speaks of."""
    if contender.request == "bulk":
        return bulk(scale)
    return [_saturated(scale, contender, pair) for pair in pairs(scale)]


EXPERIMENTS: dict[str, Experiment] = {
    SATURATION: saturation,
    "single": single,
    OPEN_LOOP: open_loop,
    "ingest": ingest,
    "bulk": bulk,
    "hot_product": hot_product,
    "limits": limits,
    KNEE: knee,
    "growth": growth,
    "backlog": backlog,
    "ablations": ablations,
    GENERATORS: generators,
    "soak": soak,
}
# Ten minutes of the same, and a check of the tools: only when asked for by name.
ONLY_BY_NAME = (GENERATORS, "soak")
# Several experiments under one name, for --only.
GROUPS: dict[str, Experiment] = {"latency": latency}
# What a quick run has time for.
IN_QUICK = (SATURATION, "single", "open_loop", "ingest", "bulk", "hot_product")
