"""The staff API: everything that the admin does about conflicts, the quarantine, devices and rows, for programs."""

from typing import Any
from uuid import UUID

import msgspec
from django.db.models import Count, QuerySet
from django.http import HttpResponse
from rest_framework.request import Request

from sync import quarantine, resolve, versions
from sync.amend import sides_of
from sync.decide import RowKey
from sync.models import Conflict, Decision, History, Rejection
from sync.permissions import holds, may_decide, may_mend, may_restore, viewable_entities, visible
from sync.staff import bodies, filters, openapi
from sync.staff.base import ListView, StaffView, all_of, answered, author_of, demand, one, refusals, user_of
from sync.staff.paging import Order
from sync.together import waiting_with
from sync.wire import entities
from syncserver.errors import Problem
from syncserver.http import body_as


def _allowed(request: Request) -> resolve.Allowed:
    user = user_of(request)
    return lambda conflict, deletes, creates: may_decide(user, conflict, deletes, creates)


class EntitiesView(StaffView):
    @openapi.entities_get
    def get(self, request: Request) -> HttpResponse:
        user = user_of(request)
        conflicts = _open(user, Conflict, Conflict.objects.filter(state=Conflict.State.OPEN))
        rejections = _open(user, Rejection, Rejection.objects.filter(state=Rejection.State.OPEN))
        seen = viewable_entities(user)
        told = [
            bodies.StaffEntity(
                name,
                str(entity.model._meta.verbose_name),
                entity.declaration.writable,
                None if conflicts is None else conflicts.get(name, 0),
                None if rejections is None else rejections.get(name, 0),
            )
            for name, entity in entities().items()
            if name in seen
        ]
        return answered({"results": told, "cursor": None})


def _open(user: Any, kind: type[Conflict] | type[Rejection], records: "QuerySet[Any]") -> dict[str, int] | None:
    """How many of these records wait, by entity; None where the user may not see such records."""
    if not holds(user, "view", kind):
        return None
    return dict(visible(user, records).values_list("entity").annotate(Count("pk")))


# --- conflicts ---


class ConflictsView(ListView):
    queryset = Conflict.objects.all()
    filterset_class = filters.ConflictFilters
    order = Order(["created_at"])

    @openapi.conflicts_get
    def get(self, request: Request) -> HttpResponse:
        return self.answer(visible(user_of(request), self.get_queryset()), request, bodies.conflict)


class ConflictView(StaffView):
    @openapi.conflict_get
    def get(self, request: Request, id: UUID) -> HttpResponse:
        found = one(visible(user_of(request), Conflict.objects.all()), id)
        decisions = found.decisions.order_by("at", "rev")
        return answered(bodies.stakes(resolve.stakes_of(found), decisions))


class ResolveView(StaffView):
    @openapi.resolve_post
    def post(self, request: Request, id: UUID) -> HttpResponse:
        found = one(visible(user_of(request), Conflict.objects.all()), id)
        demand(may_decide(user_of(request), found))
        given = body_as(request._request, bodies.StaffResolve)
        with refusals():
            decision = resolve.resolve(
                id,
                given.values,
                rev=given.rev,
                seen=given.seen,
                author=author_of(request),
                comment=given.comment,
                allowed=_allowed(request),
            )
        return answered(bodies.decision(decision))


class PreviewView(StaffView):
    @openapi.preview_post
    def post(self, request: Request) -> HttpResponse:
        given = body_as(request._request, bodies.StaffSide)
        all_of(visible(user_of(request), Conflict.objects.all()), given.ids)
        found = resolve.preview_many(given.ids, given.side, allowed=_allowed(request))
        return answered(bodies.StaffPreviews([bodies.preview(each) for each in found]))


class ResolveManyView(StaffView):
    @openapi.resolve_many_post
    def post(self, request: Request) -> HttpResponse:
        given = body_as(request._request, bodies.StaffSide)
        all_of(visible(user_of(request), Conflict.objects.all()), given.ids)
        bulk = resolve.resolve_many(
            given.ids, given.side, author=author_of(request), comment=given.comment, allowed=_allowed(request)
        )
        decided = [bodies.decision(each) for each in bulk.decided]
        return answered(bodies.StaffBulk(bulk.id, decided, bodies.refused(bulk.refused)))


