"""References and metadata that break a careless writer or reader, and how to compare them wherever an order is."""

from collections.abc import Iterable, Mapping
from typing import Any

from tests.support.data.texts import TEXTS, nasty_texts


def nasty_details(count: int, seed: int = 17) -> list[dict[str, Any]]:
    """`reference` and `metadata` of as many orders: the known texts first, then random ones. Some orders lack one."""
    texts = nasty_texts(3 * count, seed)
    details: list[dict[str, Any]] = [
        *({"reference": it[:64], "metadata": {it[:64]: it, "empty": ""}} for it in TEXTS.values() if it),
        *({"reference": next(texts), "metadata": {next(texts): next(texts)}} for _ in range(count)),
    ]
    for place, missing in enumerate(("reference", "metadata")):
        for it in details[place::7]:
            del it[missing]
    return details[:count]


def details_in(orders: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By id, the reference and the metadata that each of the decoded orders has."""
    return {it["id"]: {name: it[name] for name in ("reference", "metadata") if name in it} for it in orders}
