"""A short run of the fuzzer on each decode path. `HEADRACE_FUZZ_RUNS=100000000` is for a night.

Always from the same seed: a failure is everyone's failure.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.seeds import SEEDS, write_dictionary, write_seeds

_ROOT = Path(__file__).parents[2]
_RUNS = int(os.environ.get("HEADRACE_FUZZ_RUNS", "30000"))

pytestmark = [
    pytest.mark.timeout(0 if "HEADRACE_FUZZ_RUNS" in os.environ else 300),
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() != "x86_64",
        reason="atheris has compiled parts, and wheels for Linux on x86_64 alone",
    ),
]


def fuzz(target: str, directory: Path, runs: int) -> subprocess.CompletedProcess[str]:
    """Runs until something is found, or `runs` are over. `directory`: an empty one, for the corpus."""
    write_seeds(target, directory / "corpus")
    write_dictionary(directory / "words")
    options = [f"-runs={runs}", "-seed=1", "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"]
    return subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.decoders", target, str(directory / "corpus"), *options),
            *(f"-dict={directory / 'words'}", f"-artifact_prefix={directory}/"),
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("target", sorted(SEEDS.keys() - {"planted"}))
def test_no_bytes_get_anything_out_of_a_decoder_but_what_is_in_them_or_a_refusal(target: str, tmp_path: Path) -> None:
    done = fuzz(target, tmp_path, _RUNS)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {_RUNS} runs" in done.stderr
    assert "taken: b" in done.stderr, "nothing got past the first look"


def test_a_fault_that_is_planted_is_found(tmp_path: Path) -> None:
    done = fuzz("planted", tmp_path, _RUNS)
    assert done.returncode != 0
    assert "AssertionError" in done.stdout + done.stderr
