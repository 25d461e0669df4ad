"""How OpenAPI describes the calls of devices and of who watches the server."""

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from sync import openapi_examples as example
from sync.lost import UNKNOWN_IDS_MAX
from sync.openapi_schemas import UUID, array, closed, ref
from syncserver.openapi import COMMON, CONTENT_ENCODING, SYNC_CLIENT, problems

_ETAG = OpenApiParameter("ETag", location=OpenApiParameter.HEADER, required=True, response=[200, 304])
_IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match", location=OpenApiParameter.HEADER, description="The ETag that the device has: 304 where it stands."
)
_FORMAT = OpenApiParameter(
    "format", enum=["json", "sqlite"], default="json", description="`sqlite`: the DDL of a device's own database."
)

schema_get = extend_schema(
    operation_id="sync_schema",
    summary="What a replica needs to know",
    description="Every entity with its fields, each after the entities that it refers to; or, with `format=sqlite`, "
    "the tables of a replica with the triggers that record local changes: all that a device needs beside SQLite.",
    tags=["sync"],
    parameters=[_FORMAT, _IF_NONE_MATCH, SYNC_CLIENT, _ETAG, *COMMON],
    responses={
        (200, "application/json"): OpenApiResponse(
            ref("Schema"), description="The schema.", examples=[OpenApiExample("part of a schema", example.SCHEMA)]
        ),
        (200, "text/plain"): OpenApiResponse(
            {"type": "string"}, examples=[OpenApiExample("part of the DDL", example.SQLITE, media_type="text/plain")]
        ),
        304: OpenApiResponse(description="What the device has is current."),
        **problems("invalid_request", "unauthorized", "device_revoked", "rate_limited"),
    },
)

pull_get = extend_schema(
    operation_id="sync_pull",
    summary="What the device lacks, a page at a time",
    auth=[{"device": []}],  # type: ignore[list-item]
    description="Send the last page's token; without one, from the beginning. While `has_more` is true ask again at "
    "once: only when it is false is the replica consistent. After a 410, push the outbox, then load afresh.",
    tags=["sync"],
    parameters=[
        OpenApiParameter("token", description="How far the device has read. Only the server makes or reads tokens."),
        OpenApiParameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": settings.SYNC_PULL_ROWS_MAX},
            default=settings.SYNC_PULL_ROWS_DEFAULT,
            description=f"Rows at most. A page also ends at about {settings.SYNC_PULL_PAGE_BYTES_MAX // 1_000_000} MB.",
        ),
        OpenApiParameter(
            "wait",
            {"type": "integer", "minimum": 0, "maximum": settings.SYNC_PULL_WAIT_SECONDS_MAX},
            description="Seconds to hold the answer where there is nothing to tell.",
        ),
        SYNC_CLIENT,
        *COMMON,
    ],
    responses={
        200: OpenApiResponse(ref("Page"), description="A page.", examples=[OpenApiExample("one page", example.PAGE)]),
        **problems(
            "invalid_request",
            "invalid_token",
            "unauthorized",
            "device_revoked",
            "rate_limited",
            "not_acceptable",
            "token_expired",
        ),
    },
)

push_post = extend_schema(
    operation_id="sync_push",
    summary="Send the outbox",
    description="Mutations take effect in the order of the list; each stands alone unless it has a `group`. A 200 "
    "means that all it reports is committed. After anything else, send the same batch again: nothing is applied "
    "twice. The values of `set` and `add` are checked for each mutation alone, which a mistake there makes `rejected`."
    "\n\nWith `Prefer: respond-async` the server may answer 202 as soon as the batch is stored, and apply it later, "
    "but before whatever this device pushes after it.",
    tags=["sync"],
    parameters=[
        OpenApiParameter(
            "Prefer",
            location=OpenApiParameter.HEADER,
            description="`respond-async`: do not wait until the batch is applied. The server is free to do so at once.",
        ),
        CONTENT_ENCODING,
        SYNC_CLIENT,
        *COMMON,
    ],
    request={"application/json": ref("Batch")},
    examples=[OpenApiExample("an order and its line, taken offline", example.BATCH, request_only=True)],
    responses={
        200: OpenApiResponse(
            ref("Results"),
            description="One result for each mutation, in order.",
            examples=[OpenApiExample("applied, in conflict, rejected", example.RESULTS)],
        ),
        (202, "application/json"): OpenApiResponse(
            closed({"operation": UUID}),
            description="The batch is stored. `Location` is where to ask what became of it.",
            examples=[OpenApiExample("stored", {"operation": example.OPERATION})],
        ),
        **problems(
            "invalid_json",
            "invalid_request",
            "unknown_field",
            "invalid_encoding",
            "unauthorized",
            "device_revoked",
            "rate_limited",
            "not_acceptable",
            "invalid_token",
            "token_expired",
            "batch_too_large",
            "unsupported_encoding",
        ),
    },
)

