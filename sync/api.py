"""Thin HTTP over pull, push and the schema: parse, authorise, call one function, answer."""

import re
import secrets
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.http import parse_etags
from rest_framework.request import Request
from rest_framework.views import APIView

from devices.authentication import authenticated, bearer_hash, seen, stop_runaway
from sync import openapi, openapi_integrity
from sync.alerts.metrics import scrape
from sync.digest import digest, rows
from sync.health import readiness
from sync.lost import unknown
from sync.mismatch import Report, keep
from sync.operations import accept, outcome, push_in_turn
from sync.outcomes import outcomes
from sync.pull import pull
from sync.schema import schema_as
from syncserver.errors import Problem
from syncserver.http import DirectView, WhateverAccepted, body_as
from syncserver.logs import DEVICE_KEY


class SchemaView(APIView):
    content_negotiation_class = WhateverAccepted

    @openapi.schema_get
    def get(self, request: Request) -> HttpResponse:
        kind = request.query_params.get("format", "json")
        if kind not in {"json", "sqlite"}:
            raise Problem("invalid_request", "`format` must be json or sqlite.", field="format")
        body, etag = schema_as(kind)
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        known = [tag.removeprefix("W/") for tag in parse_etags(request.META.get("HTTP_IF_NONE_MATCH", ""))]
        if etag in known or "*" in known:
            return HttpResponse(status=304, headers=headers)
        media_type = "application/json" if kind == "json" else "text/plain; charset=utf-8"
        return HttpResponse(body, content_type=media_type, headers=headers)


class PullView(DirectView):
    @openapi.pull_get
    def get(self, request: HttpRequest) -> HttpResponse:
        hashed = bearer_hash(request)
        if hashed is None:
            raise Problem("unauthorized")
        limit = _number(request, "limit", 1, settings.SYNC_PULL_ROWS_MAX) or settings.SYNC_PULL_ROWS_DEFAULT
        _number(request, "wait", 0, settings.SYNC_PULL_WAIT_SECONDS_MAX)  # answered at once in this version
        stop_runaway(hashed)
        page = pull(hashed, request.GET.get("token"), limit)
        request.META[DEVICE_KEY] = page.device
        seen(hashed, page.device, page.last_seen_at, request.META.get("HTTP_SYNC_CLIENT"), page.pending)
        return HttpResponse(page.body, content_type="application/json")


class PushView(DirectView):
    @openapi.push_post
    def post(self, request: HttpRequest) -> HttpResponse:
        device = authenticated(request)
        if device is None:
            raise Problem("unauthorized")
        if _may_be_later(request) and (operation := accept(device.id, request.body)) is not None:
            return _accepted(operation)
        return HttpResponse(push_in_turn(device, request.body), content_type="application/json")


class UnknownView(DirectView):
    @openapi.unknown_post
    def post(self, request: HttpRequest) -> HttpResponse:
        if authenticated(request) is None:
            raise Problem("unauthorized")
        return HttpResponse(unknown(request.body), content_type="application/json")


class OperationView(DirectView):
    @openapi.operation_get
    def get(self, request: HttpRequest, id: UUID) -> HttpResponse:
        device = authenticated(request)
        if device is None:
            raise Problem("unauthorized")
        body = outcome(device, id)
        if body is None:
            raise Problem("not_found")
        return HttpResponse(body, content_type="application/json", headers={"Cache-Control": "no-store"})


class OutcomesView(DirectView):
    @openapi.outcomes_get
    def get(self, request: HttpRequest) -> HttpResponse:
        device = authenticated(request)
        if device is None:
            raise Problem("unauthorized")
        limit = _number(request, "limit", 1, settings.SYNC_OUTCOMES_ROWS_MAX) or settings.SYNC_OUTCOMES_ROWS_DEFAULT
        body = outcomes(device.id, device.scopes, request.GET.get("since"), limit)
        return HttpResponse(body, content_type="application/json")


