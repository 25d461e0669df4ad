"""The schemas of what devices send and get. Rows are described from the declarations, field by field."""

from typing import Any

from django.conf import settings

from sync.digest import BUCKETS
from sync.merge import CONFLICT_POLICIES
from sync.mismatch import ROWS_MAX
from sync.models import Conflict, Operation, Outcome
from sync.wire import INTEGER_SAFE_MAX, PROTOCOL, Entity, Field, entities
from syncserver.errors import REJECTIONS

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
        "Digest": closed({"count": {"type": "integer", "minimum": 0}, "digest": SHA256}),
        "Digests": closed({name: ref("Digest") for name in entities()}),
        "Buckets": _BUCKETS,
        "Bucket": _BUCKET,
        "Rows": closed({"changes": changes(), "has_more": {"type": "boolean"}}),
        "RowIds": closed({name: array(UUID) for name in entities()}, *entities())
        | {"description": f"At most {settings.SYNC_ROWS_IDS_MAX} ids in all."},
        "MismatchReport": _MISMATCH_REPORT,
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
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_BUCKETS = closed(
    {
        "entity": {"type": "string"},
        "buckets": array(SHA256) | {"minItems": BUCKETS, "maxItems": BUCKETS, "description": "In the order 00 to ff."},
    }
)
_BUCKET = closed(
    {
        "entity": {"type": "string"},
        "bucket": {"type": "string", "pattern": "^[0-9a-f]{2}$"},
        "rows": {
            "type": "object",
            "additionalProperties": REVISION,
            "description": "The revision of each row by its id, in byte order of id.",
        },
        "has_more": {"type": "boolean", "description": "Ask again with `after`, the last of these ids."},
    }
)
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 0}
_MISMATCHED_ROW = closed(
    {
        "id": UUID | {"pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
        "device": nullable(REVISION) | {"description": "The revision in the device's file; null: it was not there."},
        "server": nullable(REVISION) | {"description": "The revision that the server told; null: none."},
    },
    "device",
    "server",
)
_MISMATCH_REPORT = closed(
    {
        "entities": {
            "type": "object",
            "description": "By entity.",
            "additionalProperties": closed(
                {
                    "changed": _COUNT | {"description": "Rows that differed in their revision or their values."},
                    "missing": _COUNT | {"description": "Rows that were not in the device's file."},
                    "surplus": _COUNT | {"description": "Rows that should not have been there."},
                    "rows": array(_MISMATCHED_ROW) | {"maxItems": ROWS_MAX, "description": "The first of them."},
                },
                "changed",
                "missing",
                "surplus",
                "rows",
            ),
        },
        "repaired": {"type": "boolean", "description": "Whether the device now holds what it must."},
    }
)
