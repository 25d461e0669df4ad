"""How OpenAPI describes pull, push and the schema. Rows are described from the declarations, field by field."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from sync import openapi_examples as example
from sync.lost import UNKNOWN_IDS_MAX
from sync.merge import CONFLICT_POLICIES
from sync.models import Conflict, Operation, Outcome
from sync.wire import INTEGER_SAFE_MAX, PROTOCOL, Entity, Field, entities
from syncserver.errors import REJECTIONS
from syncserver.openapi import COMMON, CONTENT_ENCODING, SYNC_CLIENT, problems

Schema = dict[str, Any]

UUID: Schema = {"type": "string", "format": "uuid"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
REVISION: Schema = {"type": "integer", "format": "int64", "minimum": 1}
# The wire form of each type, as docs/protocol.md has it.
_TYPES: dict[str, Schema] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "real": {"type": "number"},
    "decimal": {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"},
    "boolean": {"type": "boolean"},
    "datetime": MOMENT,
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "pattern": r"^\d{2}:\d{2}:\d{2}\.\d{6}$"},
    "uuid": UUID,
    "json": {},
    "binary": {"type": "string", "contentEncoding": "base64"},
}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def closed(properties: dict[str, Schema], *optional: str) -> Schema:
    """An object with these members and no others; all are required but the `optional` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


# --- components ---


def add_components(result: Schema, generator: object, request: object, public: bool) -> Schema:  # noqa: ARG001
    """drf-spectacular's hook: the schemas that `ref` names."""
    schemas = result["components"]["schemas"] | _components()
    result["components"]["schemas"] = dict(sorted(schemas.items()))
    return result


def _components() -> dict[str, Schema]:
    rows = {_row_name(entity): _row(entity) for entity in entities().values()}
    return rows | {
        "Schema": closed(
            {
                "protocol": {"type": "integer", "const": PROTOCOL},
                "schema": {"type": "string"},
                "entities": array(ref("Entity")),
            }
        ),
        "Outcome": _OUTCOME,
        "Outcomes": closed(
            {"outcomes": array(ref("Outcome")), "cursor": {"type": "string"}, "has_more": {"type": "boolean"}}
        ),
        "Entity": _ENTITY,
        "Field": _FIELD,
        "Page": closed({"changes": changes(), "token": {"type": "string"}, "has_more": {"type": "boolean"}}),
        "Batch": _BATCH,
        "Mutation": _MUTATION,
        "Results": closed({"results": array(ref("Result"))}),
        "Operation": closed(
            {
                "state": {"enum": Operation.State.values},
                "results": array(ref("Result")),
                "problem": ref("Problem"),
            },
            "results",
            "problem",
        ),
        "Result": _result(),
        "Rejection": _REJECTION,
        "Readiness": _READINESS,
    }


def _row_name(entity: Entity) -> str:
    return "".join(word.capitalize() for word in entity.name.split("_")) + "Row"


def _row(entity: Entity) -> Schema:
    """A row as devices get it."""
    fields = {field.name: _field(field) for field in entity.fields}
    return closed({"id": UUID, "_rev": REVISION} | fields)


def _field(field: Field) -> Schema:
    described = dict(_TYPES[field.type])
    if field.type == "integer" and field.db_type == "bigint":
        described = {"type": ["integer", "string"], "description": f"A string beyond ±{INTEGER_SAFE_MAX}."}
    if field.references:
        described["description"] = f"The id of a row of {field.references}."
    if field.nullable and isinstance(kind := described.get("type"), str):
        described["type"] = [kind, "null"]
    elif field.nullable and "type" in described:
        described["type"] = [*described["type"], "null"]
    return described


def changes() -> Schema:
    """By entity; one without changes is left out."""
    names = {e.name: closed({"upserts": array(ref(_row_name(e))), "deletes": array(UUID)}) for e in entities().values()}
    return closed(names, *names)


_ENTITY = closed(
    {
        "name": {"type": "string"},
        "label": {"type": "string"},
        "writable": {"type": "boolean"},
        "conflict": {"enum": [*CONFLICT_POLICIES, "function"]},
        "fields": array(ref("Field")),
    }
)
_FIELD = closed(
    {
        "name": {"type": "string"},
        "type": {"enum": list(_TYPES)},
        "nullable": {"type": "boolean"},
        "max_length": {"type": ["integer", "null"]},
        "choices": {"type": ["array", "null"], "items": {"type": ["string", "integer"]}},
        "references": {"type": ["string", "null"], "description": "The entity that the field refers to."},
        "read_only": {"type": "boolean"},
        "default": {"description": "What a new row has where its mutation does not set the field; null: none."},
        "counter": {"type": "boolean", "description": "Whether mutations may `add` to the field."},
    }
)
_MUTATION: Schema = closed(
    {
        "id": UUID | {"description": "Made by the device; sent again, the mutation is not applied again."},
        "entity": {"type": "string"},
        "row": UUID,
        "op": {"enum": ["create", "update", "delete"]},
        "base": nullable(REVISION)
        | {"description": "The revision that the device had from the server when it made the change; null: none."},
        "set": {"type": "object", "description": "Only the fields that the device changed, in their wire form."},
        "add": {"type": "object", "description": "Amounts to add to counter fields."},
        "group": nullable(UUID) | {"description": "Mutations of one group are applied all together or not at all."},
        "made_at": nullable(MOMENT),
        "lost": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "It is of before a restore of the server: the revision that it had then, 0 where it had "
            "not been pushed.",
        },
    },
    "base",
    "set",
    "add",
    "group",
    "made_at",
    "lost",
)
_BATCH = closed(
    {
        "sent_at": nullable(MOMENT),
        "token": {
            "type": ["string", "null"],
            "description": "That of the last pull: where the server was restored since, the answer is 410.",
        },
        "mutations": array(ref("Mutation")) | {"maxItems": settings.SYNC_PUSH_MUTATIONS_MAX},
    },
    "sent_at",
    "token",
)
_REJECTION = closed(
    {
        "field": {"type": ["string", "null"], "description": "null: the mutation as a whole."},
        "code": {"enum": list(REJECTIONS)},
        "message": {"type": "string"},
    }
)


def _result() -> Schema:
    return closed(
        {
            "id": UUID,
            "status": {"enum": ["applied", "merged", "conflict", "rejected"]},
            "rev": nullable(REVISION),
            "conflict": nullable(UUID),
            "state": {
                "description": "Where fields were in dispute: whether that waits for a person, or whose values it has.",
                "enum": Conflict.State.values,
            },
            "errors": array(ref("Rejection")),
            "row": {
                "description": "The row as it is now, where the device may see it; null: it does not exist.",
                "anyOf": [*(ref(_row_name(entity)) for entity in entities().values()), {"type": "null"}],
            },
            "replayed": {"type": "boolean", "description": "The result of an earlier push of the same mutation."},
        },
        "rev",
        "conflict",
        "state",
        "errors",
        "row",
        "replayed",
    )


_OUTCOME = closed(
    {
        "mutation": UUID,
        "entity": {"type": "string"},
        "row": UUID,
        "outcome": {"enum": Outcome.Kind.values},
        "rev": nullable(REVISION) | {"description": "Of the row, with it; null: it is not there, or not the device's."},
        "by": {"type": "string", "description": "Who decided."},
        "comment": {"type": "string"},
        "at": MOMENT,
    }
)
_READINESS = closed(
    {
        "status": {"enum": ["ready", "not_ready"]},
        "checks": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"ok": {"type": "boolean"}},
                "required": ["ok"],
            },
        },
    }
)

# --- operations ---

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
