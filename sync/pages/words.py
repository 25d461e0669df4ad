"""How the admin's pages put things: moments, values, differences, authors. Everything is escaped."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django.contrib import admin
from django.db.models import ForeignKey, Model
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.timesince import timesince

from sync.models import Rejection
from sync.pages.conflict_filters import as_uuid
from sync.pages.text_diff import runs
from sync.pages.timeline import Author
from sync.pages.values import Labels, entity_label, field_label
from sync.permissions import viewable_entities
from sync.wire import Entity, Field

NONE, EMPTY = "none", "empty"
NO_LABELS = Labels()
ICONS = {
    "device": "devices",
    "user": "person",
    "run": "sync_alt",
    "migrate": "upgrade",
    "sql": "terminal",
    "verify": "fact_check",
}
_TAGS = {"same": "{}", "removed": "<del>{}</del>", "added": "<ins>{}</ins>"}


def ago(at: datetime | None) -> str:
    """How long ago a moment was; one that is to come is `just now`, as clocks differ."""
    if at is None:
        return "never"
    span = timezone.now() - at
    return "just now" if span < timedelta(minutes=1) else f"{lasting(span)} ago"


def lasting(span: timedelta) -> str:
    """A span in words: in minutes for an hour, in hours for two days, in days for two months, then in months."""
    minutes = int(span.total_seconds() // 60)
    if minutes < 1:
        return "under a minute"
    for unit, size, most in (("minute", 1, 60), ("hour", 60, 48), ("day", 60 * 24, 60)):
        if (count := minutes // size) < most:
            return f"{count} {unit}{pluralize(count)}"
    now = timezone.now()
    return timesince(now - span, now, depth=1)


def absolute(at: datetime) -> str:
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S}"


def moment(at: datetime | None) -> SafeString:
    """A moment as how long ago it was, with the moment itself to be pointed at."""
    if at is None:
        return format_html('<span class="sy-quiet">{}</span>', "never")
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), absolute(at), ago(at))


def label(entity: Entity | None, name: str | None) -> str:
    """What people call a field; the name itself where the entity has no such field."""
    return field_label(entity.name, name) if entity and name else name or ""


def kind_of(entity: str) -> str:
    """What people call an entity, at the beginning of a line."""
    return capfirst(entity_label(entity))


def value(found: Any, field: Field | None = None, labels: Labels = NO_LABELS) -> SafeString:
    """A value in wire form, as a person reads it."""
    if found is None or found == "":
        return format_html('<span class="sy-nothing">{}</span>', NONE if found is None else EMPTY)
    if field and field.references:
        name = labels.rows.get((field.references, str(found)), str(found))
        return format_html('<span title="{}">{}</span>', found, name)
    return format_html("{}", labels.text(field if _is_usual(found, field) else None, found))


def _is_usual(found: Any, field: Field | None) -> bool:
    """Whether a value is of a kind that its field's words are made for: a device may send anything."""
    if field is not None and field.type == "boolean":
        return isinstance(found, bool)
    return (field is not None and field.type == "json") or isinstance(found, str | int | float)


def difference(old: Any, new: Any, field: Field | None = None, labels: Labels = NO_LABELS) -> SafeString:
    """Two values as one text, what went struck out and what came marked."""
    whole = not (isinstance(old, str) and isinstance(new, str) and old and new)
    if whole or (field and (field.choices or field.references or field.type != "text")):
        return format_html(
            '<del>{}</del> <span class="sy-arrow" aria-label="became">→</span> <ins>{}</ins>',
            value(old, field, labels),
            value(new, field, labels),
        )
    return format_html_join("", "{}", ((format_html(_TAGS[piece.kind], piece.text),) for piece in runs(old, new)))


def dated(at: str | None) -> SafeString | None:
    """A moment in wire form, as a device told it; whatever else it told as it came."""
    if at is None:
        return None
    with suppress(ValueError, OverflowError):
        found = datetime.fromisoformat(at)
        if found.tzinfo is not None:
            return format_html('{} <span class="sy-quiet">{}</span>', moment(found), absolute(found))
    return format_html("{}", at)


