"""Pieces of the OpenAPI description that every endpoint shares."""

from functools import cache
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiYamlRenderer
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework import serializers

from syncserver.errors import MEDIA_TYPE, PROBLEMS, Problem

# Members that some problems have beside the usual ones, as their examples show them.
_EXTRA: dict[str, dict[str, Any]] = {
    "device_revoked": {"wipe": True},
    "token_expired": {"restored": True},
    "rate_limited": {"retry_after_seconds": 60},
    "service_unavailable": {"retry_after_seconds": 5},
    "unknown_field": {"field": "nickname"},
    "invalid_request": {"field": "name"},
}


REQUEST_ID = OpenApiParameter(
    "X-Request-ID",
    location=OpenApiParameter.HEADER,
    required=True,
    description="Names this request in the server's log; a client may send one of its own, of 8 to 64 characters.",
    response=True,
)
RETRY_AFTER = OpenApiParameter(
    "Retry-After",
    int,
    OpenApiParameter.HEADER,
    description="Seconds to wait before the next attempt.",
    response=[429, 503],
)
AUTHENTICATE = OpenApiParameter("WWW-Authenticate", location=OpenApiParameter.HEADER, enum=["Bearer"], response=[401])
SYNC_CLIENT = OpenApiParameter(
    "Sync-Client",
    location=OpenApiParameter.HEADER,
    description="`<sdk>/<version>; pending=<mutations in the outbox>; oldest=<when the oldest was made>`: shows "
    "administrators who lags and who is stuck. What cannot be read is left out.",
    examples=[OpenApiExample("a tablet", value="syncdevice-python/0.1.0; pending=12; oldest=2026-11-21T08:12:30Z")],
)
CONTENT_ENCODING = OpenApiParameter(
    "Content-Encoding",
    location=OpenApiParameter.HEADER,
    enum=["identity", "gzip", "zstd"],
    description="How the body is compressed: as one gzip member or one zstd frame. Limits count without compression.",
)
COMMON = (REQUEST_ID, RETRY_AFTER, AUTHENTICATE)


class ProblemSerializer(serializers.Serializer[dict[str, object]]):
    """RFC 9457. `code` is stable; a problem may have further members."""

    type = serializers.CharField(help_text="`urn:syncserver:problem:` and the code.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="What is wrong with this request, or what to do next.")
    code = serializers.ChoiceField(choices=[(code, entry.title) for code, entry in PROBLEMS.items()])


def problems(*codes: str) -> dict[tuple[int, str], OpenApiResponse]:
    """The responses of `extend_schema` for these codes of the catalogue (else KeyError), with an example of each.

    What every endpoint can answer (`internal_error`, `service_unavailable`) is added.
    """
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*codes, "internal_error", "service_unavailable")):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    return {(status, MEDIA_TYPE): _response(together) for status, together in sorted(by_status.items())}


def schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of a msgspec Struct whose members are not Structs themselves."""
    _, components = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    described: dict[str, Any] = components[kind.__name__]
    return described


def _response(codes: list[str]) -> OpenApiResponse:
    return OpenApiResponse(
        ProblemSerializer,
        description="; ".join(f"`{code}`: {PROBLEMS[code].title}" for code in codes),
        examples=[
            OpenApiExample(
                code,
                value=Problem(code, **_EXTRA.get(code, {})).as_dict(),
                media_type=MEDIA_TYPE,
                response_only=True,
                status_codes=[str(PROBLEMS[code].status)],
            )
            for code in codes
        ],
    )


@cache
def document() -> bytes:
    """The whole description as YAML: what `manage.py spectacular` writes into `openapi.yaml`."""
    described = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    written: bytes = OpenApiYamlRenderer().render(described, renderer_context={})  # type: ignore[no-untyped-call]
    return written


def openapi_yaml(_request: HttpRequest) -> HttpResponse:
    """`/openapi.yaml`. It is made once a process: making it costs half a second."""
    return HttpResponse(document(), content_type="application/vnd.oai.openapi")
