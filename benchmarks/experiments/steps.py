"""The step that most experiments consist of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.contenders.contender import Contender, Part
from benchmarks.generators.generators import Load
from benchmarks.report.results import Run
from benchmarks.run.deployment import deployed
from benchmarks.run.measure import Place, measure
from benchmarks.run.plan import Report, Step
from benchmarks.run.servers import Servers

# To start a contender, stop it, and drop what it had.
AROUND_S = 2.5
# What is not in any cache yet is filled about so fast.
COLD_PER_S = 1_000
# What a load costs besides its seconds: the generator's start and grace, the drain, the audit.
BESIDE_LOAD_S = 2.5


def under_loads(
    experiment: str,
    contender: Contender,
    pair: int,
    loads: Sequence[tuple[Load, str]],
    *,
    warm_up_s: float,
    late: tuple[Part, ...] = (),
    until: Callable[[Run], bool] = lambda _: False,
) -> Step:
    """Put one deployment under several loads, each with its variant, until a run says to stop."""

    async def run(servers: Servers, report: Report) -> None:
        async with deployed(contender, servers) as deployment:
            warm_products = 0
            for load, variant in loads:
                warm_s = warm_up_s if load.products > warm_products else 0.0
                warm_products = max(warm_products, load.products)
                done = await measure(deployment, Place(experiment, pair, variant), load, warm_up_s=warm_s, late=late)
                report(done)
                if until(done):
                    return

    first, variant = loads[0]
    cold_s = max(load.products for load, _ in loads) / COLD_PER_S
    seconds = AROUND_S + warm_up_s + cold_s + sum(load.seconds + BESIDE_LOAD_S for load, _ in loads)
    return Step(Place(experiment, pair, variant), contender, first.name, seconds, run)
