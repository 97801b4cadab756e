"""python -m tests.bench.tiny DIRECTORY CONTENDER PAIRS: a benchmark of seconds, on real servers and with real tools.

CONTENDER: one of the benchmarks', or `forgetful`, which loses orders. The same program in all else.
"""

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from benchmarks.__main__ import begin, run
from benchmarks.contenders import SYNC_STATEMENT
from benchmarks.contenders.contender import Contender, Part
from benchmarks.experiments.experiments import CONTENDERS
from benchmarks.experiments.steps import under_loads
from benchmarks.generators.generators import Load
from benchmarks.run.plan import Step

_LOADS = [(Load(0.5, 16, products=10), ""), (Load(1, rate=100, products=10), "")]
_APP = Part("api", "uvicorn", ("tests.bench.forgetful:app", "--no-access-log"), port_variable="UVICORN_PORT")
FORGETFUL = replace(SYNC_STATEMENT, name="forgetful", title="a contender that forgets", parts=(_APP,), peer=False)


def contender_of(name: str) -> Contender:
    return next(it for it in (*CONTENDERS, FORGETFUL) if it.name == name)


def steps_for(contender: Contender, pairs: int) -> list[Step]:
    return [under_loads("saturation", contender, pair, _LOADS, warm_up_s=0.2) for pair in range(1, pairs + 1)]


if __name__ == "__main__":
    directory, name, pairs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    arguments = Namespace(quick=True, only=name, results=directory)
    sys.exit(run(begin(arguments, [], None), steps_for(contender_of(name), pairs), as_json=True))
