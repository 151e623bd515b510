"""TOML files whose tables are pydantic models: a value as TOML writes it, and what is wrong with a file, in words."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

LIMITS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most", "multiple_of": "multiples of"}
PATH_WANTED = "Input should be a path, as text in quotes"


class Section(BaseModel):
    """A table of the settings file; numbers must be numbers, not text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def as_toml(value: Any) -> str:
    """A value as TOML writes it.

    Examples
    --------
    >>> as_toml({"size": (3, 4), "name": "a"})
    '{size = [3, 4], name = "a"}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def table_of(model: type[BaseModel], name: str) -> type[BaseModel]:
    """Model of one of the tables."""
    return model.model_fields[name].annotation  # type: ignore[return-value]


def problems(error: ValidationError, raw: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """A line for each problem: the key, its value as the file has it, what is allowed, and the remedy.

    Parameters
    ----------
    error : pydantic.ValidationError
    raw : mapping
        Tables of the file.
    model : type of BaseModel
        Its fields are the tables, whose fields are the keys.
    """
    lines = []
    for item in error.errors():
        table, key, *_ = [*(str(part) for part in item["loc"]), "", ""]
        where = f"{table}.{key}" if key else table
        if item["type"] == "extra_forbidden":
            lines.append(f"  {where}: unknown key; {_nearest(model, table, key)}")
        elif not where:
            lines.append(f"  {item['msg'].removeprefix('Value error, ')}")
        elif not key:
            lines.append(f"  {where} = {item['input']!r}: it is a table; begin it with a line [{table}]")
        else:
            told = PATH_WANTED if item["type"] == "is_instance_of" else item["msg"]
            lines.append(f"  {where} = {raw[table][key]!r}: {told}{_remedy(table_of(model, table), key)}")
    return lines


def allowed(model: type[BaseModel], key: str) -> str:
    """Range or choices of a key, such as "more than 0.1, less than 200"; empty if it has none."""
    field = model.model_fields[key]
    if get_origin(field.annotation) is Literal:
        return ", ".join(as_toml(choice) for choice in get_args(field.annotation))
    metadata = field.metadata
    found = [(word, getattr(limit, name, None)) for name, word in LIMITS.items() for limit in metadata]
    return ", ".join(f"{word} {limit}" for word, limit in found if limit is not None)


def _remedy(model: type[BaseModel], key: str) -> str:
    field = model.model_fields[key]
    limits, default = allowed(model, key), field.get_default(call_default_factory=True)
    parts = [f"allowed is {limits}"] if limits and field.metadata else []  # choices are told already
    parts += [f"{key} is {field.description}"] if field.description else []
    parts.append(f"without it, {as_toml(default)} is taken" if default is not None else "it can be left out")
    return "; " + "; ".join(parts)


def _nearest(model: type[BaseModel], table: str, key: str) -> str:
    known: Sequence[str] = sorted(table_of(model, table).model_fields if key else model.model_fields)
    near = difflib.get_close_matches(key or table, known, n=1)
    homes = [name for name in model.model_fields if (key or table) in table_of(model, name).model_fields]
    hint = f"it belongs into [{homes[0]}]; " if homes else f"did you mean {near[0]}? " if near else ""
    return f"{hint}known are: {', '.join(known)}"
