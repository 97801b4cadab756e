"""docs/operate/idempotency.md says how much memory Redis needs: with the figures of the code."""

import re

from ingest_api.settings import IngestSettings
from stack.home.directory import ROOT
from stack.servers.redis_server import CACHE_CONFIGURATION

_TEXT = (ROOT / "docs/operate/idempotency.md").read_text()
SIZING = _TEXT[_TEXT.index("**How much memory Redis needs.**") : _TEXT.index("**A client's share**")]
KEY_BYTES = 400
ROOM = 16e6


def test_the_figures_are_those_of_the_code() -> None:
    fields = IngestSettings.model_fields
    share = fields["idempotency_max_bytes_per_client"].default
    remember_s = fields["idempotency_remember_s"].default
    (mib,) = re.findall(r"^maxmemory (\d+)mb$", CACHE_CONFIGURATION, re.MULTILINE)
    has = int(mib) * 2**20
    assert f"its share, {share // 2**20} MiB" in SIZING
    assert f"Redis has {mib} MB: room for {int((has - ROOM) // share)} clients" in SIZING
    assert f"that send {int((has - ROOM) // (KEY_BYTES * remember_s))} keyed orders a second together" in SIZING
    assert f"Five at their full share, {5 * share // 2**20} MiB, fill it" in SIZING
    assert 5 * share > has
    assert f"takes {KEY_BYTES * 3600 / 1e6:.1f} MB for each keyed order a second" in SIZING
