"""Validates values against the schemas in our OpenAPI and AsyncAPI documents."""

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import msgspec


def as_sent(document: Mapping[str, Any]) -> Any:
    """The document as it is served."""
    return json.loads(msgspec.json.encode(document))


def check(value: Any, schema: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Validate `value` against a schema of `document`. Raises jsonschema.ValidationError."""
    whole = {**schema, "components": document["components"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(whole, format_checker=checker).validate(value)


def is_valid(value: Any, schema: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    try:
        check(value, schema, document)
    except jsonschema.ValidationError:
        return False
    return True