# --- decisions ---


class DecisionsView(ListView):
    queryset = Decision.objects.all()
    filterset_class = filters.DecisionFilters
    order = Order(["at"])

    @openapi.decisions_get
    def get(self, request: Request) -> HttpResponse:
        return self.answer(visible(user_of(request), self.get_queryset()), request, bodies.decision)


class UndoView(StaffView):
    @openapi.undo_post
    def post(self, request: Request) -> HttpResponse:
        given = body_as(request._request, bodies.StaffUndo)
        if (given.ids is None) == (given.bulk is None):
            raise Problem("invalid_request", "Give either `ids` or `bulk`.", field="ids")
        seen = visible(user_of(request), Decision.objects.all())
        if given.bulk is not None:
            ids = list(seen.filter(bulk=given.bulk).values_list("pk", flat=True))
            if not ids:
                raise Problem("not_found")
        else:
            ids = [decision.pk for decision in all_of(seen, given.ids or [])]
        undone = resolve.undo(ids, author=author_of(request), comment=given.comment, allowed=_allowed(request))
        done = [decision.pk for decision in undone.done]
        return answered(bodies.StaffUndone(done, bodies.refused(undone.kept)))


# --- quarantine ---


class QuarantineView(ListView):
    queryset = Rejection.objects.defer("body")  # which may be megabytes
    filterset_class = filters.RejectionFilters
    order = Order(["created_at"])

    @openapi.quarantine_get
    def get(self, request: Request) -> HttpResponse:
        return self.answer(visible(user_of(request), self.get_queryset()), request, bodies.rejection)


class RejectionView(StaffView):
    @openapi.rejection_get
    def get(self, request: Request, id: UUID) -> HttpResponse:
        seen = visible(user_of(request), Rejection.objects.all())
        found = one(seen, id)
        waiting = waiting_with(found) if found.state == Rejection.State.OPEN else [found]
        along = [each.pk for each in waiting if each.pk != id]
        shown = set(seen.filter(pk__in=along).values_list("pk", flat=True))
        body = msgspec.Raw(found.body.encode())  # it may hold numbers that nobody can read
        return answered(bodies.StaffRejected(bodies.rejection(found), body, [pk for pk in along if pk in shown]))


class ReplayView(StaffView):
    @openapi.replay_post
    def post(self, request: Request, id: UUID) -> HttpResponse:
        user = user_of(request)
        demand(may_mend(user, [one(visible(user, Rejection.objects.all()), id)]))
        given = body_as(request._request, bodies.StaffReplay)
        with refusals():
            found = quarantine.replay(
                id,
                given.set,
                author=author_of(request),
                comment=given.comment,
                allowed=lambda rejection: may_mend(user, [rejection]),
            )
        return answered(bodies.StaffReplays([bodies.replayed(each) for each in found]))


class DiscardView(StaffView):
    @openapi.discard_post
    def post(self, request: Request) -> HttpResponse:
        user = user_of(request)
        given = body_as(request._request, bodies.StaffDiscard)
        demand(may_mend(user, all_of(visible(user, Rejection.objects.all()), given.ids)))
        with refusals():
            count = quarantine.discard(
                given.ids,
                author=author_of(request),
                comment=given.comment,
                allowed=lambda rejection: may_mend(user, [rejection]),
            )
        return answered(bodies.StaffDiscarded(count))


# --- rows ---


class HistoryView(ListView):
    queryset = History.objects.all()
    filterset_class = filters.HistoryFilters
    order = Order(["rev"], "entity")

    @openapi.history_get
    def get(self, request: Request) -> HttpResponse:
        return self.answer(visible(user_of(request), self.get_queryset()), request, bodies.change)


class RestoreView(StaffView):
    @openapi.restore_post
    def post(self, request: Request, entity: str, id: UUID) -> HttpResponse:
        user = user_of(request)
        if entity not in viewable_entities(user):
            raise Problem("not_found")
        given = body_as(request._request, bodies.StaffRestore)
        key = RowKey(entity, str(id))
        demand(may_restore(user, entity, creates=sides_of([key])[key].row is None))
        with refusals():
            rev = versions.restore_version(entity, id, given.version, rev=given.rev, author=author_of(request))
        return answered(bodies.StaffRestored(rev))
