"""The endpoints of a device's own life: enrol, who am I, rotate."""

import uuid
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from devices import enroll
from devices.authentication import WipedAuthentication, bearer_hash, device_of
from devices.models import Device
from syncserver.http import body_as, client_address
from syncserver.openapi import COMMON, CONTENT_ENCODING, SYNC_CLIENT, problems, schema

EXAMPLE_DEVICE = "01980a1e-6f4c-7c3e-9d3b-2f8a4d1c5b60"


Moment = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]


class Enrollment(msgspec.Struct, forbid_unknown_fields=True):
    """What a device sends to enrol."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    platform: Annotated[str, msgspec.Meta(max_length=100)] = ""
    app_version: Annotated[str, msgspec.Meta(max_length=50)] = ""


class Enrolled(msgspec.Struct):
    """The token is told this once. `scopes` are those granted to the device and to its user."""

    device: uuid.UUID
    token: str
    scopes: list[str]


class Identity(msgspec.Struct):
    """Who the device is, and what it was granted. `user` is a user name."""

    device: uuid.UUID
    name: str
    platform: str
    app_version: str
    scopes: list[str]
    user: str | None
    enrolled_at: Moment
    last_seen_at: Moment | None


class Rotated(msgspec.Struct):
    """The device's new token."""

    token: str


class EnrollView(APIView):
    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="devices_enroll",
        summary="Enrol a device with a code",
        tags=["devices"],
        auth=[],
        parameters=[CONTENT_ENCODING, SYNC_CLIENT, *COMMON],
        request={"application/json": schema(Enrollment)},
        examples=[
            OpenApiExample(
                "a tablet",
                value={
                    "code": "K7QF-2M9X-3TRW-8HDN",
                    "name": "Tablet 12",
                    "platform": "android 16",
                    "app_version": "1.4.0",
                },
                request_only=True,
            )
        ],
        responses={
            201: OpenApiResponse(
                schema(Enrolled),
                description="Enrolled. Keep the token: the server stores only its hash.",
                examples=[
                    OpenApiExample(
                        "enrolled",
                        value={
                            "device": EXAMPLE_DEVICE,
                            "token": "sd_5kP…",
                            "scopes": ["global", "store:7"],
                        },
                    )
                ],
            ),
            **problems(
                "invalid_json",
                "invalid_request",
                "unknown_field",
                "invalid_encoding",
                "too_many_scopes",
                "enrollment_refused",
                "not_acceptable",
                "body_too_large",
                "unsupported_media_type",
                "unsupported_encoding",
                "rate_limited",
            ),
        },
    )
    def post(self, request: Request) -> HttpResponse:
        """Works once for each code; a wrong, used and expired code are refused alike."""
        body = body_as(request, Enrollment)
        device, token = enroll.enroll(body.code, body.name, body.platform, body.app_version, client_address(request))
        return _json(Enrolled(device.id, token, device.scopes), status=201)


class MeView(APIView):
    @extend_schema(
        operation_id="devices_me",
        summary="Who am I",
        tags=["devices"],
        parameters=[SYNC_CLIENT, *COMMON],
        responses={
            200: OpenApiResponse(
                schema(Identity),
                examples=[
                    OpenApiExample(
                        "a tablet",
                        value={
                            "device": EXAMPLE_DEVICE,
                            "name": "Tablet 12",
                            "platform": "android 16",
                            "app_version": "1.4.0",
                            "scopes": ["global", "store:7"],
                            "user": "ana",
                            "enrolled_at": "2026-11-21T09:00:00.000000Z",
                            "last_seen_at": "2026-11-21T09:30:00.000000Z",
                        },
                    )
                ],
            ),
            **problems("unauthorized", "device_revoked", "not_acceptable", "rate_limited"),
        },
    )
    def get(self, request: Request) -> HttpResponse:
        """The device that the token belongs to, with its scopes and its user's."""
        caller = device_of(request)
        device = Device.objects.select_related("user").get(pk=caller.pk)
        return _json(
            Identity(
                device=device.id,
                name=device.name,
                platform=device.platform,
                app_version=device.app_version,
                scopes=caller.scopes,
                user=device.user.get_username() if device.user else None,
                enrolled_at=_moment(device.created_at),
                last_seen_at=_moment(device.last_seen_at) if device.last_seen_at else None,
            )
        )


class RotateView(APIView):
    @extend_schema(
        operation_id="devices_rotate",
        summary="Swap the token",
        tags=["devices"],
        parameters=[SYNC_CLIENT, *COMMON],
        request=None,
        responses={
            200: OpenApiResponse(schema(Rotated), examples=[OpenApiExample("swapped", value={"token": "sd_5kP…"})]),
            **problems("unauthorized", "device_revoked", "not_acceptable", "rate_limited"),
        },
    )
    def post(self, request: Request) -> HttpResponse:
        """The old token goes on until the new one is used, and for some minutes more: an answer may get lost.

        Then the device just swaps the old one again, and the new one that it never got is dead.
        """
        hashed = bearer_hash(request)
        assert hashed is not None  # of a device that was authenticated
        return _json(Rotated(enroll.rotate(device_of(request), hashed)))


class WipedView(APIView):
    authentication_classes = (WipedAuthentication,)

    @extend_schema(
        operation_id="devices_wiped",
        summary="Report that the data was deleted",
        tags=["devices"],
        auth=[{"device": []}],  # type: ignore[list-item]
        parameters=[SYNC_CLIENT, *COMMON],
        request=None,
        responses={
            204: OpenApiResponse(description="Noted, or was noted before."),
            **problems("unauthorized", "device_revoked", "forbidden", "not_acceptable"),
        },
    )
    def post(self, request: Request) -> HttpResponse:
        """For a revoked device that was told to wipe, once it has: the one call that it may make."""
        enroll.wiped(device_of(request))
        return HttpResponse(status=204)


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _json(body: msgspec.Struct, status: int = 200) -> HttpResponse:
    answer = HttpResponse(msgspec.json.encode(body), status=status, content_type="application/json")
    answer.headers["Cache-Control"] = "no-store"
    return answer
