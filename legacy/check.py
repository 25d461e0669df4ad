"""What is wrong with a mapping, told with its line before a run does anything."""

import datetime as dt
from collections.abc import Iterable, Iterator
from zoneinfo import ZoneInfoNotFoundError

from django.core.exceptions import FieldDoesNotExist
from django.db import models

from legacy.connector import Capabilities, Misconfigured
from legacy.convert import Always, By, How, Values
from legacy.document import plain
from legacy.mapping import F, Mapping
from sync.declare import declarations


def check(mappings: Iterable[Mapping]) -> None:
    """Raises Misconfigured, naming every line of a declaration that cannot work."""
    wrong: list[str] = []
    before: set[str] = set()
    for mapping in mappings:
        before.add(mapping.name)
        wrong += [f"{mapping.name}: {each}" for each in _of_mapping(mapping)]
        rows = ((line, mapping.rows.model) for line in mapping.rows.fields) if mapping.rows else ()
        for line, model in (*((line, mapping.model) for line in mapping.fields), *rows):
            for problem in _of_line(mapping, model, line, before):
                wrong.append(f"{mapping.name}, line F({line.ours!r}, {line.theirs!r}): {problem}")
    if wrong:
        raise Misconfigured("\n".join(wrong))


def _of_mapping(mapping: Mapping) -> Iterator[str]:
    models_ = {declaration.model for declaration in declarations()}
    for model in (mapping.model, *([mapping.rows.model] if mapping.rows else [])):
        if model not in models_:
            yield f"{model.__name__} is no synced entity, so what happens to it is not in the history"
            return
    fields = {field.name for field in mapping.model._meta.concrete_fields}
    lines = {name for line in mapping.fields for name in line.names}
    pulled = {name for line in mapping.fields if line.only != "push" for name in line.names}
    names = [name for line in mapping.fields for name in line.names]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name!r} is mapped twice"
    for same in mapping.matches:
        if same.field not in pulled:
            yield f"match names {same.field!r}, which no line takes over"
    for name in mapping.never:
        if name not in fields:
            yield f"never names {name!r}, which {mapping.model.__name__} does not have"
        elif mapping.both and any(name in line.names and line.only != "pull" for line in mapping.fields):
            yield f"{name!r} must never leave, and a line sends it (only='pull' keeps it here)"
    newest = mapping.wins == "newest" or any(line.wins == "newest" for line in mapping.fields)
    if newest and mapping.newest not in lines:
        yield "wins='newest' needs newest=, a field that both sides keep"
    if mapping.window:
        try:
            mapping.window.is_open(dt.datetime.now(dt.UTC))
        except (ValueError, ZoneInfoNotFoundError) as error:
            yield f"window: {error}"
    if mapping.rows and (mapping.rows.wins or mapping.wins) == "manual":
        yield f"wins='manual', and nobody is asked about {mapping.rows.place}: Rows(wins=…) says who wins there"
    for unit in mapping.entity.declaration.units:
        together = [line for line in mapping.fields if line.only != "push" and set(line.names) & set(unit)]
        if len({line.wins or mapping.wins for line in together}) > 1:
            yield f"{', '.join(unit)} are decided together, so they need the same wins"
    if mapping.deletes in ("push", "both") and not mapping.both:
        yield f"deletes={mapping.deletes!r} sends deletions, and direction={mapping.direction!r} sends nothing"


def _of_line(mapping: Mapping, model: type[models.Model], line: F, before: set[str]) -> Iterator[str]:
    if not line.names and not isinstance(line.how, Always):
        yield "a line without a field of ours needs a constant: Always(…)"
    fields = []
    for name in line.names:
        try:
            fields.append(model._meta.get_field(name))
        except FieldDoesNotExist:
            yield f"{model.__name__} has no such field" if len(line.names) == 1 else f"{model.__name__} has no {name!r}"
    if len(fields) != len(line.names):
        return
    if line.ref and line.ref not in before:
        yield f"refers to {line.ref!r}, which must be mapped before it"
    if any(field.is_relation for field in fields) and not line.ref:
        yield "is a reference; ref= says which mapping links what it refers to"
    sent = mapping.both and line.only != "pull"
    if isinstance(line.how, By) and line.how.back is None and sent:
        yield "goes both ways and has no way back (By(there, back)); only='pull' if that is meant"
    elif line.how and sent and line.only != "push" and len(fields) == 1:
        yield from _round_trip(fields[0], line.how)
    if model is mapping.model and line.only != "push" and (line.wins or mapping.wins) == "manual":
        yield from _for_people(mapping, line)


def _round_trip(field: object, how: How) -> Iterator[str]:
    """Whether what goes there and comes back is what it was, for samples of the values."""
    if isinstance(how, Values) and len(set(how.map.values())) < len(how.map):
        twice = sorted({repr(v) for v in how.map.values() if list(how.map.values()).count(v) > 1})
        yield f"has several values of theirs for {', '.join(twice)}: what goes back is the first"
    for sample in how.samples:
        try:
            there = how.push(sample)
            back = how.pull(there)
            if plain(field, sample) != plain(field, back):  # type: ignore[arg-type]
                yield f"is lossy: {sample!r} becomes {there!r} there and {back!r} here again"
        except Exception as error:
            yield f"cannot convert {sample!r} there and back: {error}"


def _for_people(mapping: Mapping, line: F) -> Iterator[str]:
    for name in mapping.wire_names(line):
        if mapping.entity.field(name) is None:
            yield "is hidden from devices, so its conflicts cannot be shown to people; wins= something else"


def check_against(mapping: Mapping, capabilities: Capabilities) -> None:
    """Raises Misconfigured where a mapping asks for what its system cannot do."""
    needs = []
    if mapping.both and not {"create", "update"} & capabilities.writes:
        needs.append(f"direction={mapping.direction!r}, and the system takes no writes")
    if mapping.both and "create" in capabilities.writes and capabilities.idempotency == "none":
        needs.append("direction='both', and a create whose answer is lost could be made twice: give it a marker")
    if mapping.both and not capabilities.fetches:
        needs.append(f"direction={mapping.direction!r}, and the system cannot look a record up before it is written")
    if mapping.deletes in ("push", "both") and "delete" not in capabilities.writes:
        needs.append(f"deletes={mapping.deletes!r}, and the system deletes nothing for us")
    if mapping.deletes in ("pull", "both") and capabilities.deletes == "never":
        needs.append(f"deletes={mapping.deletes!r}, and the system does not show deletions")
    if needs:
        raise Misconfigured(f"{mapping.name}: " + "; ".join(needs))
