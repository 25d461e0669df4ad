"""Records as they are kept: JSON that gives a date back as a date and a decimal as a decimal."""

import base64
import datetime as dt
import json
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

_READ = {
    "$date": dt.date.fromisoformat,
    "$datetime": dt.datetime.fromisoformat,
    "$time": dt.time.fromisoformat,
    "$decimal": Decimal,
    "$bytes": base64.b64decode,
}


class Encoder(json.JSONEncoder):
    """What JSON has no form for becomes `{"$date": "2026-11-21"}`, what is unknown its text."""

    def default(self, o: Any) -> Any:
        match o:
            case dt.datetime():
                return {"$datetime": o.isoformat()}
            case dt.date():
                return {"$date": o.isoformat()}
            case dt.time():
                return {"$time": o.isoformat()}
            case Decimal():
                return {"$decimal": str(o)}
            case bytes():
                return {"$bytes": base64.b64encode(o).decode()}
            case UUID():
                return str(o)
            case set() | frozenset():
                return sorted(o)
        return str(o)


class Decoder(json.JSONDecoder):
    """The inverse of Encoder."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, object_hook=_typed, **options)


def _typed(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        ((name, value),) = found.items()
        if name in _READ and isinstance(value, str):
            return _READ[name](value)
    return found


def storable(values: Any) -> Any:
    """Values with a mark in the place of what cannot be kept."""
    match values:
        case str():
            return values if values.isascii() and "\x00" not in values else _marked(values)
        case float():
            return values if isfinite(values) else str(values)
        case list():
            return [storable(each) for each in values]
        case dict():
            return {name: storable(each) for name, each in values.items()}
    return values


def _marked(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
