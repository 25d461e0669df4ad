"""What people call things: devices, authors and rows by their names, many in one query each."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from django.db import connection, models

from devices.models import Device
from sync.models import History
from sync.wire import Entity, entities

ID_SHOWN_CHARS = 8  # of a row that has no other name

RowId = tuple[str, str]  # entity, id


def device_names(ids: Iterable[object]) -> dict[str, str]:
    """The names of devices by id."""
    return {str(pk): name for pk, name in Device.objects.filter(pk__in=set(ids)).values_list("pk", "name")}


def device_users(ids: Iterable[object]) -> dict[str, str]:
    """The names of the users of devices, by the device's id; a device without one is not in it."""
    found = Device.objects.filter(pk__in=set(ids), user__isnull=False).select_related("user")
    return {
        str(device.pk): device.user.get_full_name() or device.user.get_username() for device in found if device.user
    }


def author_names(authors: Iterable[str]) -> dict[str, str]:
    """What each author of the history is called: a device and a person by their names, the rest by what it is."""
    wanted = set(authors)
    devices = device_names(_rests("device", wanted))
    return {author: _author(author, devices) for author in wanted}


def _rests(kind: str, authors: Iterable[str]) -> list[str]:
    return [author.partition(":")[2] for author in authors if author.startswith(f"{kind}:")]


def _author(author: str, devices: Mapping[str, str]) -> str:
    kind, _, rest = author.partition(":")
    match kind:
        case "device":
            return devices.get(rest, "a device that is no more")
        case "user":
            return rest
        case "run":
            return f"{rest.partition(':')[0]} (legacy run)"
        case "sql":
            return f"SQL ({rest})"
        case "migrate":
            return "a migration"
        case "verify":
            return "a repair of the feed"
    return author or "somebody"


def row_names(rows: Iterable[RowId]) -> dict[RowId, str]:
    """What rows are called by their model, deleted ones by what they last were; one that nobody knows is not in it."""
    by_entity: dict[str, set[str]] = defaultdict(set)
    for entity, row in rows:
        with suppress(ValueError):  # of a field that was no reference when the record was written
            by_entity[entity].add(str(uuid.UUID(row)))
    found: dict[RowId, str] = {}
    for name in by_entity.keys() & entities().keys():
        found |= _live_names(entities()[name], by_entity[name])
    gone = {(name, row) for name, ids in by_entity.items() for row in ids} - found.keys()
    return found | (_last_names(gone) if gone else {})


def _live_names(entity: Entity, ids: set[str]) -> dict[RowId, str]:
    references = [field.name for field in entity.model._meta.concrete_fields if isinstance(field, models.ForeignKey)]
    rows = entity.model._default_manager.filter(pk__in=ids)
    if references:  # a row is often called by what it refers to
        rows = rows.select_related(*references)
    return {(entity.name, str(row.pk)): str(row) or short_id(row.pk) for row in rows}


def _last_names(rows: set[RowId]) -> dict[RowId, str]:
    deletes = History.objects.filter(row_id__in={row for _, row in rows}, op="delete").order_by("rev")
    found: dict[RowId, str] = {}
    for delete in deletes:
        key = (delete.entity, str(delete.row_id))
        if key in rows and delete.old and delete.entity in entities():
            with suppress(Exception):  # a name may need more than the row itself had
                found[key] = _name_of(entities()[delete.entity], delete.old)
    return found


def _name_of(entity: Entity, values: Mapping[str, Any]) -> str:
    known = {name: value for name, value in values.items() if entity.field(name)}
    with connection.execute_wrapper(_refuse):
        return str(entity.model(id=uuid.UUID(values["id"]), **known) if "id" in values else entity.model(**known))


def _refuse(*_: object) -> None:
    raise LookupError("the name of a deleted row is made of the row alone")


def short_id(row: object) -> str:
    """The start of an id, where there is no room for it and no name."""
    return str(row)[:ID_SHOWN_CHARS]
