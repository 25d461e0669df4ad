"""The page on which decisions are undone: what comes back, and afterwards what could not."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from sync.models import Conflict, Decision
from sync.pages.conflict_bulk import BUSY, allowed_to
from sync.pages.conflict_list import lines
from sync.pages.values import Labels, field_label
from sync.permissions import holds, viewable_entities, visible
from sync.resolve import Undone, undo
from sync.wire import entities
from syncserver.errors import DECISION_REFUSALS, Problem


def undo_shown(page: Any, request: HttpRequest, chosen: Q, which: UUID | Sequence[UUID]) -> HttpResponse:
    """Show what undoing these decisions puts back; once that is confirmed, do it. `which`: as `undo` takes them."""
    if not holds(request.user, "change", Conflict):
        raise PermissionDenied
    found = list(visible(request.user, Decision.objects.filter(chosen)).select_related("conflict").order_by("-at"))
    if not found:
        if Decision.objects.filter(chosen).exists():
            raise PermissionDenied
        raise Http404
    if request.method != "POST":
        return _shown(page, request, found)
    try:
        author = f"user:{request.user.get_username()}"
        undone = undo(which, author=author, allowed=allowed_to(request.user))
    except Problem:
        messages.error(request, BUSY)
        return _shown(page, request, found)
    return _left(page, request, found, undone)


def _left(page: Any, request: HttpRequest, found: list[Decision], undone: Undone) -> HttpResponse:
    """Back to where the decision was taken, or, where something stayed, a page that says what and why."""
    if count := len(undone.done):
        messages.success(request, f"Undone: {count} decision{'' if count == 1 else 's'}.")
    if undone.kept:
        return _shown(page, request, [each for each in found if each.pk in undone.kept], undone)
    if len(found) == 1:
        return HttpResponseRedirect(reverse("admin:sync_conflict_change", args=[found[0].conflict_id]))
    return HttpResponseRedirect(f"{reverse('admin:sync_conflict_changelist')}?state=open")


def _shown(page: Any, request: HttpRequest, found: list[Decision], undone: Undone | None = None) -> HttpResponse:
    shown = lines([decision.conflict for decision in found], viewable_entities(request.user))
    context = admin.site.each_context(request) | {
        "opts": page.opts,
        "title": "Undo" if undone is None else "What stays as it was decided",
        "found": list(zip(shown, found, _changes(request, found), _reasons(found, undone), strict=True)),
        "undone": undone,
        "possible": undone is None and any(decision.undone_at is None for decision in found),
        "list_address": f"{reverse('admin:sync_conflict_changelist')}?state=open",
    }
    return TemplateResponse(request, "admin/sync/conflict/undo.html", context)


def _reasons(found: Iterable[Decision], undone: Undone | None) -> list[str]:
    """Why each decision stays; "" where it does not."""
    if undone is None:
        return [DECISION_REFUSALS["already_undone"] if decision.undone_at else "" for decision in found]
    return [" ".join(error.message for error in undone.kept.get(decision.pk, ())) for decision in found]


def _changes(request: HttpRequest, found: list[Decision]) -> list[list[tuple[str, str, str]]]:
    """For each decision its fields with the values now and those that come back; none for a row as a whole."""
    known = [(entities()[d.conflict.entity], d) for d in found if d.conflict.entity in entities()]
    labels = Labels.of(
        ((e, values) for e, d in known for values in (d.before, d.after)), viewable_entities(request.user)
    )
    changes = {
        decision.pk: [
            (
                field_label(entity.name, n),
                labels.text(entity.field(n), decision.after[n]),
                labels.text(entity.field(n), v),
            )
            for n, v in decision.before.items()
            if n in decision.after and decision.after[n] != v
        ]
        for entity, decision in known
        if decision.before is not None and decision.after is not None
    }
    return [changes.get(decision.pk, []) for decision in found]
