"""docs/configuration.md lists every setting with its default, as the settings classes have them."""

import re
from itertools import chain

import pytest
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from ingest_api.settings import IngestSettings
from persist_worker.settings import PersistSettings
from pipeline.process.settings import BrokerSettings
from product_api.settings import ProductSettings
from product_consumer.settings import ConsumerSettings
from stack.home.directory import ROOT

DOCUMENT = ROOT / "docs" / "configuration.md"
PROCESSES: dict[str, type[BaseSettings]] = {
    "ingest_api": IngestSettings,
    "persist_worker": PersistSettings,
    "product_consumer": ConsumerSettings,
    "product_api": ProductSettings,
}
HEAD = "| variable | default |\n|---|---|\n"
UNITS = {"_S": "s", "_MS": "ms", "_BYTES": "bytes", "_BYTES_PER_CLIENT": "bytes"}


def shared() -> dict[str, FieldInfo]:
    """The settings without a prefix, by variable: each means the same in every process that reads it."""
    fields = chain.from_iterable(it.model_fields.values() for it in PROCESSES.values())
    return {str(it.validation_alias): it for it in fields if it.validation_alias}


def own(settings: type[BaseSettings]) -> dict[str, FieldInfo]:
    """The settings of one process, by variable."""
    prefix = settings.model_config.get("env_prefix", "")
    fields = settings.model_fields.items()
    return {f"{prefix}{name}".upper(): it for name, it in fields if not it.validation_alias}


def table(fields: dict[str, FieldInfo]) -> str:
    rows = (f"| `{name}` | {default_of(name, fields[name])} |\n" for name in sorted(fields))
    return HEAD + "".join(rows)


def default_of(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == "":
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{value}`"
    is_number_in_name = name.endswith(("PORT", "STATUS"))
    number = str(value) if is_number_in_name else f"{value:,}".removesuffix(".0")
    unit = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")
    return f"{number} {unit}".rstrip()


@pytest.mark.parametrize("name", ["shared", *PROCESSES])
def test_every_setting_is_listed_with_its_default(name: str) -> None:
    expected = table(shared() if name == "shared" else own(PROCESSES[name]))
    (found,) = re.findall(
        rf"^<!-- settings:{name} -->\n\n(.*?)\n<!-- /settings -->$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found == expected


def test_every_process_reads_the_broker_settings_under_its_own_prefix() -> None:
    names = {name for name, it in BrokerSettings.model_fields.items() if not it.validation_alias}
    for process, settings in PROCESSES.items():
        assert {f"{process}_{name}".upper() for name in names} <= set(own(settings))
