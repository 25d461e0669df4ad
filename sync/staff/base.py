"""What the views of the staff API share: who may call, lists in pages, and refusals as problems."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from django.contrib.auth.base_user import AbstractBaseUser
from django.db.models import Model, QuerySet
from django.http import HttpResponse
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response

from sync.amend import Invalid, RowMoved
from sync.staff.paging import Order, page_of
from syncserver.errors import Problem

M = TypeVar("M", bound=Model)


class StaffView(GenericAPIView[Any]):
    """For people who may sign in to the admin: by its session with its CSRF token, or by a token of their own."""

    authentication_classes = (TokenAuthentication, SessionAuthentication)
    permission_classes = (IsAdminUser,)
    filter_backends: Sequence[Any] = ()
    pagination_class = None
    metadata_class = None  # OPTIONS would describe serializers, of which there are none

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, NotAuthenticated):
            exc = Problem("login_required")
        elif isinstance(exc, AuthenticationFailed):
            exc = Problem("login_required", str(exc.detail))
        return super().handle_exception(exc)


class ListView(StaffView):
    """One page of `records`, each as `told` makes it."""

    filter_backends = (DjangoFilterBackend,)
    order: Order

    def answer(self, records: "QuerySet[Any]", request: Request, told: Callable[[Any], msgspec.Struct]) -> HttpResponse:
        found, cursor = page_of(self.filter_queryset(records), request, self.order)
        return answered({"results": [told(each) for each in found], "cursor": cursor})


def answered(body: msgspec.Struct | Mapping[str, Any]) -> HttpResponse:
    return HttpResponse(
        msgspec.json.encode(body), content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def user_of(request: Request) -> AbstractBaseUser:
    """Who calls."""
    user = request.user
    assert isinstance(user, AbstractBaseUser)  # of views that demand it
    return user


def author_of(request: Request) -> str:
    """Who calls, as the history names them."""
    return f"user:{user_of(request).get_username()}"


def one(records: "QuerySet[M]", id: UUID) -> M:
    """The record with this id. Raises Problem `not_found`, also for one that the user may not see."""
    found = records.filter(pk=id).first()
    if found is None:
        raise Problem("not_found")
    return found


def all_of(records: "QuerySet[M]", ids: Iterable[UUID]) -> list[M]:
    """The records with these ids. Raises Problem `not_found` where one is missing, or may not be seen."""
    wanted = set(ids)
    found = list(records.filter(pk__in=wanted))
    if missing := wanted - {record.pk for record in found}:
        raise Problem("not_found", f"There is no {sorted(map(str, missing))[0]}.")
    return found


def demand(permitted: bool) -> None:
    """Raise Problem `forbidden` unless that is permitted."""
    if not permitted:
        raise Problem("forbidden")


@contextmanager
def refusals() -> Iterator[None]:
    """What use cases refuse as problems."""
    try:
        yield
    except RowMoved as moved:
        raise Problem("conflict_moved", rev=moved.now.rev, row=moved.now.row) from None
    except Invalid as invalid:
        if any(each.code == "forbidden" for each in invalid.errors):
            raise Problem("forbidden") from None
        raise Problem("change_refused", errors=[msgspec.to_builtins(each) for each in invalid.errors]) from None
