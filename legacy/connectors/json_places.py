"""Where a value stands in a line of a file or a message: a column, or steps into objects, such as `address.city`."""

from collections.abc import Collection, Mapping
from json import dumps
from typing import Any

from legacy.connector import Place


def values_at(document: Mapping[str, Any], places: Collection[Place]) -> dict[Place, Any]:
    """The values by place. A place that the document lacks is left out: absent is not null.

    A list on the way is taken as a whole, under its own place: `lines.product` brings `lines`.
    """
    values: dict[Place, Any] = {}
    for place in places:
        if place in document:
            values[place] = document[place]
            continue
        found: Any = document
        steps = place.split(".")
        for depth, step in enumerate(steps, 1):
            if not isinstance(found, Mapping) or step not in found:
                break
            found = found[step]
            if isinstance(found, list) or depth == len(steps):
                values[".".join(steps[:depth])] = found
                break
    return values


def key_of(document: Mapping[str, Any], columns: tuple[str, ...]) -> str:
    """The key that stands in one column, or in several as a JSON array. Raises ValueError where one has none."""
    parts = []
    for column in columns:
        part = document.get(column)
        if part is None or part == "" or isinstance(part, bool) or not isinstance(part, str | int):
            raise ValueError(f"its key {column} is {part!r}" if column in document else f"it has no {column}, its key")
        parts.append(str(part))
    return parts[0] if len(parts) == 1 else dumps(parts, ensure_ascii=False, separators=(",", ":"))
