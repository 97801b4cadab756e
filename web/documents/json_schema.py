"""JSON schemas of msgspec types, as the encoders of the services write them.

msgspec describes what its decoders read, with its defaults. The encoders differ in two ways: they write a Decimal as a
number, and leave out a member that has its default (omit_defaults), so clients never see None, nor a member that can be
nothing else. A request, which allows no unknown members, is described as it is read: there null stands for a member
that is left out.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

Schema = dict[str, Any]

REF = "#/components/schemas/{name}"


def schemas_of(types: Sequence[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """A schema for each of the types, and the named ones that they refer to, by name, as `components/schemas`."""
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    for schema in (*schemas, *components.values()):
        _as_written(schema)
    return list(schemas), dict(sorted(components.items()))


def _as_written(schema: Schema) -> None:
    for part in _parts_of(schema):
        if part.get("format") == "decimal":
            del part["format"]
            part["type"] = "number"
        if isinstance(text := part.get("description"), str):  # "description" may also be a member's name
            # Only the first paragraph of a docstring: the rest is for readers of the code.
            part["description"] = inspect.cleandoc(text).partition("\n\n")[0]
        properties = part.get("properties", {})
        is_request = part.get("additionalProperties") is False
        for name in [name for name, member in properties.items() if member.get("type") == "null"]:
            del properties[name]  # never written
        for name, member in properties.items():
            if member.get("default", ...) is None and not is_request:
                properties[name] = _without_null(member)


def _without_null(member: Schema) -> Schema:
    kept = [it for it in member["anyOf"] if it != {"type": "null"}]
    rest = {key: value for key, value in member.items() if key not in ("anyOf", "default")}
    return rest | (kept[0] if len(kept) == 1 else {"anyOf": kept})


def _parts_of(schema: Any) -> Iterator[Schema]:
    """All objects in the schema, parents before children, so that what a parent replaces is visited as replaced."""
    if isinstance(schema, dict):
        yield schema
        for value in list(schema.values()):
            yield from _parts_of(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _parts_of(value)
