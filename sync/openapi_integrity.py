"""How OpenAPI describes the digests, rows by their ids, and the reports of mismatches."""

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from sync import openapi_examples as example
from sync.digest import BUCKETS
from sync.openapi_schemas import UUID, ref
from sync.wire import entities
from syncserver.openapi import COMMON, CONTENT_ENCODING, SYNC_CLIENT, problems

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
