"""The staff API about devices, and the scopes that are granted to them and to users."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone
from rest_framework.request import Request

from devices.enroll import let_in_again, revoke
from devices.grants import Holder, devices_of, grant_all, grants_of, revoke_scopes
from devices.models import Device, Grant
from sync.permissions import holds
from sync.staff import device_bodies as bodies
from sync.staff import filters, openapi
from sync.staff.base import ListView, StaffView, answered, demand, one, user_of
from sync.staff.paging import Order
from syncserver.errors import Problem
from syncserver.http import body_as


def _devices(request: Request) -> "QuerySet[Any]":
    """The devices, for who may see them; none for others."""
    found = Device.objects.with_trouble(timezone.now()).select_related("user")
    return found if holds(user_of(request), "view", Device) else found.none()


def _user(request: Request, name: str) -> AbstractBaseUser:
    """The user of that name. Raises Problem `not_found`, also for who may not see users."""
    users = get_user_model()
    named = users._default_manager.filter(**{users.USERNAME_FIELD: name})
    found = named.first() if name.isprintable() else None  # PostgreSQL knows no NUL
    if found is None or not holds(user_of(request), "view", users):
        raise Problem("not_found")
    return found


class DevicesView(ListView):
    queryset = Device.objects.all()
    filterset_class = filters.DeviceFilters
    order = Order(["name", "created_at"], descending=False)

    @openapi.devices_get
    def get(self, request: Request) -> HttpResponse:
        return self.answer(_devices(request), request, bodies.device)


class DeviceView(StaffView):
    @openapi.device_get
    def get(self, request: Request, id: UUID) -> HttpResponse:
        return answered(bodies.device(one(_devices(request), id)))


class RevokeView(StaffView):
    @openapi.revoke_post
    def post(self, request: Request, id: UUID) -> HttpResponse:
        device = one(_devices(request), id)
        demand(holds(user_of(request), "change", Device))
        revoke(device, body_as(request._request, bodies.StaffRevoke).wipe)
        return answered(bodies.device(device))


class LetInView(StaffView):
    @openapi.let_in_post
    def post(self, request: Request, id: UUID) -> HttpResponse:
        device = one(_devices(request), id)
        demand(holds(user_of(request), "change", Device))
        let_in_again(device)
        return answered(bodies.device(one(_devices(request), id)))


class DeviceGrantsView(StaffView):
    @openapi.device_grants_get
    def get(self, request: Request, id: UUID) -> HttpResponse:
        return _shown(request, one(_devices(request), id))

    @openapi.device_grant_post
    def post(self, request: Request, id: UUID) -> HttpResponse:
        return _granted(request, one(_devices(request), id))


class DeviceRevocationsView(StaffView):
    @openapi.device_take_post
    def post(self, request: Request, id: UUID) -> HttpResponse:
        return _taken(request, one(_devices(request), id))


class UserGrantsView(StaffView):
    @openapi.user_grants_get
    def get(self, request: Request, name: str) -> HttpResponse:
        return _shown(request, _user(request, name))

    @openapi.user_grant_post
    def post(self, request: Request, name: str) -> HttpResponse:
        return _granted(request, _user(request, name))


class UserRevocationsView(StaffView):
    @openapi.user_take_post
    def post(self, request: Request, name: str) -> HttpResponse:
        return _taken(request, _user(request, name))


def _shown(request: Request, holder: Holder) -> HttpResponse:
    demand(holds(user_of(request), "view", Grant))
    return answered(bodies.grants(grants_of(holder)))


def _granted(request: Request, holder: Holder) -> HttpResponse:
    demand(holds(user_of(request), "add", Grant))
    scopes = body_as(request._request, bodies.StaffScopes).scopes
    with _refusals():
        return _answered(grant_all(scopes, holder), holder)


def _taken(request: Request, holder: Holder) -> HttpResponse:
    demand(holds(user_of(request), "delete", Grant))
    scopes = body_as(request._request, bodies.StaffScopes).scopes
    with _refusals():
        return _answered(revoke_scopes(scopes, holder), holder)


def _answered(changed: list[str], holder: Holder) -> HttpResponse:
    return answered(bodies.StaffGranted(changed, devices_of(holder).count()))


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        code = "too_many_scopes" if error.code == "too_many_scopes" else "invalid_request"
        raise Problem(code, " ".join(error.messages), field="scopes") from None
