"""How OpenAPI describes the staff API."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from sync.openapi_schemas import array, closed, ref
from sync.staff import bodies, device_bodies
from sync.staff import openapi_examples as example
from syncserver.openapi import CONTENT_ENCODING, REQUEST_ID, RETRY_AFTER, problems

F = TypeVar("F", bound=Callable[..., Any])
Schema = dict[str, Any]
LOGIN = OpenApiParameter("WWW-Authenticate", location=OpenApiParameter.HEADER, enum=["Token"], response=[401])
COMMON = (REQUEST_ID, RETRY_AFTER, LOGIN)


def add_components(result: Schema, generator: object, request: object, public: bool) -> Schema:  # noqa: ARG001
    """drf-spectacular's hook: the schemas of the bodies."""
    kinds = [*bodies.INCOMING, *device_bodies.INCOMING, *bodies.OUTGOING, *device_bodies.OUTGOING]
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    lists = {
        f"{kind.__name__}List": closed({"results": array(ref(kind.__name__)), "cursor": {"type": ["string", "null"]}})
        for kind in (*bodies.LISTED, *device_bodies.LISTED)
    }
    schemas = result["components"]["schemas"] | found | lists
    result["components"]["schemas"] = dict(sorted(schemas.items()))
    return result


def _described(
    name: str,
    summary: str,
    description: str,
    kind: str,
    shown: Any,
    *codes: str,
    body: str | None = None,
    sent: Any = None,
    parameters: tuple[OpenApiParameter, ...] = (),
    filters: bool = False,
) -> Callable[[F], F]:
    common = ("login_required", "forbidden", "not_acceptable", *codes)
    if body is not None:
        common += ("invalid_json", "invalid_request", "unknown_field", "invalid_encoding", "body_too_large")
        common += ("unsupported_media_type", "unsupported_encoding")
    return extend_schema(
        operation_id=f"staff_{name}",
        summary=summary,
        description=description,
        tags=["staff"],
        filters=filters,
        parameters=[*parameters, *((CONTENT_ENCODING,) if body else ()), *COMMON],
        request={"application/json": ref(body)} if body else None,
        examples=[OpenApiExample("as it is sent", sent, request_only=True)] if body else [],
        responses={
            200: OpenApiResponse(ref(kind), description="Done.", examples=[OpenApiExample("an answer", shown)]),
            **problems(*common),
        },
    )


def _listed(name: str, summary: str, description: str, kind: str, shown: Any, *orders: str) -> Callable[[F], F]:
    parameters = (
        OpenApiParameter("cursor", description="That of the page before; none: the first page."),
        OpenApiParameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": settings.SYNC_STAFF_ROWS_MAX},
            default=settings.SYNC_STAFF_ROWS_DEFAULT,
            description="Records at most.",
        ),
        OpenApiParameter("ordering", enum=[sign + each for each in orders for sign in ("-", "")]),
    )
    page = {"results": [shown], "cursor": None}
    return _described(
        name, summary, description, f"{kind}List", page, "invalid_request", parameters=parameters, filters=True
    )


_DECIDING = ("not_found", "conflict_moved", "change_refused")

