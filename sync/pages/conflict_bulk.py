"""Many conflicts decided at once: first what that would do, then, once it was looked at, the doing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from sync.models import Conflict
from sync.pages.conflict_filters import as_uuid
from sync.pages.conflict_list import Line, lines
from sync.pages.values import Labels, field_label
from sync.permissions import Somebody, may_decide, viewable_entities, visible
from sync.resolve import Allowed, Bulk, Preview, preview_many, resolve_many
from sync.wire import entities
from syncserver.errors import DECISION_REFUSALS, Problem

TITLES = {"server": "Keep the server’s values", "device": "Take the devices’ values"}
REFUSED_TOLD_MAX = 5  # by name, in a message
BUSY = "Other changes are being written. Nothing was decided; try once more."


def allowed_to(user: Somebody) -> Allowed:
    """Whether the user may take a decision, as `resolve_many` and `undo` ask it."""
    return lambda conflict, deletes, creates: may_decide(user, conflict, deletes, creates)


def comment_of(request: HttpRequest) -> str:
    """What the user noted, as far as it can be kept."""
    return request.POST.get("comment", "").replace("\x00", "").strip()[: settings.SYNC_COMMENT_CHARS_MAX]


def decide_many(page: Any, request: HttpRequest, conflicts: QuerySet[Conflict], side: str) -> HttpResponse | None:
    """The preview of taking a side of these conflicts, or, where that was confirmed, the doing."""
    ids = list(conflicts.order_by().values_list("pk", flat=True)[: settings.SYNC_DECISIONS_MAX + 1])
    if len(ids) > settings.SYNC_DECISIONS_MAX:
        most = f"At most {settings.SYNC_DECISIONS_MAX:,} conflicts are decided at once: narrow the list down."
        messages.error(request, most)
        return None
    try:
        if request.POST.get("confirmed"):
            return _done(request, ids, side)
        return _previewed(page, request, ids, side)
    except (Problem, Conflict.DoesNotExist):
        messages.error(request, BUSY)
        return None


def _previewed(page: Any, request: HttpRequest, ids: Sequence[UUID], side: str) -> HttpResponse:
    previews, allowed = preview_many(ids, side), allowed_to(request.user)
    viewable = viewable_entities(request.user)
    shown = lines([preview.conflict for preview in previews], viewable)
    labels = Labels.of(
        (
            (entities()[p.conflict.entity], values)
            for p in previews
            if p.conflict.entity in entities()
            for values in (p.before, p.after)
        ),
        viewable,
    )
    told = [(line, _why_not(p, allowed), p) for line, p in zip(shown, previews, strict=True)]
    context = admin.site.each_context(request) | {
        "opts": page.opts,
        "title": f"{TITLES[side]}?",
        "side": side,
        "action": request.POST.get("action"),
        "changing": [(line, _changes(p, labels), p) for line, why, p in told if not why and _writes(p)],
        "staying": [line for line, why, p in told if not why and not _writes(p)],
        "impossible": [(line, why) for line, why, _ in told if why],
        "ids": [line.conflict.pk for line, why, _ in told if not why],
        "at": timezone.now().isoformat(),
        "comment_max": settings.SYNC_COMMENT_CHARS_MAX,
        "list_address": request.get_full_path(),
    }
    return TemplateResponse(request, "admin/sync/conflict/bulk.html", context)


def _writes(preview: Preview) -> bool:
    return preview.before != preview.after


def _why_not(preview: Preview, allowed: Allowed) -> str:
    if preview.errors:
        return " ".join(_sentence(preview.conflict.entity, error.field, error.message) for error in preview.errors)
    if not allowed(preview.conflict, preview.deletes, preview.creates):
        return DECISION_REFUSALS["forbidden"]
    return ""


def _sentence(entity: str, field: str | None, message: str) -> str:
    return f"{field_label(entity, field)}: {message}" if field else message


def _changes(preview: Preview, labels: Labels) -> list[tuple[str, str, str]]:
    """Field, value now and value then of what would change; none where the row as a whole would."""
    if preview.before is None or preview.after is None:
        return []
    entity = entities()[preview.conflict.entity]
    return [
        (
            field_label(entity.name, n),
            labels.text(entity.field(n), preview.before.get(n)),
            labels.text(entity.field(n), v),
        )
        for n, v in preview.after.items()
    ]


def _done(request: HttpRequest, ids: Sequence[UUID], side: str) -> HttpResponse:
    """Decide, tell what was done with a way back, and what was not with the reason."""
    asked = {known for text in request.POST.getlist(ACTION_CHECKBOX_NAME) if (known := as_uuid(text))}
    # What is not in the list any more was decided, if the list is of open ones.
    meanwhile = _decided_since(ids, request.POST.get("at", "")) | (asked - {*ids} if asked else set())
    wanted, author = {*ids} - meanwhile, f"user:{request.user.get_username()}"
    bulk = resolve_many(wanted, side, author=author, comment=comment_of(request), allowed=allowed_to(request.user))
    _tell(request, bulk, side)
    _tell_refused(request, bulk, meanwhile)
    return HttpResponseRedirect(request.get_full_path())


def _decided_since(ids: Sequence[UUID], at: str) -> set[UUID]:
    """Those that somebody decided after the preview was made: its reader has not seen that."""
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return set(ids)
    if moment.tzinfo is None:
        return set(ids)
    found = Conflict.objects.filter(pk__in=ids, decided_at__gt=moment)
    return set(found.values_list("pk", flat=True))


def _tell(request: HttpRequest, bulk: Bulk, side: str) -> None:
    if bulk.decided:
        count = len(bulk.decided)
        whose = "the server’s values stay" if side == "server" else "the devices’ values are taken"
        address = reverse("admin:sync_conflict_undo_many", args=[bulk.id])
        told = '{} conflict{} decided: {}. <a href="{}">Undo</a>'
        messages.success(request, format_html(told, count, "" if count == 1 else "s", whose, address))


def _tell_refused(request: HttpRequest, bulk: Bulk, meanwhile: set[UUID]) -> None:
    found = visible(request.user, Conflict.objects.filter(pk__in=[*bulk.refused, *meanwhile]))
    if not (count := found.count()):
        return
    named = [_named(line, bulk) for line in lines(list(found[:REFUSED_TOLD_MAX]), viewable_entities(request.user))]
    more = f" and {count - len(named)} more" if count > len(named) else ""
    messages.warning(request, f"Not decided: {'; '.join(named)}{more}.")


def _named(line: Line, bulk: Bulk) -> str:
    errors = bulk.refused.get(line.conflict.pk)
    return f"{line.row} ({errors[0].message.rstrip('.')})" if errors else f"{line.row} (somebody decided it meanwhile)"
