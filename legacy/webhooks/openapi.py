"""How OpenAPI describes webhooks that come in."""

from collections.abc import Callable
from typing import Any, TypeVar

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from legacy.webhooks.models import Hint
from sync.openapi_schemas import UUID, array, closed
from syncserver.openapi import CONTENT_ENCODING, REQUEST_ID, RETRY_AFTER, problems

F = TypeVar("F", bound=Callable[..., Any])
_ID = "0198a1b2-0000-7000-8000-00000000c0de"
_RECORD = closed(
    {
        "mapping": {"type": "string"},
        "key": {"type": "string", "description": "That of the record in its system."},
        "state": {"enum": Hint.State.values},
        "outcome": {"enum": ["", *Hint.Outcome.values], "description": "Empty: nothing became of it yet."},
        "error": {"type": "string", "description": "Told to staff alone."},
    },
    "error",
)
_OPERATION = closed({"operation": UUID, "state": {"enum": ["waiting", "done", "failed"]}, "records": array(_RECORD)})
_DONE = {
    "operation": _ID,
    "state": "done",
    "records": [{"mapping": "customer", "key": "ALFKI", "state": "done", "outcome": "updated"}],
}
_WAITING: dict[str, Any] = {
    "operation": _ID,
    "state": "waiting",
    "records": [{"mapping": "customer", "key": "ALFKI", "state": "waiting", "outcome": ""}],
}
_SIGNATURE = OpenApiParameter("WWW-Authenticate", location=OpenApiParameter.HEADER, enum=["Signature"], response=[401])
_LOGIN = OpenApiParameter("WWW-Authenticate", location=OpenApiParameter.HEADER, enum=["Token"], response=[401])
_LOCATION = OpenApiParameter(
    "Location",
    location=OpenApiParameter.HEADER,
    description="Where to ask what became of it, without further credentials.",
    response=[200, 202],
)


def _webhook(name: str, summary: str) -> Callable[[F], F]:
    return extend_schema(
        operation_id=name,
        summary=summary,
        description="The body and its signature are as the system sends them: it is declared here how they are read. "
        "An event is a hint: the record is fetched from the system and taken over as it is now. What came is stored "
        "before it is answered, and recognised when it comes again.",
        tags=["webhooks"],
        auth=[],
        parameters=[CONTENT_ENCODING, REQUEST_ID, RETRY_AFTER, _SIGNATURE, _LOCATION],
        request={"application/json": {}},
        examples=[OpenApiExample("a change", {"type": "customer.updated", "data": {"id": "ALFKI"}}, request_only=True)],
        responses={
            200: OpenApiResponse(_OPERATION, "It was applied at once.", [OpenApiExample("done", _DONE)]),
            202: OpenApiResponse(_OPERATION, "It was stored.", [OpenApiExample("stored", _WAITING)]),
            **problems(
                "invalid_request",
                "invalid_encoding",
                "signature_refused",
                "not_found",
                "body_too_large",
                "unsupported_encoding",
            ),
        },
    )


webhook_post = _webhook("legacy_webhook", "A pre-existing system tells that records changed")
secret_webhook_post = _webhook("legacy_secret_webhook", "The same for a system that signs nothing")

operation_get = extend_schema(
    operation_id="legacy_operation",
    summary="What became of a webhook",
    description="For whoever has the link that the webhook was answered with (its `token`), and for staff with a token "
    "of their own (`Authorization: Token`) who may view incoming webhooks.",
    tags=["webhooks"],
    parameters=[
        OpenApiParameter("token", description="That of the link."),
        REQUEST_ID,
        RETRY_AFTER,
        _LOGIN,
    ],
    responses={
        200: OpenApiResponse(_OPERATION, "What is known of it.", [OpenApiExample("done", _DONE)]),
        **problems("login_required", "not_found"),
    },
)