unknown_post = extend_schema(
    operation_id="sync_unknown",
    summary="What a restore of the server has lost",
    description="Of the ids of mutations that were answered before, those that the server does not know since its "
    "database was restored. A device asks before it loads afresh, and pushes these again with `lost`.",
    tags=["sync"],
    parameters=[CONTENT_ENCODING, SYNC_CLIENT, *COMMON],
    request={"application/json": closed({"ids": array(UUID) | {"maxItems": UNKNOWN_IDS_MAX}})},
    examples=[OpenApiExample("two mutations", {"ids": example.MUTATIONS[:2]}, request_only=True)],
    responses={
        200: OpenApiResponse(
            closed({"unknown": array(UUID)}),
            description="In the order in which they were asked for.",
            examples=[OpenApiExample("one was lost", {"unknown": example.MUTATIONS[:1]})],
        ),
        **problems(
            "invalid_json",
            "invalid_request",
            "unknown_field",
            "invalid_encoding",
            "unauthorized",
            "device_revoked",
            "not_acceptable",
            "batch_too_large",
            "unsupported_encoding",
        ),
    },
)

operation_get = extend_schema(
    operation_id="sync_operation",
    summary="What became of a push that was answered with 202",
    description="`results` are there when it is `done`, as the push would have answered, and `problem` when it "
    "`failed`: then nothing of it was applied. They are kept for 30 days, for the device that pushed.",
    tags=["sync"],
    parameters=[SYNC_CLIENT, *COMMON],
    responses={
        200: OpenApiResponse(
            ref("Operation"),
            description="Where it stands.",
            examples=[
                OpenApiExample("waits for its turn", {"state": "queued"}),
                OpenApiExample("was applied", {"state": "done", **example.RESULTS}),
            ],
        ),
        **problems("unauthorized", "device_revoked", "rate_limited", "not_found", "not_acceptable"),
    },
)

outcomes_get = extend_schema(
    operation_id="sync_outcomes",
    summary="What became of what was refused or in conflict",
    description="Decisions about the device's own mutations, the oldest first, one each time that a person decides. "
    "Send the last answer's cursor; without one, from the beginning. The same cursor brings the same outcomes, and "
    "those that came since.",
    tags=["sync"],
    parameters=[
        OpenApiParameter("since", description="The cursor of the last answer."),
        OpenApiParameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": settings.SYNC_OUTCOMES_ROWS_MAX},
            default=settings.SYNC_OUTCOMES_ROWS_DEFAULT,
            description="Outcomes at most.",
        ),
        SYNC_CLIENT,
        *COMMON,
    ],
    responses={
        200: OpenApiResponse(
            ref("Outcomes"), description="A page.", examples=[OpenApiExample("one outcome", example.OUTCOMES)]
        ),
        **problems("invalid_request", "unauthorized", "device_revoked", "rate_limited", "not_acceptable"),
    },
)

healthz_get = extend_schema(
    operation_id="healthz",
    summary="Is the process alive",
    description="Asks nothing of the database.",
    tags=["operating"],
    auth=[],
    parameters=[*COMMON],
    responses={
        (200, "application/json"): OpenApiResponse(
            closed({"status": {"const": "alive"}}), examples=[OpenApiExample("alive", {"status": "alive"})]
        )
    },
)

readyz_get = extend_schema(
    operation_id="readyz",
    summary="Can the server do its work",
    description="Whether the database answers, is migrated and captures every change, and no writer holds the feed up.",
    tags=["operating"],
    auth=[],
    parameters=[*COMMON],
    responses={
        (200, "application/json"): OpenApiResponse(
            ref("Readiness"), description="Ready.", examples=[OpenApiExample("ready", example.READY)]
        ),
        (503, "application/json"): OpenApiResponse(
            ref("Readiness"), description="Not ready.", examples=[OpenApiExample("not ready", example.NOT_READY)]
        ),
    },
)
