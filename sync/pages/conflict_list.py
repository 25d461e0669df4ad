"""A line of the list for each conflict: which row, what each side did, from whom. Its queries do not grow with it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sync.models import Conflict
from sync.pages.names import device_names, device_users, row_names, short_id
from sync.pages.values import Labels, entity_label, field_label
from sync.wire import entities

PARTS_SHOWN_MAX = 2  # fields of a line
TEXT_SHOWN_CHARS = 48  # of a value
LEAD_SHOWN_CHARS = 12  # of what is the same before the first difference


@dataclass(frozen=True)
class Part:
    """One field: what it was, and what each side made of it."""

    field: str
    before: str | None
    server: str
    device: str


@dataclass(frozen=True)
class Line:
    conflict: Conflict
    row: str
    entity: str
    device: str
    user: str  # of the device
    parts: Sequence[Part]
    more: int  # fields that are not shown
    deleted: str  # "server" or "device", where one of them deleted the row

    @property
    def at(self) -> datetime:
        return self.conflict.created_at

    @property
    def made_at(self) -> datetime:
        return self.conflict.made_at or self.conflict.created_at

    @property
    def decider(self) -> str:
        """Who decided it."""
        return self.conflict.decided_by.removeprefix("user:") or "policy"


def lines(conflicts: Sequence[Conflict], viewable: Iterable[str]) -> list[Line]:
    """The lines of conflicts of entities that the reader may see; `viewable` are all such entities."""
    names = device_names(conflict.device for conflict in conflicts)
    users = device_users(conflict.device for conflict in conflicts)
    rows = row_names((conflict.entity, str(conflict.row_id)) for conflict in conflicts)
    sides = [
        (entities()[conflict.entity], side)
        for conflict in conflicts
        if conflict.entity in entities()
        for side in (conflict.base, conflict.server, device_side(conflict))
    ]
    labels = Labels.of(sides, viewable)
    found = []
    for conflict in conflicts:
        device, row = str(conflict.device), rows.get((conflict.entity, str(conflict.row_id)))
        name = conflict.source or names.get(device, "a device that is no more")
        found.append(_line(conflict, row or short_id(conflict.row_id), name, users.get(device, ""), labels))
    return found


def _line(conflict: Conflict, row: str, device: str, user: str, labels: Labels) -> Line:
    parts = list(_parts(conflict, labels))
    shown = parts[:PARTS_SHOWN_MAX]
    deleted = "device" if conflict.op == "delete" else "server" if conflict.server is None else ""
    return Line(conflict, row, entity_label(conflict.entity), device, user, shown, len(parts) - len(shown), deleted)


def _parts(conflict: Conflict, labels: Labels) -> Iterator[Part]:
    """The fields in dispute, or, where the whole row is, those that the side changed which did not delete it."""
    base, server, device = conflict.base or {}, conflict.server or {}, device_side(conflict)
    known = entities().get(conflict.entity)
    for name in in_order(conflict.entity, conflict.fields or {*base, *server, *device}):
        found = known.field(name) if known else None
        texts = [
            labels.text(found, side[name]) if name in side else None for side in (base, server, _told(device, name))
        ]
        if conflict.fields or len(set(texts[:2])) > 1 or texts[2]:
            before, now, sent = excerpts(texts)
            yield Part(field_label(conflict.entity, name), before, now or "", sent or "")


def _told(device: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return {name: device[name]} if name in device else {}


def device_side(conflict: Conflict) -> dict[str, Any]:
    """What the device has, by field: the values that it set, the rest of a unit as it was, and the amounts it added."""
    sent = conflict.device_values or {}
    unit = {name: conflict.base[name] for name in conflict.fields if conflict.base and name in conflict.base}
    return {
        **unit,
        **(sent.get("set") or {}),
        **{name: signed(amount) for name, amount in (sent.get("add") or {}).items()},
    }


def signed(amount: Any) -> str:
    """An amount that is added, as such."""
    return str(amount) if str(amount).startswith("-") else f"+{amount}"


def excerpts(texts: Sequence[str | None]) -> list[str | None]:
    """The part of each where they differ, short enough for a line; all are cut at the same place."""
    told = [text for text in texts if text is not None]
    if all(len(text) <= TEXT_SHOWN_CHARS for text in told):
        return list(texts)
    same = next(
        (at for at, chars in enumerate(zip(*told, strict=False)) if len(set(chars)) > 1), min(map(len, told), default=0)
    )
    start = max(0, same - LEAD_SHOWN_CHARS) if same > LEAD_SHOWN_CHARS else 0
    return [None if text is None else _cut(text, start) for text in texts]


def _cut(text: str, start: int) -> str:
    end = start + TEXT_SHOWN_CHARS
    return ("…" if start else "") + text[start:end].strip() + ("…" if len(text) > end else "")


def in_order(entity: str, names: Iterable[str]) -> list[str]:
    """Fields in the order of the model; those that it has no longer come last."""
    known = [field.name for field in entities()[entity].fields] if entity in entities() else []
    wanted = set(names)
    return [name for name in known if name in wanted] + sorted(wanted.difference(known))
