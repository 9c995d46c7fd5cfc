"""The schema of OCSF that events are held against: class, profile and version as the event itself names them.

Source: the schema files of the OCSF project (Apache-2.0), as they come in the package `ocsf-json-schema`, which makes a JSON Schema of
them: required and recommended attributes, types, enumerations and constraints of the class and of every object in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema


@cache
def validator(version: str, class_uid: int, profiles: tuple[str, ...]) -> Draft202012Validator:
    """Returns what checks events of a class."""
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version))
    schema = schemas.get_class_schema(schemas.lookup_class_name_from_uid(class_uid), list(profiles))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def wrong(event: Mapping[str, Any]) -> list[str]:  # Any: JSON
    """Says what of an event is not as its class has it."""
    metadata = event["metadata"]
    checking = validator(metadata["version"], event["class_uid"], tuple(metadata["profiles"]))
    return sorted(
        f"{'.'.join(map(str, error.absolute_path)) or 'event'}: {error.message}"
        for error in checking.iter_errors(event)
    )