# What the decoder says of a value, as people would put it; anything else is told as it is.
_PLAIN = (
    (re.compile(r"Expected `str` of length <= (\d+)"), r"At most \1 characters are allowed."),
    (re.compile(r"Expected `str` of length >= 1\b"), "This may not be empty."),
    (re.compile(r"Expected `(?:int|float|decimal)` <= (-?[\d.]+)"), r"At most \1 is allowed."),
    (re.compile(r"Expected `(?:int|float|decimal)` >= (-?[\d.]+)"), r"At least \1 is needed."),
    (re.compile(r"Expected `(.+?)`, got `null`"), "This needs a value."),
    (re.compile(r"Expected `(.+?)`, got `(\w+)`"), None),
    (re.compile(r"Expected `str` matching regex"), "This is not written as values of this field are."),
)
_KINDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "yes or no",
    "null": "nothing",
    "array": "a list",
}


def plain(message: str) -> str:
    """What was wrong with a value, without the words of programs."""
    for pattern, words in _PLAIN:
        if (found := pattern.match(message)) is not None:
            if words is not None:
                return found.expand(words)
            wanted = " or ".join(_KINDS.get(kind, kind) for kind in found[1].split(" | ") if kind != "null")
            return f"This has to be {wanted}, and is {_KINDS.get(found[2], found[2])}."
    return message


def first_error(rejection: Rejection) -> str:
    """What was wrong first, in words, without its field."""
    return plain(rejection.errors[0]["message"]) if rejection.errors else rejection.cause.replace("_", " ")


def name_of(entity: Entity | None, row: UUID, *rows: Mapping[str, Any] | None) -> str:
    """What a row is called that has, or would have, one of these values: by its model's own words, without a query."""
    if entity is None:
        return str(row)
    columns = {field.attname for field in entity.model._meta.concrete_fields}
    for values in rows:
        known = {
            name: value for name, value in (values or {}).items() if name in columns and isinstance(value, str | int)
        }
        if known:
            with suppress(Exception):
                if told := str(_detached(entity, known)).strip():
                    return told
    return f"{entity.model._meta.verbose_name} {str(row)[:8]}"


class _Elsewhere:
    """Stands for the row that another refers to: a name that would need it is not to be had without a query."""

    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)

    def __str__(self) -> str:
        raise LookupError


def _detached(entity: Entity, values: Mapping[str, Any]) -> Model:
    row = entity.model(**values)
    for field in entity.model._meta.concrete_fields:
        if isinstance(field, ForeignKey):
            field.set_cached_value(row, cast(Model, _Elsewhere()))
    return row


def author_link(author: Author, link: bool = True) -> SafeString:
    if author.device is None or not link:
        return format_html("<strong>{}</strong>", author.name)
    address = reverse("admin:devices_device_change", args=[author.device])
    return format_html('<a href="{}"><strong>{}</strong></a>', address, author.name)


def badge(kind: str, words: str) -> SafeString:
    """A word that stands out: `kind` is good, warn, bad, info or plain."""
    return format_html('<span class="sy-badge sy-{}">{}</span>', kind, words)


def may_see(request: HttpRequest, model: type[Model]) -> bool:
    """Whether the user may see the rows of a model that has a page here."""
    page = admin.site._registry.get(model)
    return page is not None and page.has_view_or_change_permission(request)


def labels_of(request: HttpRequest, entity: Entity, rows: Iterable[Mapping[str, Any] | None]) -> Labels:
    """What the rows are called that these values refer to: one query for each entity that the user may see."""
    wanted = [(entity, row) for row in ({n: v for n, v in (r or {}).items() if is_id(v)} for r in rows)]
    return Labels.of(wanted, viewable_entities(request.user))


def is_id(value: Any) -> bool:
    """Whether a value is the text of a UUID."""
    return isinstance(value, str) and as_uuid(value) is not None
