"""The reference of all settings: variable, default with unit, and the comment in the code that gives the reason."""

import ast
import inspect
import textwrap
from itertools import chain

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from docs.generate import links
from docs.generate.table import table
from ingest_api.settings import IngestSettings
from persist_worker.settings import PersistSettings
from product_api.settings import ProductSettings
from product_consumer.settings import ConsumerSettings
from stack.home.directory import ROOT

PROCESSES: dict[str, type[BaseSettings]] = {
    "ingest_api": IngestSettings,
    "persist_worker": PersistSettings,
    "product_consumer": ConsumerSettings,
    "product_api": ProductSettings,
}
_UNITS = {"_S": "s", "_MS": "ms", "_BYTES": "bytes", "_BYTES_PER_CLIENT": "bytes"}
_HEAD = """\
# Settings

A setting is an environment variable. [Configure](../operate/settings.md) says where to set it, and what a wrong one
does. Names without the prefix of a process mean the same in every process that reads them.
"""


def page() -> str:
    parts = [_HEAD, "## All processes\n", _table(shared())]
    for name, settings in PROCESSES.items():
        parts += [f"## {name}\n", _table(own(settings))]
    return "\n".join(parts)


def shared() -> dict[str, tuple[FieldInfo, str]]:
    """The settings without a prefix: variable → field and reason."""
    fields = chain.from_iterable(_fields(it).items() for it in PROCESSES.values())
    return {str(field.validation_alias): (field, why) for _, (field, why) in fields if field.validation_alias}


def own(settings: type[BaseSettings]) -> dict[str, tuple[FieldInfo, str]]:
    """The settings of one process: variable → field and reason."""
    prefix = settings.model_config.get("env_prefix", "")
    fields = _fields(settings).items()
    return {f"{prefix}{name}".upper(): (field, why) for name, (field, why) in fields if not field.validation_alias}


def default_of(variable: str, field: FieldInfo) -> str:
    """The default as a person reads it: `65,536 bytes`, `not set`, `required`."""
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == "":
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{value}`"
    is_number_in_name = variable.endswith(("PORT", "STATUS"))
    number = str(value) if is_number_in_name else f"{value:,}".removesuffix(".0")
    unit = next((unit for ending, unit in _UNITS.items() if variable.endswith(ending)), "")
    return f"{number} {unit}".rstrip()


def _table(fields: dict[str, tuple[FieldInfo, str]]) -> str:
    rows = (
        (f"`{name}`", default_of(name, field), links.of_names(why, ROOT))
        for name, (field, why) in sorted(fields.items())
    )
    return table(("variable", "default", "why"), rows)


def _fields(settings: type[BaseSettings]) -> dict[str, tuple[FieldInfo, str]]:
    """Name → field and reason. A process that only sets another number keeps the reason of the shared class."""
    reasons: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        if issubclass(cls, BaseSettings) and cls is not BaseSettings:
            reasons |= reasons_in(textwrap.dedent(inspect.getsource(cls)))
    return {name: (field, reasons.get(name, "")) for name, field in settings.model_fields.items()}


def reasons_in(source: str) -> dict[str, str]:
    """Field → the comment above it, of the source of a class. Fields right below share it."""
    lines = source.splitlines()
    (cls,) = ast.parse(source).body
    assert isinstance(cls, ast.ClassDef)
    found: dict[str, str] = {}
    before, end = "", 0
    for it in cls.body:
        comment = _comment_above(lines, it.lineno)
        is_next_to_last = it.lineno == end + 1
        before = comment or (before if is_next_to_last else "")
        end = it.end_lineno or it.lineno
        if isinstance(it, ast.AnnAssign) and isinstance(it.target, ast.Name) and before:
            found[it.target.id] = before
    return found


def _comment_above(lines: list[str], lineno: int) -> str:
    """The comment that ends on the line before `lineno`, which counts from 1; empty when there is none."""
    first = lineno - 1
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(line.strip().lstrip("#").strip() for line in lines[first : lineno - 1])
