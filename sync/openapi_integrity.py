"""How OpenAPI describes the digests, rows by their ids, and the reports of mismatches."""

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from sync import openapi_examples as example
from sync.digest import BUCKETS
from sync.mismatch import ROWS_MAX
from sync.openapi import REVISION, UUID, Schema, array, changes, closed, nullable, ref
from sync.wire import entities
from syncserver.openapi import COMMON, CONTENT_ENCODING, SYNC_CLIENT, problems

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


def add_components(result: Schema, generator: object, request: object, public: bool) -> Schema:  # noqa: ARG001
    """drf-spectacular's hook: the schemas that `ref` names."""
    schemas = result["components"]["schemas"] | _components()
    result["components"]["schemas"] = dict(sorted(schemas.items()))
    return result


def _components() -> dict[str, Schema]:
    return {
        "Digest": closed({"count": {"type": "integer", "minimum": 0}, "digest": SHA256}),
        "Digests": closed({name: ref("Digest") for name in entities()}),
        "Buckets": _BUCKETS,
        "Bucket": _BUCKET,
        "Rows": closed({"changes": changes(), "has_more": {"type": "boolean"}}),
        "RowIds": closed({name: array(UUID) for name in entities()}, *entities())
        | {"description": f"At most {settings.SYNC_ROWS_IDS_MAX} ids in all."},
        "MismatchReport": _MISMATCH_REPORT,
    }


_BODY_PROBLEMS = (
    "invalid_json",
    "invalid_request",
    "unknown_field",
    "invalid_encoding",
    "unauthorized",
    "device_revoked",
    "not_acceptable",
    "body_too_large",
    "unsupported_media_type",
    "unsupported_encoding",
)

digest_get = extend_schema(
    operation_id="sync_digest",
    summary="A digest of what the device must hold",
    description="Count and SHA-256 of each entity, over the lines `<id> <_rev>\\n` in byte order of id. Where they "
    "differ from the device's own: `entity` asks for the digests of its 256 buckets (a row's bucket is the first byte "
    "of the SHA-256 of its id), and `bucket` for the ids and revisions in one.",
    tags=["sync"],
    parameters=[
        OpenApiParameter("token", required=True, description="The token of the last pull."),
        OpenApiParameter("entity", description="The entity whose buckets are asked for."),
        OpenApiParameter(
            "bucket", {"type": "string", "pattern": "^[0-9a-f]{2}$"}, description="The bucket, a byte in hex."
        ),
        OpenApiParameter("after", UUID, description="In a bucket of more than a page: the last id of the page before."),
        SYNC_CLIENT,
        *COMMON,
    ],
    responses={
        200: OpenApiResponse(
            {"anyOf": [ref("Digests"), ref("Buckets"), ref("Bucket")]},
            description="The digests.",
            examples=[
                OpenApiExample("every entity", dict.fromkeys(entities(), example.DIGEST)),
                OpenApiExample("one entity", {"entity": "contact", "buckets": [example.DIGEST["digest"]] * BUCKETS}),
                OpenApiExample("one bucket", example.BUCKET),
            ],
        ),
        **problems(
            "invalid_request",
            "invalid_token",
            "too_many_scopes",
            "unauthorized",
            "device_revoked",
            "not_acceptable",
            "not_current",
            "token_expired",
        ),
    },
)

rows_post = extend_schema(
    operation_id="sync_rows",
    summary="Some rows as they are",
    description="Answered like a pull: an upsert for a row that the device may see, a delete for any other id. Where "
    "`has_more` is true, ask again for those that are neither.",
    tags=["sync"],
    parameters=[CONTENT_ENCODING, SYNC_CLIENT, *COMMON],
    request={"application/json": ref("RowIds")},
    examples=[OpenApiExample("two customers", {"customer": [example.CUSTOMER, example.GONE]}, request_only=True)],
    responses={
        200: OpenApiResponse(
            ref("Rows"), description="The rows.", examples=[OpenApiExample("one is there", example.ROWS)]
        ),
        **problems(*_BODY_PROBLEMS),
    },
)

mismatch_post = extend_schema(
    operation_id="sync_digest_mismatch",
    summary="Tell what a check found",
    description="For administrators, who see it in the admin and get an alert. A device may tell it "
    f"{settings.SYNC_MISMATCH_REPORTS_MAX} times a day.",
    tags=["sync"],
    parameters=[CONTENT_ENCODING, SYNC_CLIENT, *COMMON],
    request={"application/json": ref("MismatchReport")},
    examples=[OpenApiExample("two rows, repaired", example.MISMATCH, request_only=True)],
    responses={
        204: OpenApiResponse(description="It is kept."),
        **problems(*_BODY_PROBLEMS, "rate_limited"),
    },
)
