"""The admin's pages of one row: what became of it, where it is on devices, and how to go back to a version."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias
from uuid import UUID

from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from devices.models import Device
from sync.amend import Invalid, RowMoved
from sync.models import Conflict, History, Rejection
from sync.mutation import Error
from sync.pages import words
from sync.pages.names import row_names, short_id
from sync.pages.timeline import Change, FieldChange, Now, Page, holders, row_now, timeline
from sync.pages.values import Labels
from sync.permissions import may_restore, visible
from sync.versions import restore_version, version_of
from sync.wire import Entity, entities
from syncserver.errors import Problem

RECORDS_SHOWN_MAX = 10  # of a row's conflicts and rejections, the newest first
TIMELINE, RESTORE = "admin/sync/row_history.html", "admin/sync/row_restore.html"
DID = {"insert": "created it", "delete": "deleted it"}
Admin: TypeAlias = "ModelAdmin[Any]"


@dataclass(frozen=True)
class Row:
    """The row that a page is about, as the user may see it."""

    page: Admin
    request: HttpRequest
    entity: Entity
    id: UUID
    instance: Model | None
    now: Now

    @cached_property
    def name(self) -> str:
        """What the row is called; one that is not there, what it was called when it was deleted."""
        if self.instance is not None:
            return str(self.instance)
        key = (self.entity.name, str(self.id))
        return row_names([key]).get(key, f"{self.kind} {short_id(self.id)}")

    @cached_property
    def last(self) -> History | None:
        """The last change that is known of it."""
        return History.objects.filter(row_id=self.id, entity=self.entity.name).order_by("-rev").first()

    @property
    def kind(self) -> str:
        return str(self.entity.model._meta.verbose_name)

    @property
    def may_restore(self) -> bool:
        """A row that is there is changed; one that is not is made again."""
        return may_restore(self.request.user, self.entity.name, creates=self.now.values is None)

    def address(self, name: str, *more: object) -> str:
        meta = self.entity.model._meta
        return reverse(f"admin:{meta.app_label}_{meta.model_name}_{name}", args=[self.id, *more])


def row_of(page: Admin, request: HttpRequest, object_id: str) -> Row:
    """Raises Http404 for what is no id, PermissionDenied where the user may not see the row."""
    try:
        row_id = UUID(object_id)
    except ValueError:
        raise Http404 from None
    instance = page.get_object(request, object_id)
    if not page.has_view_or_change_permission(request, instance):
        raise PermissionDenied
    entity = next(found for found in entities().values() if found.model is page.model)
    return Row(page, request, entity, row_id, instance, row_now(entity.name, row_id))


def history_page(row: Row, extra_context: dict[str, Any] | None = None) -> HttpResponse:
    """The timeline of a row, a page at a time; it is there for a deleted row too."""
    before = row.request.GET.get("before", "")
    page = timeline(row.entity, row.id, int(before) if before.isdecimal() and len(before) < 19 else None)
    context = _context(row) | {
        "title": f"History: {row.name}" if row.instance else f"History of a {row.kind} that is not there",
        "changes": _changes(row, page),
        "older": page.older,
        "newer": bool(before),
        "holders": _holders(row),
        "records": [*_conflicts(row), *_rejections(row)],
    }
    return TemplateResponse(row.request, TIMELINE, context | (extra_context or {}))


def restore_page(row: Row, rev: int) -> HttpResponse:
    """What going back to a version would change; and, once that is confirmed, the going back."""
    version = History.objects.filter(row_id=row.id, entity=row.entity.name, rev=rev).exclude(op="delete").first()
    if version is None or rev == row.now.rev:
        raise Http404
    if not row.may_restore:
        raise PermissionDenied
    told = _restore(row, rev) if row.request.method == "POST" else _Told()
    if told.done:
        messages.success(row.request, f"Version {rev} is restored. Devices get it with their next sync.")
        return HttpResponseRedirect(row.address("history"))
    row = row_of(row.page, row.request, str(row.id))
    try:
        then = version_of(row.entity.name, row.id, rev) or {}
    except Invalid:
        raise Http404 from None  # forgotten meanwhile
    context = _context(row) | {
        "title": f"Restore version {rev}",
        "version": version,
        "version_at": words.moment(version.at),
        "fields": _preview(row, then),
        "moved": told.moved,
        "busy": told.busy,
        "errors": [(words.label(row.entity, e.field), e.message) for e in told.errors],
    }
    return TemplateResponse(row.request, RESTORE, context, status=409 if told.moved else 200)


@dataclass(frozen=True)
class _Told:
    """What became of a restoring: done, or why not."""

    done: bool = False
    moved: bool = False
    busy: bool = False
    errors: tuple[Error, ...] = ()


def _restore(row: Row, rev: int) -> _Told:
    told = row.request.POST.get("rev", "")
    seen = int(told) if told.isdecimal() and len(told) < 19 else 0
    try:
        restore_version(row.entity.name, row.id, rev, rev=seen, author=f"user:{row.request.user.get_username()}")
    except RowMoved:
        return _Told(moved=True)
    except Invalid as problem:
        return _Told(errors=problem.errors)
    except Problem:
        return _Told(busy=True)
    return _Told(done=True)


def _context(row: Row) -> dict[str, Any]:
    opts = row.entity.model._meta
    return row.page.admin_site.each_context(row.request) | {
        "opts": opts,
        "object": row.instance,
        "row": row,
        "row_id": row.id,
        "kind": capfirst(row.kind),
        "module_name": capfirst(str(opts.verbose_name_plural)),
        "history_address": row.address("history"),
        "edit_address": row.address("change") if row.instance else "",
    }


# --- the timeline ---


def _changes(row: Row, page: Page) -> list[dict[str, Any]]:
    labels = words.labels_of(row.request, row.entity, [_values(change) for change in page.changes])
    link = words.may_see(row.request, Device)
    return [
        {
            "rev": change.rev,
            "at": words.moment(change.at),
            "moment": words.absolute(change.at),
            "op": change.op,
            "did": DID.get(change.op) or _did(change),
            "author": words.author_link(change.author, link),
            "icon": words.ICONS.get(change.author.kind, "edit"),
            "by": change.author.kind,
            "mutation": change.mutation,
            "fields": [_field(row.entity, each, change.op, labels) for each in change.fields],
            "restore": row.may_restore
            and change.op != "delete"
            and change.rev != row.now.rev
            and row.address("restore", change.rev),
            "current": change.rev == row.now.rev,
        }
        for change in page.changes
    ]


def _did(change: Change) -> str:
    match len(change.fields):
        case 0:
            return "moved it to another scope"
        case 1:
            return "changed 1 field"
        case count:
            return f"changed {count} fields"


def _values(change: Change) -> dict[str, Any]:
    """Every value of a change under the name of its field, for looking up what references are called."""
    values: dict[str, Any] = {}
    for each in change.fields:
        for found in (each.old, each.new):
            if found is not None:
                values[each.name] = found
    return values


def _field(entity: Entity, change: FieldChange, op: str, labels: Labels) -> tuple[str, SafeString]:
    field = entity.field(change.name)
    if op == "update":
        shown = words.difference(change.old, change.new, field, labels)
    else:
        shown = words.value(change.new if op == "insert" else change.old, field, labels)
    return words.label(entity, change.name), shown


# --- where it is ---


def _holders(row: Row) -> dict[str, Any] | None:
    """Where the row is on devices; nothing for who may not see devices, or where no change of it is known."""
    last = row.last
    if last is None or not words.may_see(row.request, Device):
        return None
    found = holders(row.entity.name, row.id, last)
    return {
        "total": found.total,
        "called": found.called,
        "percent": found.called * 100 // found.total if found.total else 0,
        "deleted": row.now.values is None,
        "rest": found.total - len(found.shown),
        "shown": [
            {
                "name": holder.name,
                "address": reverse("admin:devices_device_change", args=[holder.id]),
                "called": holder.called,
                "seen": words.moment(holder.last_seen_at),
                "never": holder.last_seen_at is None,
                "pending": holder.pending,
                "scopes": ", ".join(holder.scopes),
                "made": last.author == f"device:{holder.id}",
            }
            for holder in found.shown
        ],
    }


def _conflicts(row: Row) -> list[dict[str, Any]]:
    found = visible(row.request.user, Conflict.objects.filter(row_id=row.id, entity=row.entity.name))
    return [
        {
            "what": f"Conflict over {', '.join(_labels(row.entity, conflict.fields)) or 'the whole row'}",
            "address": reverse("admin:sync_conflict_change", args=[conflict.pk]),
            "badge": words.badge("warn" if conflict.state == "open" else "plain", _conflict_state(conflict)),
            "at": words.moment(conflict.created_at),
        }
        for conflict in found.order_by("-created_at")[:RECORDS_SHOWN_MAX]
    ]


def _conflict_state(conflict: Conflict) -> str:
    return "open" if conflict.state == Conflict.State.OPEN else "decided"


def _rejections(row: Row) -> list[dict[str, Any]]:
    found = visible(row.request.user, Rejection.objects.filter(row_id=row.id, entity=row.entity.name))
    return [
        {
            "what": f"Refused {rejection.op}: {words.first_error(rejection)}",
            "address": reverse("admin:sync_rejection_change", args=[rejection.pk]),
            "badge": words.badge("bad" if rejection.state == "open" else "plain", rejection.state),
            "at": words.moment(rejection.created_at),
        }
        for rejection in found.order_by("-created_at")[:RECORDS_SHOWN_MAX]
    ]


def _labels(entity: Entity, names: list[str]) -> list[str]:
    return [words.label(entity, name).lower() for name in names]


# --- going back ---


def _preview(row: Row, then: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every field as it would be, those that would change first."""
    now = row.now.values or {}
    labels = words.labels_of(row.request, row.entity, [dict(then), dict(now)])
    rows = [
        {
            "label": words.label(row.entity, field.name),
            "now": words.value(now.get(field.name), field, labels),
            "then": words.value(then[field.name], field, labels),
            "difference": words.difference(now.get(field.name), then[field.name], field, labels),
            "changes": row.now.values is None or now.get(field.name) != then[field.name],
        }
        for field in row.entity.fields
        if field.name in then and not (field.counter and row.now.values is not None)  # counters stay
    ]
    return sorted(rows, key=lambda each: not each["changes"])
