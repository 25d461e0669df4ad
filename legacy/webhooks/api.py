"""Thin HTTP over the inbox: who sends, what becomes of it."""

import logging
from uuid import UUID

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework.authentication import TokenAuthentication
from rest_framework.request import Request

from legacy.connector import Misconfigured
from legacy.systems import System
from legacy.webhooks import openapi
from legacy.webhooks.bodies import OperationBody, told
from legacy.webhooks.hook import Hook, Unreadable
from legacy.webhooks.inbox import is_link, link_to, listening, receive
from legacy.webhooks.models import Operation
from legacy.webhooks.verifiers import Delivery, Forged
from syncserver.errors import Problem
from syncserver.http import DirectView

RETRY_SECONDS = 60  # for a sender, while LEGACY_SYSTEMS is wrong

log = logging.getLogger(__name__)


class WebhookView(DirectView):
    @openapi.webhook_post
    def post(self, request: HttpRequest, system: str) -> HttpResponse:
        return _received(request, system, "")


class SecretWebhookView(DirectView):
    @openapi.secret_webhook_post
    def post(self, request: HttpRequest, system: str, secret: str) -> HttpResponse:
        return _received(request, system, secret)


class OperationView(DirectView):
    """For whoever has the link that its 202 gave, and for staff who may view what came in."""

    authentication_classes = (TokenAuthentication,)
    permission_classes = ()

    @openapi.operation_get
    def get(self, request: HttpRequest, id: UUID) -> HttpResponse:
        staff = _is_staff(request)
        if not staff and not is_link(str(id), request.GET.get("token", "")):
            raise Problem("login_required", "Use the link that the webhook was answered with, or a token of the staff.")
        operation = Operation.objects.prefetch_related("hints").filter(pk=id).first()
        if operation is None:
            raise Problem("not_found")
        return _answered(told(operation, with_errors=staff))


def _received(request: HttpRequest, system: str, secret: str) -> HttpResponse:
    named, hook = _listening(system)
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        operation = receive(named, hook, Delivery(headers, request.body, timezone.now(), secret))
    except Forged as forged:
        log.warning("a webhook of %s was refused: %s", named.name, forged)
        raise Problem("signature_refused") from None
    except Unreadable as unreadable:
        raise Problem("invalid_request", str(unreadable)) from None
    body = told(operation)
    answer = _answered(body, 200 if hook.mode == "sync" and body.state == "done" else 202)
    answer.headers["Location"] = link_to(operation)
    return answer


def _listening(name: str) -> tuple[System, Hook]:
    try:
        found = listening(name)
    except Misconfigured as error:
        log.error("webhooks are not taken: %s", error)
        raise Problem("service_unavailable", retry_after_seconds=RETRY_SECONDS) from None
    if found is None:
        raise Problem("not_found", "There is no such system, or it has no webhook.")
    return found


def _is_staff(request: HttpRequest) -> bool:
    """Whether a staff token was sent whose person may see what came in. Raises AuthenticationFailed for a wrong one."""
    found = TokenAuthentication().authenticate(Request(request))
    return found is not None and found[0].is_staff and found[0].has_perm("legacy.view_operation")


def _answered(body: OperationBody, status: int = 200) -> HttpResponse:
    return HttpResponse(
        msgspec.json.encode(body), status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