entities_get = _described(
    "entities", "What syncs", "The entities that you may see, with what waits.", "StaffEntityList",
    {"results": [example.ENTITY], "cursor": None},
)  # fmt: skip
conflicts_get = _listed(
    "conflicts", "Conflicts", "Those of entities that you may see, the newest first.", "StaffConflict",
    example.CONFLICT, "created_at",
)  # fmt: skip
conflict_get = _described(
    "conflict", "One conflict", "With each side's values at stake, the row as it is now, and what was decided.",
    "StaffStakes", example.STAKES, "not_found",
)  # fmt: skip
resolve_post = _described(
    "resolve", "Decide a conflict",
    "`values` names fields at stake. `{}` keeps the row as it is, null deletes it; a deleted row comes back with "
    "values. `rev` and `seen` are those of the conflict as it was shown; where they are not any more: 409.",
    "StaffDecision", example.DECISION, *_DECIDING, body="StaffResolve", sent=example.RESOLVE,
)  # fmt: skip
preview_post = _described(
    "preview", "What a decision about many would do", "Nothing is written.", "StaffPreviews", example.PREVIEWS,
    "not_found", body="StaffSide", sent=example.SIDE,
)  # fmt: skip
resolve_many_post = _described(
    "resolve_many", "Decide many conflicts",
    "In the order in which they came. Where what is at stake was changed since, it is refused with `moved`.",
    "StaffBulk", example.BULK, "not_found", body="StaffSide", sent=example.SIDE,
)  # fmt: skip
decisions_get = _listed(
    "decisions", "Decisions", "What people decided, the newest first.", "StaffDecision", example.DECISION, "at"
)
undo_post = _described(
    "undo", "Undo decisions", "What they replaced is put back where nobody has changed it since; others are `kept`.",
    "StaffUndone", example.UNDONE, "not_found", body="StaffUndo", sent=example.UNDO,
)  # fmt: skip
quarantine_get = _listed(
    "quarantine", "The quarantine", "Mutations that were refused, the newest first.", "StaffRejection",
    example.REJECTION, "created_at",
)  # fmt: skip
rejection_get = _described(
    "rejection", "One mutation in quarantine", "As it came, with what would be replayed with it.", "StaffRejected",
    example.REJECTED, "not_found",
)  # fmt: skip
replay_post = _described(
    "replay", "Replay a mutation",
    "With its group, and all that waited for it. It is merged with what changed since, as a push is.",
    "StaffReplays", example.REPLAYS, "not_found", "change_refused", body="StaffReplay", sent=example.REPLAY,
)  # fmt: skip
discard_post = _described(
    "discard", "Discard mutations", "They stay in the records; their device is told why.", "StaffDiscarded",
    {"discarded": 2}, "not_found", "change_refused", body="StaffDiscard", sent=example.DISCARD,
)  # fmt: skip
devices_get = _listed("devices", "Devices", "By name.", "StaffDevice", example.DEVICE, "name", "created_at")
device_get = _described("device", "One device", "", "StaffDevice", example.DEVICE, "not_found")
revoke_post = _described(
    "revoke", "Revoke a device", "From now on it is refused on every call.", "StaffDevice", example.DEVICE, "not_found",
    body="StaffRevoke", sent={"wipe": True},
)  # fmt: skip
let_in_post = _described(
    "let_in", "Let an expired device in again", "Where it has not expired, nothing is done: see its `state`.",
    "StaffDevice", example.DEVICE, "not_found",
)  # fmt: skip


def _grants(of: str, whom: str) -> tuple[Callable[[F], F], ...]:
    """Of the three operations on the grants of a device or a user."""
    id = OpenApiParameter("name", location=OpenApiParameter.PATH, description="The user's name.")
    more: dict[str, Any] = {"parameters": (id,)} if of == "user" else {}
    sent = more | {"body": "StaffScopes", "sent": {"scopes": ["store:7"]}}
    return (
        _described(
            f"{of}_grants", f"What {whom} may see", "The granted scopes, and to whom.", "StaffGrants",
            {"grants": [{"scope": "store:7", "to": of, "source": ""}]}, "not_found", **more,
        ),
        _described(
            f"{of}_grant", f"Grant scopes to {whom}", "All of them, or none. Their rows come with the next pulls.",
            "StaffGranted", {"changed": ["store:7"], "devices": 1}, "not_found", "too_many_scopes", **sent,
        ),
        _described(
            f"{of}_take", f"Take scopes back from {whom}", "Rows that no other scope holds leave with the next pull.",
            "StaffGranted", {"changed": ["store:7"], "devices": 1}, "not_found", **sent,
        ),
    )  # fmt: skip


device_grants_get, device_grant_post, device_take_post = _grants("device", "a device")
user_grants_get, user_grant_post, user_take_post = _grants("user", "all devices of a user")
history_get = _listed(
    "history", "What became of a row", "Its changes, the newest first.", "StaffChange", example.CHANGE, "rev"
)
restore_post = _described(
    "restore", "Make a row what it was", "A deleted row comes back. `rev` is that of the row as it was shown.",
    "StaffRestored", {"rev": 8}, *_DECIDING, body="StaffRestore", sent={"version": 3, "rev": 7},
)  # fmt: skip