class DigestView(DirectView):
    @openapi_integrity.digest_get
    def get(self, request: HttpRequest) -> HttpResponse:
        hashed = bearer_hash(request)
        if hashed is None:
            raise Problem("unauthorized")
        asked = request.GET
        if not (token := asked.get("token")):
            raise Problem("invalid_request", "`token` is that of the last pull.", field="token")
        bucket, after = _bucket(asked.get("bucket")), _uuid(asked.get("after"))
        if (bucket is not None and "entity" not in asked) or (after is not None and bucket is None):
            raise Problem("invalid_request", "`bucket` goes with `entity`, and `after` with `bucket`.", field="bucket")
        stop_runaway(hashed)
        device, body = digest(hashed, token, asked.get("entity"), bucket, after)
        request.META[DEVICE_KEY] = device.id
        seen(hashed, device.id, device.last_seen_at, request.META.get("HTTP_SYNC_CLIENT"), device.pending)
        return HttpResponse(body, content_type="application/json")


class RowsView(DirectView):
    @openapi_integrity.rows_post
    def post(self, request: HttpRequest) -> HttpResponse:
        device = authenticated(request)
        if device is None:
            raise Problem("unauthorized")
        asked = body_as(request, dict[str, list[UUID]])
        return HttpResponse(rows(device.scopes, asked), content_type="application/json")


class MismatchView(DirectView):
    @openapi_integrity.mismatch_post
    def post(self, request: HttpRequest) -> HttpResponse:
        device = authenticated(request)
        if device is None:
            raise Problem("unauthorized")
        keep(device, body_as(request, Report))
        return HttpResponse(status=204)


def _bucket(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch("[0-9a-f]{2}", text):
        raise Problem("invalid_request", "`bucket` must be a byte in hex, 00 to ff.", field="bucket")
    return int(text, 16)


def _uuid(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise Problem("invalid_request", "`after` must be the id of a row.", field="after") from None


def _may_be_later(request: HttpRequest) -> bool:
    """Whether the device prefers not to wait for the answer (RFC 7240)."""
    asked = request.META.get("HTTP_PREFER", "").lower().split(",")
    return any(preference.partition(";")[0].strip() == "respond-async" for preference in asked)


def _accepted(operation: UUID) -> HttpResponse:
    headers = {"Location": f"/sync/operations/{operation}", "Preference-Applied": "respond-async"}
    return JsonResponse({"operation": str(operation)}, status=202, headers=headers)


def _number(request: HttpRequest, name: str, low: int, high: int) -> int | None:
    text = request.GET.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise Problem("invalid_request", f"`{name}` must be a whole number from {low} to {high}.", field=name)
    return int(text)


class HealthView(APIView):
    authentication_classes = ()
    permission_classes = ()
    content_negotiation_class = WhateverAccepted

    @openapi.healthz_get
    def get(self, _request: Request) -> HttpResponse:
        return JsonResponse({"status": "alive"})


class ReadyView(APIView):
    authentication_classes = ()
    permission_classes = ()
    content_negotiation_class = WhateverAccepted

    @openapi.readyz_get
    def get(self, _request: Request) -> HttpResponse:
        found = readiness()
        return JsonResponse(found, status=200 if found["status"] == "ready" else 503)


def metrics(request: HttpRequest) -> HttpResponse:
    """For Prometheus. Not part of the protocol, so not of openapi.yaml either."""
    if not settings.SYNC_METRICS_TOKEN:
        raise Problem("not_found")
    if request.method != "GET":
        raise Problem("method_not_allowed")
    scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    given, wanted = token.strip().encode(errors="replace"), settings.SYNC_METRICS_TOKEN.encode()
    if scheme.lower() != "bearer" or not secrets.compare_digest(given, wanted):
        raise Problem("unauthorized", "The bearer token must be that of SYNC_METRICS_TOKEN.")
    body, media_type = scrape(request.META.get("HTTP_ACCEPT", ""))
    return HttpResponse(body, content_type=media_type, headers={"Cache-Control": "no-store"})
